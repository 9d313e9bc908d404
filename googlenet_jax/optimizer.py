"""Learning-rate schedules and the update rule, after the article's PyTorch code."""

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from googlenet_jax.config import OptimizerConfig


def create_schedule(
    config: OptimizerConfig, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """The learning rate as a function of the number of steps already taken.

    "cosine" is lr0 (1 + cos(pi t / T)) / 2 with t counted in whole epochs, or in steps where
    `schedule_per` says so. Warm-up multiplies it by a factor that rises in equal steps to 1.
    """
    unit = steps_per_epoch if config.schedule_per == "epoch" else 1
    warmup_steps = max(1, round(config.warmup_epochs * steps_per_epoch))

    def schedule(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        rate = jnp.full((), config.learning_rate, jnp.float32)
        if config.schedule == "cosine":
            progress = step // unit * unit / total_steps
            rate *= (1 + jnp.cos(jnp.pi * progress)) / 2
        return rate * jnp.minimum(1, (step + 1) / warmup_steps)

    return schedule


def create(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, in PyTorch's order.

    g = gradient + weight_decay p;  b = momentum b + g;  p = p - learning_rate b, for every
    parameter, biases and BatchNorm's included.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )
