"""GoogLeNet of Szegedy et al., "Going Deeper with Convolutions" (2014), and its variants.

From top to bottom as in the paper: Table 1, the Inception block, the auxiliary heads, the network.
The fields of `ModelConfig` choose between the paper's network and its variants. None of them has
the paper's local response normalisation: a convolution is followed by BatchNorm or by nothing. The
auxiliary heads are on inception4a and 4d, as in the paper, at every image size.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from googlenet_jax.config import ModelConfig
from googlenet_jax.errors import ConfigError
from googlenet_jax.models import ops
from googlenet_jax.models.layers import (
    Features,
    Images,
    Linear,
    MaxPool,
    Unit,
    call,
    fused_units,
    initialize,
    rematerialised,
    resize,
    scaled,
)

Logits = Float[Array, "batch classes"]


class Widths(NamedTuple):
    """The channels of an Inception block's convolutions: a row of the paper's Table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


CONV1, CONV2 = 64, 192
INCEPTION = {
    #             1x1  3x3r  3x3  5x5r  5x5  pool
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
AUX_CONV, AUX_HIDDEN = 128, 1024
AUX_SIDE = 4  # of a head's pooled image: 128 x 4 x 4 features, in the paper from 14x14 pixels


class Inception(nnx.Module):
    """Four branches on one input, concatenated: 1x1 | 1x1-3x3 | 1x1-5x5 | maxpool-1x1."""

    def __init__(
        self,
        in_channels: int,
        widths: Widths,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        self.remat = config.remat
        widths = Widths(*(scaled(width, config) for width in widths))
        # The third branch has a 5x5 in the paper, one 3x3 in torchvision, two in the PyTorch
        # CIFAR zoo.
        size = 5 if config.conv5x5 == "5x5" else 3
        two = config.conv5x5 == "two_3x3"

        self.conv1x1 = Unit(in_channels, widths.conv1x1, 1, config)

        self.reduce3x3 = Unit(in_channels, widths.reduce3x3, 1, config)
        self.conv3x3 = Unit(widths.reduce3x3, widths.conv3x3, 3, config)

        self.reduce5x5 = Unit(in_channels, widths.reduce5x5, 1, config)
        self.conv5x5 = Unit(widths.reduce5x5, widths.conv5x5, size, config)
        self.conv5x5_second = Unit(widths.conv5x5, widths.conv5x5, 3, config) if two else None

        self.pool = MaxPool(3, 1, padding=1)
        self.pool_proj = Unit(in_channels, widths.pool_proj, 1, config)

        self.out_channels = widths.conv1x1 + widths.conv3x3 + widths.conv5x5 + widths.pool_proj
        initialize(self, rngs)

    @rematerialised
    def __call__(self, x: Images, train: bool) -> Features:
        """The outputs of the four branches, side by side along the channels."""
        # Three branches begin with a 1x1 convolution of x. Computed as one, they are faster.
        with jax.named_scope("reduce"):
            conv1x1, reduced3x3, reduced5x5 = fused_units(
                [self.conv1x1, self.reduce3x3, self.reduce5x5], x, train
            )
        if train and self.reduce3x3.bn is not None:  # else it is cheap to compute again
            reduced3x3 = ops.stored(reduced3x3)
        conv5x5 = call(self, "conv5x5", reduced5x5, train)
        branches = [
            conv1x1,  # 1x1
            call(self, "conv3x3", reduced3x3, train),  # 1x1-3x3
            call(self, "conv5x5_second", conv5x5, train),  # 1x1-5x5
            call(self, "pool_proj", call(self, "pool", x), train),  # maxpool-1x1
        ]
        return ops.concatenate(branches)


class AuxiliaryPool(nnx.Module):
    """The average pooling of an auxiliary head: 5x5 with stride 3, or torchvision's to 4x4.

    The mean over a rectangle is the mean over its rows of the mean over its columns. So pooling
    is two matrix products: of the height with `means(height)`, of the width with `means(width)`.
    """

    def __init__(self, config: ModelConfig):
        self.adaptive = config.aux_pool == "adaptive"
        self.precision = config.matmul_precision

    def windows(self, size: int) -> list[tuple[int, int]]:
        """The (start, end) of each window along an axis of `size` pixels.

        Raises:
          ConfigError: The axis is shorter than a window.
        """
        if self.adaptive:  # PyTorch's AdaptiveAvgPool2d(4), whose windows may overlap
            return [
                (out * size // AUX_SIDE, math.ceil((out + 1) * size / AUX_SIDE))
                for out in range(AUX_SIDE)
            ]
        if size < 5:
            raise ConfigError(
                f"model.aux_heads=True: inception4a's {size}x{size} pixels are fewer than the "
                "5x5 of the heads' pooling; use larger images or model.aux_pool='adaptive'"
            )
        return [(start, start + 5) for start in range(0, size - 4, 3)]

    def means(self, size: int) -> Float[np.ndarray, "out_size size"]:
        """The matrix M whose product M x holds the mean of x in each window.

        A row has 1 / n at the n pixels of its window and 0 elsewhere.
        """
        windows = self.windows(size)
        matrix = np.zeros((len(windows), size))
        for row, (start, end) in zip(matrix, windows, strict=True):
            row[start:end] = 1 / (end - start)
        return matrix

    def __call__(self, x: Images) -> Features:
        """The mean of each window."""
        rows, columns = (jnp.asarray(self.means(size), x.dtype) for size in x.shape[1:3])
        return jnp.einsum("oh,bhwc,pw->bopc", rows, x, columns, precision=self.precision)


class AuxiliaryHead(nnx.Module):
    """A second classifier, on an inner block: its loss helps the blocks below to learn.

    Args:
      in_channels: Channels of the block.
      sides: Height and width of the block's output, in pixels.
      num_classes: Number of logits.
      config: The network's settings.
      rngs: As for `GoogLeNet`.
    """

    def __init__(
        self,
        in_channels: int,
        sides: list[int],
        num_classes: int,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        conv, hidden = scaled(AUX_CONV, config), scaled(AUX_HIDDEN, config)
        self.pool = AuxiliaryPool(config)
        self.conv = Unit(in_channels, conv, 1, config)
        pixels = math.prod(len(self.pool.windows(side)) for side in sides)
        self.fc1 = Linear(conv * pixels, hidden, config)
        self.dropout = nnx.Dropout(config.aux_dropout_rate)
        self.fc2 = Linear(hidden, num_classes, config)
        initialize(self, rngs)

    def __call__(self, x: Images, key: PRNGKeyArray | None) -> Logits:
        """The head's logits; heads run in training only."""
        x = self.conv(self.pool(x), True)
        x = jax.nn.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc2(self.dropout(x, deterministic=False, rngs=key))


class GoogLeNet(nnx.Module):
    """The network that `config` describes; its layers have the paper's names.

    Args:
      config: The network's settings.
      image_shape: (height, width, channels) of the images, before `config.image_size`.
      num_classes: Number of logits.
      rngs: Draws the initial weights. Without it they are zeros, to be filled by the caller.

    Raises:
      ConfigError: The images are too small for this network.
    """

    averaged = "inception5b"  # the layer whose outputs the classifier takes the mean of

    def __init__(
        self,
        config: ModelConfig,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        self.image_size = config.image_size
        height, width, channels = image_shape
        sides = [config.image_size or side for side in (height, width)]
        size, stride = (7, 2) if config.stem == "7x7" else (3, 1)
        single = config.stem == "single"  # the PyTorch CIFAR zoo's: 192 channels at once
        conv1, conv2 = scaled(CONV1, config), scaled(CONV2, config)

        self.conv1 = Unit(channels, conv2 if single else conv1, size, config, stride)
        sides = [math.ceil(side / stride) for side in sides]
        self.maxpool1, sides = _pool(1, sides, config)
        self.conv2_reduce = Unit(conv1, conv1, 1, config) if config.conv2_reduce else None
        self.conv2 = None if single else Unit(conv1, conv2, 3, config)
        self.maxpool2, sides = _pool(2, sides, config)
        self.inception3a = Inception(conv2, INCEPTION["3a"], config)
        self.inception3b = Inception(self.inception3a.out_channels, INCEPTION["3b"], config)
        self.maxpool3, sides = _pool(3, sides, config)
        self.inception4a = Inception(self.inception3b.out_channels, INCEPTION["4a"], config)
        self.aux1 = _head(self.inception4a, sides, num_classes, config)
        self.inception4b = Inception(self.inception4a.out_channels, INCEPTION["4b"], config)
        self.inception4c = Inception(self.inception4b.out_channels, INCEPTION["4c"], config)
        self.inception4d = Inception(self.inception4c.out_channels, INCEPTION["4d"], config)
        self.aux2 = _head(self.inception4d, sides, num_classes, config)
        self.inception4e = Inception(self.inception4d.out_channels, INCEPTION["4e"], config)
        self.maxpool4, _ = _pool(4, sides, config, config.pool4_window)
        self.inception5a = Inception(self.inception4e.out_channels, INCEPTION["5a"], config)
        self.inception5b = Inception(self.inception5a.out_channels, INCEPTION["5b"], config)
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.fc = Linear(self.inception5b.out_channels, num_classes, config)
        initialize(self, rngs)

    def __call__(
        self, x: Images, *, train: bool, key: PRNGKeyArray | None = None
    ) -> tuple[Logits, tuple[Logits, ...]]:
        """The logits, and in training also those of the auxiliary heads.

        Args:
          x: Normalised images, NHWC.
          train: Normalise by the batch's statistics, update the running ones, apply dropout.
          key: For dropout; needed in training.
        """
        aux_logits: list[Logits] = []
        x = resize(x, self.image_size)
        x = call(self, "conv1", x, train)
        x = call(self, "maxpool1", x)
        x = call(self, "conv2_reduce", x, train)
        x = call(self, "conv2", x, train)
        x = call(self, "maxpool2", x)
        x = call(self, "inception3a", x, train)
        x = call(self, "inception3b", x, train)
        x = call(self, "maxpool3", x)
        x = call(self, "inception4a", x, train)
        if train and self.aux1 is not None:
            aux_logits.append(call(self, "aux1", x, _fold_in(key, 1)))
        x = call(self, "inception4b", x, train)
        x = call(self, "inception4c", x, train)
        x = call(self, "inception4d", x, train)
        if train and self.aux2 is not None:
            aux_logits.append(call(self, "aux2", x, _fold_in(key, 2)))
        x = call(self, "inception4e", x, train)
        x = call(self, "maxpool4", x)
        x = call(self, "inception5a", x, train)
        x = call(self, "inception5b", x, train)
        x = x.mean(axis=(1, 2))
        x = self.dropout(x, deterministic=not train, rngs=key)
        return call(self, "fc", x), tuple(aux_logits)


def _pool(
    number: int, sides: list[int], config: ModelConfig, window: int = 3
) -> tuple[MaxPool | None, list[int]]:
    """The trunk's max pool of that number, and the sides of its output.

    Variants for small images leave out the first pools, or inception5b would see a single pixel.
    """
    if str(number) not in config.pools:
        return None, sides
    pool = MaxPool(window, 2, padding=1 if config.pool_padding == "one" else None)
    return pool, [pool.out_size(side) for side in sides]


def _head(
    block: Inception, sides: list[int], num_classes: int, config: ModelConfig
) -> AuxiliaryHead | None:
    if not config.aux_heads:
        return None
    return AuxiliaryHead(block.out_channels, sides, num_classes, config)


def _fold_in(key: PRNGKeyArray | None, number: int) -> PRNGKeyArray | None:
    return None if key is None else jax.random.fold_in(key, number)
