"""Row 3 of the article, a stem for small images: published test accuracy 91.18 %.

    python -m train.main --config configs/cifar10_row3.py --config.data.path=cifar-10-binary.tar.gz

A 3x3/1 stem, maxpool3 and maxpool4, no BatchNorm. The recipe with its assumptions and deviation is
that of row 2 (`configs/cifar10_row2.py`). Published train loss 0.023, accuracy 0.992.
"""

from configs import cifar10_row2
from googlenet_jax.config import Config, ModelConfig


def get_config() -> Config:
    """Row 2 with another network."""
    config = cifar10_row2.get_config()
    config.model = ModelConfig(batch_norm=False)
    return config
