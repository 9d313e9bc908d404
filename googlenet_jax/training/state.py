"""TrainState and its creation: the only place that splits and merges a Flax module.

Everywhere else parameters and statistics are plain nested dicts of arrays: they cost least at
each call of a compiled step, and any JAX code can read them.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from googlenet_jax import models
from googlenet_jax.config import Config
from googlenet_jax.data import DatasetInfo
from googlenet_jax.models.layers import draw_weights
from googlenet_jax.training import optimizer as optimizers
from googlenet_jax.training.metrics import Metrics
from googlenet_jax.training.optimizer import UpdateRule


class Keys(NamedTuple):
    """A key for each use of randomness: drawing more weights must not change another one.

    Attributes:
      init: of the weights.
      order: of the images in an epoch.
      step: of augmentation and dropout.
    """

    init: PRNGKeyArray
    order: PRNGKeyArray
    step: PRNGKeyArray

    @classmethod
    def of(cls, seed: int) -> Self:
        """The keys of a run."""
        return cls(*jax.random.split(jax.random.key(seed), 3))


class StepReport(NamedTuple):
    """What the last step saw: whether the run is still sound, and how far it moves.

    Attributes:
      loss: mean over the batch, auxiliary heads included.
      grad_norm: Euclidean norm of the gradient, over all parameters.
      param_norm: of the parameters, after the step.
      update_norm: of their change.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    param_norm: Float[Array, ""]
    update_norm: Float[Array, ""]

    @classmethod
    def empty(cls) -> Self:
        """Zeros, before the first step."""
        return cls(*jnp.zeros(len(cls._fields)))


