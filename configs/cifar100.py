"""The article's best network and recipe (its row 8) on CIFAR-100, with the fine labels.

    python -m train.main --config configs/cifar100.py --config.data.path=cifar-100-binary.tar.gz

The article has no figure for it.
"""

from googlenet_jax.config import Config, DataConfig


def get_config() -> Config:
    """Another data set; all else is row 8's."""
    return Config(data=DataConfig(name="cifar100"))
