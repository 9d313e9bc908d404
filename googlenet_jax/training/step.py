"""Training and evaluation steps: pure functions of a state and data.

Images arrive as uint8; augmentation and normalisation are part of the compiled programs. All
randomness follows from a key and the step number, so a resumed run needs no saved key. Where the
whole data set lies on the devices, one program takes many steps (`train_steps`); otherwise each
call takes one batch (`train_on_batch`).
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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from googlenet_jax import parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Arrays, augment
from googlenet_jax.data.preprocess import Batch, ForEvaluation, ForTraining, Pixels
from googlenet_jax.training.accumulation import in_parts
from googlenet_jax.training.loss import ClassWeights, cross_entropy, training_loss
from googlenet_jax.training.metrics import Evaluation, Metrics
from googlenet_jax.training.state import Averaged, StepReport, TrainState, Weights

Images = Float[Array, "batch height width channels"]


class Hyperparameters(NamedTuple):
    """The numbers of a recipe: arguments of the compiled programs, so changing them is free.

    Attributes:
      learning_rates: One for each step of the epoch.
      momentum: See `optimizer.sgd`.
      weight_decay: See `optimizer.sgd`.
      aux_loss_weight: See `loss.training_loss`.
      label_smoothing: See `loss.cross_entropy`.
      ema_decay: See `moving_average`.
      class_weights: See `loss.cross_entropy`.
    """

    learning_rates: Float[Array | np.ndarray, " steps_per_epoch"]
    momentum: ArrayLike
    weight_decay: ArrayLike
    aux_loss_weight: ArrayLike
    label_smoothing: ArrayLike
    ema_decay: ArrayLike = 0.0
    class_weights: ClassWeights | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        learning_rates: Float[np.ndarray, " steps_per_epoch"],
        class_weights: Float[np.ndarray, " classes"] | None = None,
    ) -> Self:
        """The numbers of a config, for an epoch with these learning rates."""
        update, loss = config.optimizer, config.train
        numbers = (
            *(update.momentum, update.weight_decay),
            *(loss.aux_loss_weight, loss.label_smoothing, loss.ema_decay),
        )
        weights = None if class_weights is None else class_weights.astype(learning_rates.dtype)
        rest = (np.asarray(x, learning_rates.dtype) for x in numbers)
        return cls(learning_rates, *rest)._replace(class_weights=weights)


def moving_average(
    average: Weights, weights: Weights, step: ArrayLike, decay: ArrayLike
) -> Weights:
    """The exponential moving average after one more step.

    In the first steps the decay is (1 + step) / (10 + step), so that the initial weights are soon
    forgotten; that is TensorFlow's `ExponentialMovingAverage`. BatchNorm's running statistics are
    averaged like the parameters.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), average, weights)


def train_step(
    state: TrainState,
    images: Images,
    labels: Int[Array, " batch"],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    targets: Float[Array, "batch classes"] | None = None,
    parts: int = 1,
) -> TrainState:
    """Takes one optimizer step on one batch.

    Args:
      state: May be packed, see `TrainState.packed`.
      images: Normalised, NHWC.
      labels: Class indices.
      key: For dropout.
      hyperparameters: Of the epoch that `state.step` belongs to.
      targets: The probability of each class, where images are mixed; the loss takes them in
        place of the labels, the metrics do not.
      parts: See `accumulation.in_parts`.

    Returns:
      The state with new parameters, BatchNorm statistics, momentum, metrics and report.
    """
    rates, momentum, weight_decay, aux_weight, smoothing, ema_decay, class_weights = hyperparameters
    if class_weights is not None and targets is None:
        # As in PyTorch's mean over a batch; here, so that it is the whole batch's if it has parts.
        class_weights = class_weights / jnp.asarray(class_weights)[labels].mean()

    def mean_loss(
        params: PyTree, images: Images, wanted: Array, key: PRNGKeyArray
    ) -> tuple[Array, tuple[Array, Array, PyTree]]:
        learning = state.optimizer.without_frozen(params)
        trees = state.replace(params=learning, opt_state=()).unpacked()
        logits, aux_logits, batch_stats = trees.apply(trees.params, images, train=True, key=key)
        losses = training_loss(logits, aux_logits, wanted, aux_weight, smoothing, class_weights)
        return losses.mean(), (losses, logits, state.packing.pack(batch_stats))

    gradient_of = jax.value_and_grad(mean_loss, has_aux=True)
    if parts > 1:
        gradient_of = in_parts(gradient_of, parts, state.batch_stats)
    (loss, (losses, logits, batch_stats)), gradients = gradient_of(
        state.params, images, labels if targets is None else targets, key
    )
    learning_rate = jnp.asarray(rates)[state.step % len(rates)]
    rule = state.optimizer(learning_rate, momentum, weight_decay)
    average = state.average
    rule_state = state.opt_state if average is None else state.opt_state.rule
    updates, opt_state = rule.update(gradients, rule_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if average is not None:
        weights = Weights(params, batch_stats)
        average = moving_average(average, weights, state.step, ema_decay)
        opt_state = Averaged(opt_state, average)
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        metrics=state.metrics.merge(Metrics.of_batch(logits, labels, losses)),
        report=StepReport(loss, *map(_norm, (gradients, params, updates))),
    )


