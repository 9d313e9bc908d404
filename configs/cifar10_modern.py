"""Row 8's network (`configs/cifar10.py`) with today's recipe, for the best accuracy in 200 epochs.

    python -m train.main --config configs/cifar10_modern.py --config.data.path=PATH

`configs/cifar10_fast.py` trained for longer, with CutMix (Yun et al., 2019) in a random half of the
batches and mixup (Zhang et al., 2018) in the others. Not run at full width yet;
docs/recipes.md has runs at a small scale.
"""

from configs import cifar10_fast
from googlenet_jax.config import Config, DataConfig


def get_config() -> Config:
    """The fast recipe with mixed images, and ten times as long."""
    config = cifar10_fast.get_config()
    config.data = DataConfig(cutmix=1.0, mixup=0.2)
    config.train.epochs = 200
    return config
