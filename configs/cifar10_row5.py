"""Row 5 of the article, BatchNorm: published test accuracy 92.76 %.

    python -m train.main --config configs/cifar10_row5.py --config.data.path=cifar-10-binary.tar.gz

Row 8's network (`configs/cifar10.py`). The recipe with its assumptions and deviation is that of row
2 (`configs/cifar10_row2.py`). Published train loss 0.006, accuracy 0.998.
"""

from configs import cifar10_row2
from googlenet_jax.config import Config, ModelConfig


def get_config() -> Config:
    """Row 2 with row 8's network."""
    config = cifar10_row2.get_config()
    config.model = ModelConfig()
    return config
