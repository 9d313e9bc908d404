"""Row 2 of the article, the paper's stem: published test accuracy 88.42 %.

    python -m train.main --config configs/cifar10_row2.py --config.data.path=cifar-10-binary.tar.gz

A 7x7/2 stem and maxpool4 only, no BatchNorm, no auxiliary heads; Adam 1e-3, batch size 256, 100
epochs. Published train loss 0.019, accuracy 0.993.

Assumptions where the article is silent: Adam has PyTorch's defaults and no weight decay, and the
learning rate is divided by 10 after 90 % of the epochs (the author did so by hand near the end).
Deviation: each epoch drops its incomplete last batch (195 steps instead of 196).
"""

from googlenet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Row 8 with another stem, Adam and no BatchNorm."""
    return Config(
        model=ModelConfig(stem="7x7", pools="4", batch_norm=False),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=1e-3, weight_decay=0.0, schedule="step", decay_at="0.9"
        ),
        train=TrainConfig(batch_size=256),
    )
