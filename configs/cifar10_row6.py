"""The article's row 6 on CIFAR-10, SGD in place of Adam: published test accuracy 88.81 %.

    python -m train.main --config configs/cifar10_row6.py --config.data.path=cifar-10-binary.tar.gz

Row 8's network (`configs/cifar10.py`); SGD 0.01, batch 256, 100 epochs. Published train loss
0.040, accuracy 0.987.

Assumptions, where the article is silent: momentum 0.9 and weight decay 5e-4 as in row 8; the
learning rate, which its author divided by 10 by hand near the end, is divided after 90 % of the
epochs. Deviation: an epoch leaves out its incomplete last batch (195 steps instead of 196).
"""

from googlenet_jax.config import Config, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Another learning rate and batch than row 8's."""
    return Config(
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="step", decay_at="0.9"),
        train=TrainConfig(batch_size=256),
    )
