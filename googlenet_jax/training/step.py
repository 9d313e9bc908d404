"""One step of training and one pass of evaluation: pure functions of (state, data).

The images come as uint8; augmentation and normalisation are inside the compiled programs, and
everything random follows from a key and the step's number, so a resumed run needs no saved key.
Where the whole data set lies on the device, the order of an epoch is inside as well, and many
steps are one program; otherwise a program takes one batch.
"""

import functools
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt8

from googlenet_jax import parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Arrays
from googlenet_jax.data.preprocess import Preprocess
from googlenet_jax.training.loss import cross_entropy, training_loss
from googlenet_jax.training.metrics import Evaluation, Metrics
from googlenet_jax.training.state import TREES, Packing, StepReport, TrainState

Images = Float[Array, "batch height width channels"]
Pixels = UInt8[Array, "batch ..."]  # an image, or a row


class Hyperparameters(NamedTuple):
    """The numbers of a recipe: arguments of the compiled programs, so others compile none anew.

    Attributes:
      learning_rates: of each step of the epoch.
      momentum: see `optimizer.sgd`.
      weight_decay: likewise.
      aux_loss_weight: see `loss.training_loss`.
      label_smoothing: likewise.
    """

    learning_rates: Float[Array | np.ndarray, " steps_per_epoch"]
    momentum: ArrayLike
    weight_decay: ArrayLike
    aux_loss_weight: ArrayLike
    label_smoothing: ArrayLike

    @classmethod
    def of(cls, config: Config, learning_rates: Float[np.ndarray, " steps_per_epoch"]) -> Self:
        """Those of a config, for an epoch with these learning rates."""
        update, loss = config.optimizer, config.train
        numbers = (
            *(update.momentum, update.weight_decay),
            *(loss.aux_loss_weight, loss.label_smoothing),
        )
        return cls(learning_rates, *(np.asarray(x, learning_rates.dtype) for x in numbers))


def train_step(
    state: TrainState,
    images: Images,
    labels: Int[Array, " batch"],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    packing: Packing = TREES,
) -> TrainState:
    """One update of parameters, statistics, momentum, metrics and report.

    Args:
      state: before the step, packed by `packing`.
      images: normalised, NHWC.
      labels: class indices.
      key: of dropout.
      hyperparameters: of the epoch that `state.step` is in.
      packing: see `TrainState.packed`.
    """
    rates, momentum, weight_decay, *of_loss = hyperparameters

    def mean_loss(params: PyTree) -> tuple[Array, tuple[Array, Array, PyTree]]:
        unpacked = packing.unpack(state.replace(params=params, opt_state=()))  # no need of it
        logits, aux_logits, batch_stats = unpacked.apply(
            unpacked.params, images, train=True, key=key
        )
        losses = training_loss(logits, aux_logits, labels, *of_loss)
        return losses.mean(), (losses, logits, packing.pack(batch_stats))

    gradient_of = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (losses, logits, batch_stats)), gradients = gradient_of(state.params)
    rule = state.optimizer(jnp.asarray(rates)[state.step % len(rates)], momentum, weight_decay)
    updates, opt_state = rule.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        metrics=state.metrics.merge(Metrics.of_batch(logits, labels, losses)),
        report=StepReport(loss, *map(optax.tree.norm, (gradients, params, updates))),
    )


def _is_sound(state: TrainState) -> Array:
    """Whether the last step was: a run ends behind one that was not, whose number is then known."""
    return jnp.isfinite(state.report.loss) & jnp.isfinite(state.report.grad_norm)


def _train_on(
    state: TrainState,
    packing: Packing,
    stored: Pixels,
    labels: Int[Array, " batch"],
    index: Int[Array, ""],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    preprocess: Preprocess,
    mesh: Mesh | None,
) -> TrainState:
    """The step on a batch of stored pixels that is the `index`-th of its epoch, from 0."""
    # Emptied by an epoch's first step, so that they outlast its end and a checkpoint there.
    kept = jax.tree.map(lambda total: jnp.where(index == 0, 0, total), state.metrics)
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    images, state = preprocess(augment_key, stored), state.replace(metrics=kept)
    state = train_step(state, images, labels, dropout_key, hyperparameters, packing)
    return parallel.whole(state, mesh)


