"""The networks, and `create`, which builds the one that a config describes.

- googlenet: GoogLeNet and its variants: Table 1, the Inception block, the auxiliary heads.
- preact_resnet: the pre-activation ResNet that the article compares it with.
- layers: what both are made of: convolution, BatchNorm and ReLU, pooling, the classifier.
- batch_norm: BatchNorm and ReLU as one function, with its own gradient.
- ops: convolution, max pooling and concatenation, with gradients that are fast on each backend.
- windows: the padding and the shifted views that `ops` is written with.
- layer_table: parameters, memory and operations of each layer.
"""

from flax import nnx

from googlenet_jax.config import ModelConfig
from googlenet_jax.models.googlenet import GoogLeNet
from googlenet_jax.models.preact_resnet import PreActResNet

__all__ = ["GoogLeNet", "PreActResNet", "create"]


def create(
    config: ModelConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    rngs: nnx.Rngs | None = None,
) -> GoogLeNet | PreActResNet:
    """Builds the network that `config` describes.

    Args:
      config: The network's settings.
      image_shape: (height, width, channels) of the images.
      num_classes: Number of logits.
      rngs: Draws the initial weights: `create(config, (32, 32, 3), 10, rngs=nnx.Rngs(0))`.
        Without it they are zeros, to be filled by the caller: with a checkpoint's weights, or as
        `training.state.create` does, inside its compiled program.

    Raises:
      ConfigError: The images are too small for the network.
    """
    network = PreActResNet if config.name == "preact_resnet" else GoogLeNet
    return network(config, image_shape, num_classes, rngs=rngs)