@typing.no_type_check  # JAX also builds it of shapes and other stand-ins for arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run is made of, and all that a checkpoint holds.

    Attributes:
      step: optimizer steps taken.
      params: trainable parameters, by layer.
      batch_stats: BatchNorm's running mean and variance, by layer.
      opt_state: momentum and the schedule's count.
      metrics: sums over the current epoch's steps, in training mode.
      report: of the last step.
      graphdef: the network without its numbers; static.
      optimizer: the update rule; static.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    metrics: Metrics
    report: StepReport
    graphdef: nnx.GraphDef = dataclasses.field(metadata={"static": True})
    optimizer: UpdateRule = dataclasses.field(metadata={"static": True})

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def packed(self, platform: str) -> tuple[Self, "Packing"]:
        """The same state as a training program has it between its steps.

        Args:
          platform: for which the program is compiled.

        Returns:
          The packed state, and what packs trees like its own and unpacks it.
        """
        if platform == "tpu":  # where cutting parameters out of a vector costs more than it gains
            return self, TREES
        out_first = platform == "gpu"
        structure: Any = jax.tree.structure(self.params)
        params, unravel_params = _vector(self.params, out_first)
        batch_stats, unravel_stats = _vector(self.batch_stats, out_first)

        def is_like_params(node: PyTree) -> bool:
            return bool(jax.tree.structure(node) == structure)

        def pack(tree: PyTree) -> Array:
            return _vector(tree, out_first)[0]

        def unpack(state: Self) -> Self:
            return state.replace(
                params=unravel_params(state.params),
                batch_stats=unravel_stats(state.batch_stats),
                opt_state=jax.tree.map(
                    lambda leaf: unravel_params(leaf) if leaf.shape == params.shape else leaf,
                    state.opt_state,
                ),
            )

        opt_state = jax.tree.map(
            lambda node: pack(node) if is_like_params(node) else node,
            self.opt_state,
            is_leaf=is_like_params,
        )
        packed = self.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
        return packed, Packing(pack, unpack)

    def with_weights(self, step: int, params: PyTree, batch_stats: PyTree) -> Self:
        """A state with other weights, and an optimizer that starts afresh.

        Args:
          step: optimizer steps that made the weights.
          params: in the shape of `self.params`.
          batch_stats: likewise.
        """
        params, batch_stats = jax.tree.map(jnp.asarray, (params, batch_stats))
        metrics, report = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (self.metrics, self.report)
        )
        return self.replace(
            step=jnp.int32(step),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.optimizer(0.0, 0.0, 0.0).init(params),
            metrics=metrics,
            report=report,
        )

    def apply(
        self, params: PyTree, images: Float[Array, "batch height width channels"], **kwargs: Any
    ) -> tuple[Float[Array, "batch classes"], tuple[Float[Array, "batch classes"], ...], PyTree]:
        """Logits, auxiliary heads' logits and BatchNorm's statistics, of the network with `params`.

        Args:
          params: in the shape of `self.params`.
          images: normalised, NHWC.
          **kwargs: `train`, and in training `key`.
        """
        # Without copy=True, BatchNorm writes into what jax.grad traces and raises.
        model = nnx.merge(self.graphdef, params, self.batch_stats, copy=True)
        # That capturing nothing is Flax's way to say that what layers sow is not wanted.
        logits, aux_logits = nnx.capture(model)(images, **kwargs)
        return logits, aux_logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def infer(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch classes"], Bool[Array, "batch relus"]]:
        """Logits in inference mode, and whether each channel of each ReLU is above 0 anywhere.

        Args:
          images: normalised, NHWC.
        """
        model = nnx.merge(self.graphdef, self.params, self.batch_stats, copy=True)
        (logits, _), captured = nnx.capture(model, nnx.Intermediate)(images, train=False)
        relus = jax.tree.leaves(captured)
        return logits, jnp.concatenate([(x > 0).any(axis=(1, 2)) for x in relus], axis=1)


class Packing(NamedTuple):
    """How a state lies in vectors: one for all parameters, and one for each tree beside them.

    A network of this kind has some 230 parameters, most of them a few hundred numbers. As one
    vector they are updated, and their norms computed, by a few kernels in place of a thousand.

    Attributes:
      pack: makes a vector of a tree such as the parameters.
      unpack: makes of a packed state one with trees.
    """

    pack: Callable[[PyTree], PyTree]
    unpack: Callable[[TrainState], TrainState]


TREES = Packing(pack=lambda tree: tree, unpack=lambda state: state)
"""Of a state that lies in trees, as it does between the programs."""


def _vector(tree: PyTree, out_first: bool) -> tuple[Array, Callable[[Array], PyTree]]:
    """The numbers of a tree as one vector, and the function that makes such a tree of a vector.

    Args:
      tree: of arrays.
      out_first: let a kernel's output channels come first, as cuDNN reads and writes them.
    """

    def moved(tree: PyTree, start: int, end: int) -> PyTree:
        return jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf, start, end) if out_first and leaf.ndim == 4 else leaf,
            tree,
        )

    vector, unravel = ravel_pytree(moved(tree, 3, 0))
    return vector, lambda vector: moved(unravel(vector), 0, 3)


def create(
    key: PRNGKeyArray,
    build: Callable[[], nnx.Module],
    optimizer: UpdateRule,
    num_classes: int,
) -> TrainState:
    """A state at step 0, its parameters drawn from `key` by `layers.draw_weights`."""

    def numbers(key: PRNGKeyArray) -> tuple[Array, PyTree, PyTree, PyTree, Metrics, StepReport]:
        module = build()
        draw_weights(module, key)
        # Exhaustive on purpose: raises if a module holds anything else.
        _, params, batch_stats = nnx.split(module, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
        params = nnx.to_pure_dict(params)
        return (
            jnp.zeros((), jnp.int32),
            params,
            nnx.to_pure_dict(batch_stats),
            optimizer(0.0, 0.0, 0.0).init(params),
            Metrics.empty(num_classes),
            StepReport.empty(),
        )

    # Where the key lies, there the numbers lie.
    step, params, batch_stats, opt_state, metrics, report = jax.jit(numbers)(key)
    graphdef = nnx.graphdef(nnx.eval_shape(build))
    return TrainState(step, params, batch_stats, opt_state, metrics, report, graphdef, optimizer)


def initialize(key: PRNGKeyArray, config: Config, info: DatasetInfo) -> TrainState:
    """The state at step 0 of the network and the update rule that a config describes.

    Args:
      key: of the parameters.
      config: of the run.
      info: of its images and classes.
    """
    return create(
        key,
        lambda: models.create(config.model, info.image_shape, info.num_classes),
        optimizers.create(config.optimizer.name),
        info.num_classes,
    )
