"""Row 4 of the article, plain SGD without BatchNorm, which diverges at 1e-4.

    python -m train.main --config configs/cifar10_row4.py --config.data.path=cifar-10-binary.tar.gz

Row 3's network; SGD 1e-4, batch size 256, 100 epochs. The article gives no figures: training
diverges at 1e-4 and is poor at 1e-5 (`--config.optimizer.learning_rate=1e-5`). A run that diverges
ends with exit status 1 and names the step, the learning rate and the gradient's norm.

Assumptions where the article is silent: momentum 0.9 and weight decay 5e-4 as in row 8, and a
constant learning rate. Deviation: each epoch drops its incomplete last batch (195 steps instead of
196).
"""

from googlenet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Row 8 without BatchNorm, with another learning rate and batch size."""
    return Config(
        model=ModelConfig(batch_norm=False),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule="constant"),
        train=TrainConfig(batch_size=256),
    )
