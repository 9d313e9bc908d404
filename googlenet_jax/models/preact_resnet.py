"""Pre-activation ResNet for 32x32 images, in its bottleneck form.

He et al., "Identity Mappings in Deep Residual Networks" (2016). Depth 164 is the network that the
article compares GoogLeNet with.

As in the authors' own code, the first block of a stage shares its first BatchNorm and ReLU with
the shortcut, and has its stride in the first 1x1 convolution. Deviation from that code: the
initial weights of convolutions are uniform, with the variance of its normal ones, and the
classifier's are those of `layers.Linear`.
"""

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from googlenet_jax.config import ModelConfig
from googlenet_jax.models.layers import (
    Conv,
    Features,
    Images,
    Linear,
    call,
    create_batch_norm,
    initialize,
    norm_relu,
    rematerialised,
    resize,
    scaled,
)

STEM = 16
STAGES = {1: (64, 1), 2: (128, 2), 3: (256, 2)}  # channels, and the stride of the first block
BOTTLENECK = 4  # a block's output has this many times the channels of its 3x3 convolution


class Block(nnx.Module):
    """A bottleneck: BatchNorm-ReLU before each of 1x1, 3x3, 1x1, and the input added."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        self.remat = config.remat
        middle = scaled(out_channels // BOTTLENECK, config)
        out_channels = scaled(out_channels, config)
        self.bn1 = create_batch_norm(in_channels, config)
        self.conv1 = Conv(in_channels, middle, 1, config, stride)
        self.bn2 = create_batch_norm(middle, config)
        self.conv2 = Conv(middle, middle, 3, config)
        self.bn3 = create_batch_norm(middle, config)
        self.conv3 = Conv(middle, out_channels, 1, config)
        changes = (in_channels, 1) != (out_channels, stride)
        self.shortcut = Conv(in_channels, out_channels, 1, config, stride) if changes else None
        initialize(self, rngs)

    @rematerialised
    def __call__(self, x: Images, train: bool) -> Features:
        """The shortcut plus the three convolutions' output."""
        active = norm_relu(self, self.bn1, x, train)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        y = self.conv1(active)
        y = self.conv2(norm_relu(self, self.bn2, y, train))
        y = self.conv3(norm_relu(self, self.bn3, y, train))
        return shortcut + y


class PreActResNet(nnx.Module):
    """A 3x3 convolution, three stages of (depth - 2) / 9 bottlenecks, and a classifier.

    Args:
      config: The network's settings.
      image_shape: (height, width, channels) of the images.
      num_classes: Number of logits.
      rngs: Draws the initial weights. Without it they are zeros, to be filled by the caller.
    """

    averaged = "relu"  # the layer whose outputs the classifier takes the mean of

    def __init__(
        self,
        config: ModelConfig,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        self.image_size = config.image_size
        channels = scaled(STEM, config)
        self.conv1 = Conv(image_shape[2], channels, 3, config)
        self.blocks: tuple[str, ...] = ()  # their names, in order
        for stage, (out_channels, stride) in STAGES.items():
            for number in range(1, (config.depth - 2) // 9 + 1):
                name = f"block{stage}_{number}"
                block = Block(channels, out_channels, stride if number == 1 else 1, config)
                setattr(self, name, block)
                self.blocks += (name,)
                channels = scaled(out_channels, config)
        self.bn = create_batch_norm(channels, config)
        self.fc = Linear(channels, num_classes, config)
        initialize(self, rngs)

    def __call__(
        self, x: Images, *, train: bool, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "batch classes"], tuple[()]]:
        """The logits of normalised images, NHWC; there are no auxiliary heads and no dropout."""
        x = self.conv1(resize(x, self.image_size))
        for name in self.blocks:
            x = call(self, name, x, train)
        x = norm_relu(self, self.bn, x, train)
        return self.fc(x.mean(axis=(1, 2))), ()
