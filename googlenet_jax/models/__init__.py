"""The networks, and the one place that builds them from a config."""

import jax.numpy as jnp

from googlenet_jax.config import ModelConfig
from googlenet_jax.models.googlenet import GoogLeNet

__all__ = ["GoogLeNet", "create"]


def create(config: ModelConfig, in_channels: int, num_classes: int) -> GoogLeNet:
    """The network that `config` describes, for images and classes of the given counts."""
    return GoogLeNet(
        in_channels,
        num_classes,
        width_multiplier=config.width_multiplier,
        dropout_rate=config.dropout_rate,
        dtype=jnp.dtype(config.dtype),
        precision=config.matmul_precision,
    )
