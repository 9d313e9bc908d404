"""A demonstration that needs no download: scikit-learn's 1,797 handwritten digits, 8x8 pixels.

python -m train.main --config configs/digits.py
"""

from googlenet_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """A quarter of the width; zeros as padding and no mirror, which would make another digit."""
    return Config(
        model=ModelConfig(width_multiplier=0.25),
        data=DataConfig(name="digits", pad=1, pad_mode="zeros", flip=False),
        optimizer=OptimizerConfig(schedule_per="step", warmup_epochs=2.0),
        train=TrainConfig(batch_size=32, epochs=40),
    )