@functools.partial(
    jax.jit,
    static_argnames=("batch_size", "preprocess", "mesh"),
    donate_argnames=("state",),
)
def train_steps(
    state: TrainState,
    data: Arrays,
    order: Int[Array, " examples"],
    num_steps: Int[Array, ""],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    *,
    batch_size: int,
    preprocess: Preprocess,
    mesh: Mesh | None = None,
) -> TrainState:
    """Takes `num_steps` steps of one epoch, or fewer: it ends behind the first unsound one.

    One program for any number of steps, one included, so that how a run is cut into calls
    changes no bit of it.

    Args:
      state: donated.
      data: the training images.
      order: of this epoch's examples; batch i is its i-th slice of `batch_size`.
      num_steps: not beyond the epoch's end.
      key: of the run; step s uses fold_in(key, s).
      hyperparameters: of the epoch.
      batch_size: images a step.
      preprocess: augmentation and normalisation.
      mesh: of the devices over which batches are split; None is one device.
    """
    steps_per_epoch = len(order) // batch_size
    end = state.step + num_steps

    def goes_on(state: TrainState) -> Array:
        return (state.step < end) & _is_sound(state)

    def body(state: TrainState) -> TrainState:
        index = state.step % steps_per_epoch
        chosen = lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
        chosen = parallel.split(chosen, mesh)
        images, labels = data.images[chosen], data.labels[chosen]
        return _train_on(
            state, packing, images, labels, index, key, hyperparameters, preprocess, mesh
        )

    packed, packing = state.packed(parallel.platform(mesh))
    return packing.unpack(lax.while_loop(goes_on, body, packed))


@functools.partial(
    jax.jit,
    static_argnames=("preprocess", "mesh"),
    donate_argnames=("state",),
)
def train_on_batch(
    state: TrainState,
    images: Pixels,
    labels: Int[Array, " batch"],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    *,
    preprocess: Preprocess,
    mesh: Mesh | None = None,
) -> TrainState:
    """Takes one step on a batch that came from elsewhere; none behind an unsound one.

    Args:
      state: donated.
      images: as they are stored, split over the devices of `mesh`.
      labels: class indices, likewise.
      key: of the run; step s uses fold_in(key, s).
      hyperparameters: of the epoch; as many learning rates as it has steps.
      preprocess: augmentation and normalisation.
      mesh: of the devices; None is one device.
    """

    def take(state: TrainState) -> TrainState:
        index = state.step % len(hyperparameters.learning_rates)
        return _train_on(
            state, packing, images, labels, index, key, hyperparameters, preprocess, mesh
        )

    packed, packing = state.packed(parallel.platform(mesh))
    return packing.unpack(lax.cond(_is_sound(state), take, lambda state: state, packed))


def eval_step(
    state: TrainState,
    images: Images,
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"] | None = None,
) -> Evaluation:
    """The evaluation of one batch in inference mode; examples with a false `mask` do not count.

    Args:
      state: of which the weights are used.
      images: normalised, NHWC.
      labels: class indices.
      mask: None: all count.
    """
    logits, active = state.infer(images)
    return Evaluation.of_inference(logits, labels, cross_entropy(logits, labels), active, mask)


@functools.partial(jax.jit, static_argnames=("batch_size", "preprocess", "mesh"))
def evaluate(
    state: TrainState,
    data: Arrays,
    *,
    batch_size: int,
    preprocess: Preprocess,
    mesh: Mesh | None = None,
) -> Evaluation:
    """The evaluation of every example of `data`, each counted once, in inference mode.

    Batches are split over the devices of `mesh`, and made larger if the devices do not divide
    them. The last one is filled up with repetitions that do not count.
    """
    size = len(data.labels)
    batch_size = parallel.divisible(min(batch_size, size), mesh)  # no memory for what is not there

    def evaluate_batch(index: Array) -> Evaluation:
        wanted = index * batch_size + jnp.arange(batch_size)
        chosen = parallel.split(jnp.minimum(wanted, size - 1), mesh)
        images = preprocess(None, data.images[chosen])
        return eval_step(state, images, data.labels[chosen], wanted < size)

    batches = lax.map(evaluate_batch, jnp.arange(-(-size // batch_size)))
    return parallel.whole(jax.tree.map(lambda each: each.sum(axis=0), batches), mesh)


@functools.partial(jax.jit, static_argnames=("preprocess", "mesh"))
def evaluate_on_batch(
    state: TrainState,
    images: Pixels,
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
    *,
    preprocess: Preprocess,
    mesh: Mesh | None = None,
) -> Evaluation:
    """The evaluation of the examples of a batch with a true `mask`, in inference mode."""
    return parallel.whole(eval_step(state, preprocess(None, images), labels, mask), mesh)
