"""Row 8's network (`configs/cifar10.py`) in 20 epochs, for a good accuracy in little time.

    python -m train.main --config configs/cifar10_fast.py --config.data.path=cifar-10-binary.tar.gz

The recipe differs from the article's by initial weights scaled over the fan-in, a one-cycle
schedule (Smith and Topin, "Super-Convergence", 2018), Nesterov's momentum, no weight decay on
biases and BatchNorm, no dropout, and bfloat16. Not run at full width yet;
docs/recipes.md has runs at a small scale.
"""

from googlenet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Row 8 with another recipe."""
    return Config(
        model=ModelConfig(init="fan_in", dropout_rate=0.0, dtype="bfloat16"),
        optimizer=OptimizerConfig(nesterov=True, decay_kernels_only=True, schedule="one_cycle"),
        train=TrainConfig(epochs=20),
    )
