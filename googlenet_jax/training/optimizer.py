"""Learning-rate schedules and update rules, which follow PyTorch's definitions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from googlenet_jax.config import OptimizerConfig


def create_schedule(
    config: OptimizerConfig, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """The learning rate as a function of t, the number of steps already taken.

    With lr0 = `learning_rate` and T = `total_steps`:

    - cosine: lr0 (1 + cos(pi t / T)) / 2
    - step: lr0, divided by 10 at each share of T in `decay_at`, such as 0.5,0.75
    - exponential: lr0 `decay_factor`^n, where n = floor(t / steps in `decay_epochs`)
    - linear: lr0 (1 - (t - w) / (T - w)), where w is the number of warm-up steps
    - one_cycle: PyTorch's OneCycleLR: from lr0 / 25 up to lr0 in the first 30 % of T and down to
      lr0 / 250,000, both on a cosine (Smith & Topin, "Super-Convergence", 2018)
    - constant: lr0

    With `schedule_per` = epoch, t is rounded down to whole epochs for cosine, step and linear.
    During the `warmup_epochs`, a linear warm-up multiplies the rate by (t + 1) / warm-up steps, a
    constant warm-up by 0.1.
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
        if config.schedule == "linear":
            rate *= 1 - jnp.maximum(0, done - warmup_steps) / max(1, total_steps - warmup_steps)
        if config.schedule == "one_cycle":
            # PyTorch counts T - 1 steps from the first rate to the last.
            one_cycle = optax.cosine_onecycle_schedule(max(2, total_steps - 1), 1.0)
            rate *= jnp.vectorize(one_cycle)(step)
        if config.schedule == "exponential":
            times_over = step // max(1, round(config.decay_epochs * steps_per_epoch))
            rate *= config.decay_factor ** times_over.astype(real)
        for boundary in decay_steps:
            rate = jnp.where(done >= boundary, rate / 10, rate)
        if config.warmup == "constant":
            return jnp.where(step < warmup_steps, rate / 10, rate)
        return rate * jnp.minimum(1, (step + 1).astype(real) / max(1, warmup_steps))

    return schedule


@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """The kind of an update. Its numbers, which may be traced, come with each call.

    With PyTorch's definitions: g = gradient + weight_decay p, then SGD with momentum or Adam on g.

    Attributes:
      name: "sgd" or "adam" (beta1 = momentum, beta2 = 0.999, epsilon = 1e-8).
      nesterov: Nesterov's momentum, for SGD.
      decay_kernels_only: No weight decay on biases and BatchNorm's scale.
      norm_bias_factor: Multiplies the updates of BatchNorm's biases.
      trunk: The names of the layers that `trunk_factor` is for.
      trunk_factor: Multiplies their updates; with 0 they stay as they are.
    """

    name: str
    nesterov: bool = False
    decay_kernels_only: bool = False
    norm_bias_factor: float = 1.0
    trunk: tuple[str, ...] = ()
    trunk_factor: float = 0.0

    def __call__(
        self, learning_rate: ArrayLike, momentum: ArrayLike, weight_decay: ArrayLike
    ) -> optax.GradientTransformation:
        """The Optax transformation; the structure of its state does not depend on the numbers."""

        def rate(count: Array) -> ArrayLike:
            return learning_rate

        if self.name == "sgd":
            rule = optax.sgd(rate, momentum, self.nesterov)
        else:
            rule = optax.adam(rate, momentum)
        is_kernel = self._mask(KERNEL) if self.decay_kernels_only else None
        rules = [optax.add_decayed_weights(weight_decay, is_kernel), rule]
        if self.norm_bias_factor != 1:
            factor = optax.scale(self.norm_bias_factor)
            rules.append(optax.masked(factor, self._mask(NORM_BIAS)))
        if self.trunk:
            rules.append(optax.masked(optax.scale(self.trunk_factor), self._mask(TRUNK)))
        return optax.chain(*rules)

    def without_frozen(self, params: PyTree) -> PyTree:
        """The parameters, with no gradient for those that stay as they are.

        So neither that gradient nor what only it needs is computed.
        """
        if not self.trunk or self.trunk_factor:
            return params
        return jax.tree.map(
            lambda leaf, is_frozen: lax.stop_gradient(leaf) if is_frozen else leaf,
            params,
            self._mask(TRUNK)(params),
        )

    def group(self, path: tuple[Any, ...]) -> str:
        """The name of the group of parameters that a parameter belongs to, by its path.

        The update of all parameters of a group is the same function, so that they can be packed
        together. A rule that treats all parameters alike has one group.
        """
        names = [getattr(key, "key", "") for key in path]
        if len(names) == 1:  # packed
            return names[0]
        kind = OTHER
        if self.decay_kernels_only or self.norm_bias_factor != 1:
            if names[-1] == "kernel":
                kind = KERNEL
            elif names[-1] == "bias" and names[-2].startswith("bn"):
                kind = NORM_BIAS
        return f"{TRUNK}.{kind}" if names[0] in self.trunk else kind

    def _mask(self, part: str) -> Callable[[PyTree], PyTree]:
        """Finds the parameters that have `part` in their group's name."""

        def mask(params: PyTree) -> PyTree:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: part in self.group(path).split("."), params
            )

        return mask


KERNEL, NORM_BIAS, OTHER, TRUNK = "kernel", "norm_bias", "other", "trunk"
sgd = UpdateRule("sgd")
adam = UpdateRule("adam")


def create(config: OptimizerConfig, trunk: tuple[str, ...] = ()) -> UpdateRule:
    """The update rule of a config.

    Args:
      config: The settings.
      trunk: The names of the layers up to `config.trunk`.
    """
    return UpdateRule(
        *(config.name, config.nesterov, config.decay_kernels_only, config.norm_bias_factor),
        *(trunk, config.trunk_factor),
    )
