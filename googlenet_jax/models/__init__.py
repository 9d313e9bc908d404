"""The networks, and the one place that builds them from a config."""

from googlenet_jax.config import ModelConfig
from googlenet_jax.models.googlenet import GoogLeNet
from googlenet_jax.models.preact_resnet import PreActResNet

__all__ = ["GoogLeNet", "PreActResNet", "create"]


def create(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int
) -> GoogLeNet | PreActResNet:
    """The network that `config` describes, for images and classes of the given counts.

    Args:
      config: of the network.
      image_shape: (height, width, channels) of the images.
      num_classes: of the logits.

    Raises:
      ConfigError: the images are too small for it.
    """
    if config.name == "preact_resnet":
        return PreActResNet(config, image_shape, num_classes)
    return GoogLeNet(config, image_shape, num_classes)
