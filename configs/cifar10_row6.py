"""Row 6 of the article, SGD instead of Adam: published test accuracy 88.81 %.

    python -m train.main --config configs/cifar10_row6.py --config.data.path=cifar-10-binary.tar.gz

Row 8's network (`configs/cifar10.py`); SGD 0.01, batch size 256, 100 epochs. Published train loss
0.040, accuracy 0.987.

Assumptions where the article is silent: momentum 0.9 and weight decay 5e-4 as in row 8, and the
learning rate is divided by 10 after 90 % of the epochs (the author did so by hand near the end).
Deviation: each epoch drops its incomplete last batch (195 steps instead of 196).
"""

from googlenet_jax.config import Config, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Row 8 with another learning rate, schedule and batch size."""
    return Config(
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="step", decay_at="0.9"),
        train=TrainConfig(batch_size=256),
    )
