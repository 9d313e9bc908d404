"""A recipe with every ingredient, to test all of them at once."""

from googlenet_jax.config import Config, check_name

INGREDIENTS = {
    "optimizer.nesterov": True,
    "optimizer.decay_kernels_only": True,
    "optimizer.norm_bias_factor": 2.0,
    "optimizer.trunk": "block1_1",
    "optimizer.trunk_stats": "frozen",
    "optimizer.schedule": "linear",
    "optimizer.schedule_per": "step",
    "train.accumulate": 2,
    "train.ema_decay": 0.9,
    "train.label_smoothing": 0.1,
    "train.class_weights": "balanced",
    "data.sampling": "balanced",
    "data.flip": True,
    "data.alternate_flip": True,
    "data.cutout": 2,
    "data.mixup": 0.5,
    "data.cutmix": 1.0,
}
ARGUMENTS = [f"--config.{name}={value}" for name, value in INGREDIENTS.items()]


def add_ingredients(config: Config) -> None:
    for name, value in INGREDIENTS.items():
        group, _, field = check_name(name).partition(".")
        setattr(getattr(config, group), field, value)
    config.validate()
