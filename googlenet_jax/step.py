"""One step of training and one pass of evaluation: pure functions of (state, data).

The data set lies on the device as uint8; order, augmentation and normalisation are inside the
compiled program, and everything random follows from a key and the step's number. So a resumed
run needs no saved iterator and no saved key.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from googlenet_jax.data import Arrays
from googlenet_jax.loss import cross_entropy
from googlenet_jax.metrics import Metrics
from googlenet_jax.state import TrainState

Images = Float[Array, "batch height width channels"]
Preprocess = Callable[[PRNGKeyArray | None, Array], Array]
"""(key, uint8 images) -> normalised images; at evaluation the key is None."""


class StepReport(NamedTuple):
    """What the last step saw: enough to tell whether the run is still sound."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]


def train_step(
    state: TrainState, images: Images, labels: Int[Array, " batch"], key: PRNGKeyArray
) -> tuple[TrainState, StepReport]:
    """One update of parameters, statistics, momentum and metrics.

    Args:
      state: before the step.
      images: normalised, NHWC.
      labels: class indices.
      key: of dropout.
    """

    def mean_loss(params: dict) -> tuple[Array, tuple[Array, Array, dict]]:
        logits, batch_stats = state.apply(params, images, train=True, key=key)
        losses = cross_entropy(logits, labels)
        return losses.mean(), (losses, logits, batch_stats)

    gradient_of = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (losses, logits, batch_stats)), gradients = gradient_of(state.params)
    updates, opt_state = state.optimizer.update(gradients, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        metrics=state.metrics.merge(Metrics.of_batch(logits, labels, losses)),
    )
    return state, StepReport(loss, optax.tree.norm(gradients))


@functools.partial(
    jax.jit, static_argnames=("batch_size", "preprocess"), donate_argnames=("state",)
)
def train_steps(
    state: TrainState,
    data: Arrays,
    order: Int[Array, " examples"],
    num_steps: Int[Array, ""],
    key: PRNGKeyArray,
    *,
    batch_size: int,
    preprocess: Preprocess,
) -> tuple[TrainState, StepReport]:
    """Takes `num_steps` steps of one epoch, or fewer: it ends behind the first unsound one.

    One program for any number of steps, one included, so that how a run is cut into calls
    changes no bit of it.

    Args:
      state: donated.
      data: the training images.
      order: of this epoch's examples; batch i is its i-th slice of `batch_size`.
      num_steps: not beyond the epoch's end.
      key: of the run; step s uses fold_in(key, s).
      batch_size: images a step.
      preprocess: augmentation and normalisation.
    """
    steps_per_epoch = len(order) // batch_size
    end = state.step + num_steps

    def goes_on(carry: tuple[TrainState, StepReport]) -> Array:
        state, report = carry
        return (state.step < end) & jnp.isfinite(report.loss) & jnp.isfinite(report.grad_norm)

    def body(carry: tuple[TrainState, StepReport]) -> tuple[TrainState, StepReport]:
        state, _ = carry
        index = state.step % steps_per_epoch
        # Emptied by an epoch's first step, so that they outlast its end and a checkpoint there.
        kept = jax.tree.map(lambda total: jnp.where(index == 0, 0, total), state.metrics)
        chosen = lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        images = preprocess(augment_key, data.images[chosen])
        return train_step(state.replace(metrics=kept), images, data.labels[chosen], dropout_key)

    zero = jnp.zeros(())
    return lax.while_loop(goes_on, body, (state, StepReport(zero, zero)))


@functools.partial(jax.jit, static_argnames=("batch_size", "preprocess"))
def evaluate(
    state: TrainState, data: Arrays, *, batch_size: int, preprocess: Preprocess
) -> Metrics:
    """The metrics of every example of `data`, each counted once, in inference mode.

    The last batch is filled up with repetitions that do not count.
    """
    size = len(data.labels)

    def body(index: Array, metrics: Metrics) -> Metrics:
        wanted = index * batch_size + jnp.arange(batch_size)
        chosen = jnp.minimum(wanted, size - 1)
        labels = data.labels[chosen]
        logits, _ = state.apply(state.params, preprocess(None, data.images[chosen]), train=False)
        losses = cross_entropy(logits, labels)
        return metrics.merge(Metrics.of_batch(logits, labels, losses, wanted < size))

    num_batches = -(-size // batch_size)
    return lax.fori_loop(0, num_batches, body, jax.tree.map(jnp.zeros_like, state.metrics))