def _norm(tree: PyTree) -> Array:
    """The Euclidean norm of all numbers in a tree.

    The squares of equally long vectors are added before they are summed up. On a TPU, where the
    state stays in trees, XLA then updates the biases of a length, and BatchNorm's scales, together:
    0.4 M cycles less of 36 M. Kernels stay apart, since each is updated by the operation that
    computes its gradient.
    """
    sums = []
    vectors: dict[int, Array] = {}
    for leaf in jax.tree.leaves(tree):
        squares = leaf * leaf
        if leaf.ndim == 1:
            vectors[leaf.size] = vectors.get(leaf.size, 0) + squares
        else:
            sums.append(squares.sum())
    return jnp.sqrt(sum(sums) + sum(squares.sum() for squares in vectors.values()))


def _is_finite(state: TrainState) -> Array:
    """Whether the last step's loss and gradient were finite."""
    return jnp.isfinite(state.report.loss) & jnp.isfinite(state.report.grad_norm)


def _train_on(
    state: TrainState,
    batch: Batch,
    index: Int[Array, ""],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    preprocess: ForTraining,
    parts: int,
) -> TrainState:
    """Augments and normalises the `index`-th batch of an epoch, then takes one step on it."""
    # Cleared in an epoch's first step, not after its last: the loop reads them in between.
    metrics = jax.tree.map(lambda total: jnp.where(index == 0, 0, total), state.metrics)
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    images, targets = preprocess(augment_key, batch)
    state = state.replace(metrics=metrics)
    return train_step(state, images, batch.labels, dropout_key, hyperparameters, targets, parts)


