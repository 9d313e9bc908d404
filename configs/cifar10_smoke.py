"""Row 8's recipe (`configs/cifar10.py`) made small enough for a laptop without an accelerator.

    python -m train.main --config configs/cifar10_smoke.py --config.data.path=cifar-10-binary.tar.gz

A quarter of the width, images averaged down to 16x16, padding of 2 in proportion, 10 epochs.
"""

from googlenet_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """What is scaled down, and nothing else."""
    return Config(
        model=ModelConfig(width_multiplier=0.25),
        data=DataConfig(downscale=2, pad=2),
        train=TrainConfig(epochs=10),
    )
