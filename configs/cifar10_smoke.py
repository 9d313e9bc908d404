"""Row 8 of the article (`configs/cifar10.py`), made small for a laptop without an accelerator.

    python -m train.main --config configs/cifar10_smoke.py --config.data.path=cifar-10-binary.tar.gz

A quarter of the width, images averaged down to 16x16, padding of 2 pixels in proportion, 10 epochs.
With 15 epochs it reached 79.33 % on a JPEG copy of CIFAR-10, in 2 h 28 min on two CPU cores
(docs/results.md).
"""

from googlenet_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Row 8 with a smaller network, smaller images and fewer epochs."""
    return Config(
        model=ModelConfig(width_multiplier=0.25),
        data=DataConfig(downscale=2, pad=2),
        train=TrainConfig(epochs=10),
    )
