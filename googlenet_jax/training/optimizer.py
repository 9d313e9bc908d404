"""Learning-rate schedules and the update rule, after the article's PyTorch code."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from googlenet_jax.config import OptimizerConfig


def create_schedule(
    config: OptimizerConfig, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """The learning rate as a function of the number of steps already taken.

    "cosine" is lr0 (1 + cos(pi t / T)) / 2 and "step" lr0 / 10^n, n being the number of shares
    `decay_at` of T that are over; t is counted in whole epochs, or in steps where
    `schedule_per` says so. "exponential" is lr0 f^n after n times `decay_epochs`, f being
    `decay_factor`. A linear warm-up multiplies that by a factor that rises in equal
    steps to 1, a constant one by 0.1.
    """
    unit = steps_per_epoch if config.schedule_per == "epoch" else 1
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay_steps = [
        round(float(share) * total_steps) for share in config.decay_at.split(",") if share
    ]

    def schedule(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        real = jnp.result_type(float)  # float32, or a test's float64
        done = (step // unit * unit).astype(real)
        rate = jnp.full((), config.learning_rate, real)
        if config.schedule == "cosine":
            rate *= (1 + jnp.cos(jnp.pi * (done / total_steps))) / 2
        if config.schedule == "exponential":
            times_over = step // max(1, round(config.decay_epochs * steps_per_epoch))
            rate *= config.decay_factor ** times_over.astype(real)
        for boundary in decay_steps:
            rate = jnp.where(done >= boundary, rate / 10, rate)
        if config.warmup == "constant":
            return jnp.where(step < warmup_steps, rate / 10, rate)
        return rate * jnp.minimum(1, (step + 1).astype(real) / max(1, warmup_steps))

    return schedule


UpdateRule = Callable[[ArrayLike, ArrayLike, ArrayLike], optax.GradientTransformation]
"""(learning rate, momentum, weight decay) -> the transformation of a step's gradients.

The numbers may be traced, and the structure of its state is the same whatever they are.
"""


def create(name: str) -> UpdateRule:
    """The update rule of `OptimizerConfig.name`."""
    return {"sgd": sgd, "adam": adam}[name]


def sgd(
    learning_rate: ArrayLike, momentum: ArrayLike, weight_decay: ArrayLike
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, in PyTorch's order.

    g = gradient + weight_decay p;  b = momentum b + g;  p = p - learning_rate b, for every
    parameter, biases and BatchNorm's included.
    """
    rule = optax.sgd(lambda count: learning_rate, momentum)
    return optax.chain(optax.add_decayed_weights(weight_decay), rule)


def adam(
    learning_rate: ArrayLike, momentum: ArrayLike, weight_decay: ArrayLike
) -> optax.GradientTransformation:
    """Adam on SGD's g, with PyTorch's beta2 of 0.999 and epsilon of 1e-8: Optax's as well."""
    rule = optax.adam(lambda count: learning_rate, momentum)
    return optax.chain(optax.add_decayed_weights(weight_decay), rule)
