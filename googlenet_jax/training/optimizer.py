"""Learning-rate schedules and update rules, which follow PyTorch's definitions."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from googlenet_jax.config import OptimizerConfig


def create_schedule(
    config: OptimizerConfig, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """The learning rate as a function of t, the number of steps already taken.

    With lr0 = `learning_rate` and T = `total_steps`:

    - cosine: lr0 (1 + cos(pi t / T)) / 2
    - step: lr0 / 10^n, where n of the shares in `decay_at` are at most t / T
    - exponential: lr0 `decay_factor`^n, where n = floor(t / steps in `decay_epochs`)
    - constant: lr0

    With `schedule_per` = epoch, t is rounded down to whole epochs for cosine and step. During the
    `warmup_epochs`, a linear warm-up multiplies the rate by (t + 1) / warm-up steps, a constant
    warm-up by 0.1.
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
"""(learning rate, momentum, weight decay) -> an Optax transformation of one step's gradients.

The numbers may be traced; the structure of the optimizer's state does not depend on them.
"""


def create(name: str) -> UpdateRule:
    """The update rule with the name that `OptimizerConfig.name` has."""
    return {"sgd": sgd, "adam": adam}[name]


def sgd(
    learning_rate: ArrayLike, momentum: ArrayLike, weight_decay: ArrayLike
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, in PyTorch's order.

    g = gradient + weight_decay p;  b = momentum b + g;  p = p - learning_rate b. Weight decay
    applies to every parameter, including biases and BatchNorm's scale and bias.
    """
    rule = optax.sgd(lambda count: learning_rate, momentum)
    return optax.chain(optax.add_decayed_weights(weight_decay), rule)


def adam(
    learning_rate: ArrayLike, momentum: ArrayLike, weight_decay: ArrayLike
) -> optax.GradientTransformation:
    """Adam on g = gradient + weight_decay p, with beta1 = momentum, beta2 = 0.999, eps = 1e-8."""
    rule = optax.adam(lambda count: learning_rate, momentum)
    return optax.chain(optax.add_decayed_weights(weight_decay), rule)