@functools.partial(
    jax.jit,
    static_argnames=("batch_size", "preprocess", "mesh", "parts"),
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
    preprocess: ForTraining,
    mesh: Mesh | None = None,
    parts: int = 1,
) -> TrainState:
    """Takes up to `num_steps` steps of one epoch, on a data set that lies on the devices.

    It stops early after a step whose loss or gradient is not finite. One program serves any
    number of steps, including one, so splitting a run into calls changes no bit of the result.

    Args:
      state: Donated.
      data: The training images.
      order: The epoch's permutation of the examples; batch i is its i-th slice of `batch_size`.
      num_steps: At most to the end of the epoch.
      key: The run's key; step s uses fold_in(key, s).
      hyperparameters: The epoch's.
      batch_size: Images per step, over all devices.
      preprocess: Augments, mixes and normalises.
      mesh: The devices that batches are split over; None for one device.
      parts: See `accumulation.in_parts`.
    """
    steps_per_epoch = len(order) // batch_size
    end = state.step + num_steps

    def goes_on(state: TrainState) -> Array:
        return (state.step < end) & _is_finite(state)

    def body(state: TrainState) -> TrainState:
        index = state.step % steps_per_epoch
        chosen = lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
        chosen = parallel.split(chosen, mesh)
        mirrored = augment.alternating(key, chosen, state.step // steps_per_epoch)
        batch = Batch(data.images[chosen], data.labels[chosen], mirrored)
        state = _train_on(state, batch, index, key, hyperparameters, preprocess, parts)
        return parallel.whole(state, mesh)

    packed = state.packed(parallel.platform(mesh))
    return lax.while_loop(goes_on, body, packed).unpacked()


@functools.partial(
    jax.jit,
    static_argnames=("preprocess", "mesh", "parts"),
    donate_argnames=("state",),
)
def train_on_batch(
    state: TrainState,
    pixels: Pixels,
    labels: Int[Array, " batch"],
    key: PRNGKeyArray,
    hyperparameters: Hyperparameters,
    *,
    preprocess: ForTraining,
    mesh: Mesh | None = None,
    parts: int = 1,
) -> TrainState:
    """Takes one step on a batch from the host; none if the step before was not finite.

    Args:
      state: Donated.
      pixels: Images as they are stored, split over the devices of `mesh`.
      labels: Class indices, split in the same way.
      key: The run's key; step s uses fold_in(key, s).
      hyperparameters: The epoch's.
      preprocess: Augments, mixes and normalises.
      mesh: The devices; None for one device.
      parts: See `accumulation.in_parts`.
    """

    def take(state: TrainState) -> TrainState:
        index = state.step % len(hyperparameters.learning_rates)
        batch = Batch(pixels, labels)
        state = _train_on(state, batch, index, key, hyperparameters, preprocess, parts)
        return parallel.whole(state, mesh)

    packed = state.packed(parallel.platform(mesh))
    return lax.cond(_is_finite(state), take, lambda state: state, packed).unpacked()


def eval_step(
    state: TrainState,
    images: Images,
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"] | None = None,
    tta: str = "none",
) -> Evaluation:
    """Evaluates one batch in inference mode.

    Args:
      state: Its parameters and BatchNorm statistics are used.
      images: Normalised, NHWC.
      labels: Class indices.
      mask: False for examples that do not count; None if all count.
      tta: Test-time augmentation, see `augment.views`.
    """
    logits, active = state.infer(images)
    (weight, _), *others = augment.views(images, tta)  # the images themselves come first
    if others:
        logits = sum((share * state.logits(view) for share, view in others), weight * logits)
    return Evaluation.of_inference(logits, labels, cross_entropy(logits, labels), active, mask)


@functools.partial(jax.jit, static_argnames=("batch_size", "preprocess", "mesh", "tta"))
def evaluate(
    state: TrainState,
    data: Arrays,
    *,
    batch_size: int,
    preprocess: ForEvaluation,
    mesh: Mesh | None = None,
    tta: str = "none",
) -> Evaluation:
    """Evaluates every example of `data` once, in inference mode.

    Batches are split over the devices of `mesh`; their size is rounded up to a multiple of the
    number of devices. The last batch is padded with examples that do not count.
    """
    size = len(data.labels)
    batch_size = parallel.divisible(min(batch_size, size), mesh)  # small sets need less memory

    def evaluate_batch(index: Array) -> Evaluation:
        wanted = index * batch_size + jnp.arange(batch_size)
        chosen = parallel.split(jnp.minimum(wanted, size - 1), mesh)
        images = preprocess(data.images[chosen])
        return eval_step(state, images, data.labels[chosen], wanted < size, tta)

    batches = lax.map(evaluate_batch, jnp.arange(-(-size // batch_size)))
    return parallel.whole(jax.tree.map(lambda each: each.sum(axis=0), batches), mesh)


@functools.partial(jax.jit, static_argnames=("preprocess", "mesh", "tta"))
def evaluate_on_batch(
    state: TrainState,
    pixels: Pixels,
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"],
    *,
    preprocess: ForEvaluation,
    mesh: Mesh | None = None,
    tta: str = "none",
) -> Evaluation:
    """Evaluates the examples of a batch whose `mask` is true, in inference mode."""
    return parallel.whole(eval_step(state, preprocess(pixels), labels, mask, tta), mesh)
