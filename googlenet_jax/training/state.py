"""TrainState and its creation: the only place that splits and merges a Flax module.

Everywhere else, parameters and statistics are plain nested dicts of arrays, which any JAX code can
read and which add the least overhead to each call of a compiled step.
"""

import dataclasses
import functools
import itertools
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from googlenet_jax import models
from googlenet_jax.config import Config, ModelConfig
from googlenet_jax.data import DatasetInfo, augment
from googlenet_jax.errors import ConfigError
from googlenet_jax.models.layer_table import layer_table
from googlenet_jax.models.layers import draw_weights
from googlenet_jax.training import optimizer as optimizers
from googlenet_jax.training.metrics import Metrics
from googlenet_jax.training.optimizer import UpdateRule


class Keys(NamedTuple):
    """A key for each use of randomness, so that a change in one leaves the others alone.

    Attributes:
      init: For the initial weights.
      order: For the order of the images in each epoch.
      step: For augmentation and dropout.
    """

    init: PRNGKeyArray
    order: PRNGKeyArray
    step: PRNGKeyArray

    @classmethod
    def of(cls, seed: int) -> Self:
        """The keys of a run."""
        return cls(*jax.random.split(jax.random.key(seed), 3))


class StepReport(NamedTuple):
    """What the last step measured.

    Attributes:
      loss: Mean over the batch, including the auxiliary heads.
      grad_norm: Euclidean norm of the gradient, over all parameters.
      param_norm: Euclidean norm of the parameters after the step.
      update_norm: Euclidean norm of their change.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    param_norm: Float[Array, ""]
    update_norm: Float[Array, ""]

    @classmethod
    def empty(cls) -> Self:
        """Zeros, before the first step."""
        return cls(*jnp.zeros(len(cls._fields)))


class Packing(NamedTuple):
    """How the trees of a state are packed.

    Attributes:
      pack: Makes a vector from a tree such as the parameters.
      unpack: Makes a state with trees from a packed one.
    """

    pack: Callable[[PyTree], PyTree]
    unpack: Callable[[Any], Any]


TREES = Packing(pack=lambda tree: tree, unpack=lambda state: state)
"""The packing of a state that is not packed."""


class Weights(NamedTuple):
    """Everything that inference needs.

    Attributes:
      params: Trainable parameters, by layer.
      batch_stats: BatchNorm's running mean and variance, by layer.
    """

    params: PyTree
    batch_stats: PyTree


class Averaged(NamedTuple):
    """The optimizer's state where a moving average of the weights is kept.

    A run without an average has Optax's state alone, so its checkpoints look as they always did.

    Attributes:
      rule: Optax's state.
      average: The moving average of `params` and `batch_stats`.
    """

    rule: PyTree
    average: Weights


@typing.no_type_check  # JAX also builds it of shapes and other stand-ins for arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes, and everything that a checkpoint holds.

    Attributes:
      step: Optimizer steps taken.
      params: Trainable parameters, by layer.
      batch_stats: BatchNorm's running mean and variance, by layer.
      opt_state: Optax's state: momentum and a step count. With `train.ema_decay`, `Averaged`.
      metrics: Sums over the steps of the current epoch, in training mode.
      report: What the last step measured.
      graphdef: The network without its numbers; static.
      optimizer: The update rule; static.
      packing: How `params`, `batch_stats` and `opt_state` are packed; static.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    metrics: Metrics
    report: StepReport
    graphdef: nnx.GraphDef = dataclasses.field(metadata={"static": True})
    optimizer: UpdateRule = dataclasses.field(metadata={"static": True})
    packing: Packing = dataclasses.field(default=TREES, metadata={"static": True})

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def packed(self, platform: str) -> Self:
        """The same state with each tree as one vector, or a few.

        The trees are the parameters, the BatchNorm statistics, and those of the optimizer that are
        like the parameters, such as momentum.

        A network of this kind has about 230 parameters, most of them a few hundred numbers. As
        one vector they are updated by a few kernels instead of a thousand.

        Args:
          platform: "cpu", "gpu" or "tpu". On a TPU the state stays as it is: there cutting
            parameters out of a vector costs more than it gains.
        """
        if platform == "tpu":
            return self
        out_first, group = platform == "gpu", self.optimizer.group
        structure: Any = jax.tree.structure(self.params)
        params, unravel_params = _vectors(self.params, out_first, group)
        batch_stats, unravel_stats = _vectors(self.batch_stats, out_first, group)

        def pack(tree: PyTree) -> PyTree:
            return _vectors(tree, out_first, group)[0]

        def unpack(state: Self) -> Self:
            return state.replace(
                params=unravel_params(state.params),
                batch_stats=unravel_stats(state.batch_stats),
                opt_state=_map_opt_state(
                    state.opt_state,
                    lambda rule: _replaced(rule, jax.tree.structure(params), unravel_params),
                    lambda average: Weights(
                        unravel_params(average.params), unravel_stats(average.batch_stats)
                    ),
                ),
                packing=TREES,
            )

        return self.replace(
            params=params,
            batch_stats=batch_stats,
            opt_state=_map_opt_state(
                self.opt_state,
                lambda rule: _replaced(rule, structure, pack),
                lambda average: Weights(*map(pack, average)),
            ),
            packing=Packing(pack, unpack),
        )

    def unpacked(self) -> Self:
        """The inverse of `packed`."""
        return self.packing.unpack(self)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def average(self) -> Weights | None:
        """The moving average of the weights; None without `train.ema_decay`."""
        return self.opt_state.average if isinstance(self.opt_state, Averaged) else None

    def for_inference(self) -> Self:
        """The state whose weights are the moving average, if there is one."""
        if not isinstance(self.opt_state, Averaged):
            return self
        return self.replace(**self.opt_state.average._asdict(), opt_state=self.opt_state.rule)

    def with_weights(self, step: int, params: PyTree, batch_stats: PyTree) -> Self:
        """A state with other weights, a new optimizer state and no metrics.

        Args:
          step: Optimizer steps that made the weights.
          params: With the structure and shapes of `self.params`.
          batch_stats: With the structure and shapes of `self.batch_stats`.
        """
        params, batch_stats = jax.tree.map(jnp.asarray, (params, batch_stats))
        metrics, report = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (self.metrics, self.report)
        )
        rule = self.optimizer(0.0, 0.0, 0.0).init(params)
        has_average = self.average is not None
        return self.replace(
            step=jnp.int32(step),
            params=params,
            batch_stats=batch_stats,
            opt_state=Averaged(rule, Weights(params, batch_stats)) if has_average else rule,
            metrics=metrics,
            report=report,
        )

    def apply(
        self, params: PyTree, images: Float[Array, "batch height width channels"], **kwargs: Any
    ) -> tuple[Float[Array, "batch classes"], tuple[Float[Array, "batch classes"], ...], PyTree]:
        """Runs the network.

        Args:
          params: The parameters, which `jax.grad` may trace.
          images: Normalised, NHWC.
          **kwargs: `train`, and in training mode `key` for dropout.

        Returns:
          The logits, the logits of each auxiliary head, and the new BatchNorm statistics.
        """
        # Without copy=True, BatchNorm would write into what jax.grad traces, which raises.
        model = nnx.merge(self.graphdef, params, self.batch_stats, copy=True)
        # `nnx.capture` without types drops the intermediates that layers record.
        logits, aux_logits = nnx.capture(model)(images, **kwargs)
        return logits, aux_logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def logits(
        self, images: Float[Array, "batch height width channels"], tta: str = "none"
    ) -> Float[Array, "batch classes"]:
        """The logits in inference mode.

        Args:
          images: Normalised, NHWC.
          tta: Test-time augmentation: the mean over `augment.views`.
        """
        answers = [
            weight * self.apply(self.params, view, train=False)[0]
            for weight, view in augment.views(images, tta)
        ]
        return functools.reduce(jnp.add, answers)

    def infer(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch classes"], Bool[Array, "batch relus"]]:
        """Runs the network in inference mode.

        Args:
          images: Normalised, NHWC.

        Returns:
          The logits, and for each channel of each ReLU whether it is above 0 at any position.
        """
        model = self._network()
        (logits, _), captured = nnx.capture(model, nnx.Intermediate)(images, train=False)
        relus = jax.tree.leaves(captured)
        return logits, jnp.concatenate([(x > 0).any(axis=(1, 2)) for x in relus], axis=1)

    def activations(
        self, images: Float[Array, "batch height width channels"]
    ) -> dict[str, Float[Array, "batch ..."]]:
        """The output of each layer in inference mode, by its path such as inception4e.conv3x3.

        A convolution counts with its BatchNorm and ReLU. `dropout` changes nothing here: its output
        is the mean over the last block's pixels. A compiled program computes only those layers
        that its result depends on.

        Args:
          images: Normalised, NHWC.
        """
        return _activations(self._network(), images)

    def class_maps(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch map_height map_width"]]:
        """The logits, and where each image looks like its most probable class.

        The class activation maps of Zhou et al., "Learning Deep Features for Discriminative
        Localization" (2016), section 2. The classifier takes the mean of the last features over
        the image. Its weights for a class, applied to the features of each pixel instead, give a
        map, whose mean plus the class's bias is the logit.

        Args:
          images: Normalised, NHWC.
        """
        network = self._network()
        found = _activations(network, images)
        logits, classifier = found["fc"], self.params["fc"]["kernel"]
        features = found[network.averaged].astype(classifier.dtype)
        return logits, jnp.einsum("bhwf,fb->bhw", features, classifier[:, logits.argmax(axis=1)])

    def _network(self) -> Any:
        return nnx.merge(self.graphdef, self.params, self.batch_stats, copy=True)


def _activations(network: Any, images: Array) -> dict[str, Array]:
    """See `TrainState.activations`. Meanwhile, Flax replaces the layers' methods in all threads."""
    outputs = nnx.capture(network, nnx.Intermediate, method_outputs=nnx.Intermediate)
    _, captured = outputs(images, train=False)
    found: dict[str, Array] = {}
    # In an Inception block, units that are computed together are not called, but sow their ReLU.
    # Of a unit that is called, "__call__" comes first.
    for (*path, kind), values in sorted(nnx.to_flat_state(captured)):
        found.setdefault(".".join(map(str, path)) or str(kind), values.get_value()[-1])
    del found["__call__"]  # the whole network's
    return found


def _vectors(
    tree: PyTree, out_first: bool, group: Callable[[tuple[Any, ...]], str]
) -> tuple[dict[str, Array], Callable[[dict[str, Array]], PyTree]]:
    """The arrays of a tree as one vector for each group, and the inverse.

    Args:
      tree: Of arrays.
      out_first: Whether the output channels of kernels come first, as cuDNN wants them.
      group: The name of an array's group by its path in the tree.
    """

    def moved(tree: PyTree, start: int, end: int) -> PyTree:
        return jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf, start, end) if out_first and leaf.ndim == 4 else leaf,
            tree,
        )

    leaves, structure = jax.tree_util.tree_flatten_with_path(moved(tree, 3, 0))
    groups: dict[str, dict[int, Array]] = {}
    for number, (path, leaf) in enumerate(leaves):
        groups.setdefault(group(path), {})[number] = leaf
    packed = {name: ravel_pytree(members) for name, members in groups.items()}

    def unravel(vectors: dict[str, Array]) -> PyTree:
        members = [packed[name][1](vector).items() for name, vector in vectors.items()]
        found = dict(itertools.chain(*members))
        ordered = [found[number] for number in range(len(found))]
        return moved(jax.tree.unflatten(structure, ordered), 0, 3)

    return {name: vector for name, (vector, _) in packed.items()}, unravel


def _map_opt_state(
    opt_state: PyTree, of_rule: Callable[[PyTree], PyTree], of_average: Callable[[Weights], Weights]
) -> PyTree:
    """Applies a function to Optax's state, and another one to the average, if there is one."""
    if isinstance(opt_state, Averaged):
        return Averaged(of_rule(opt_state.rule), of_average(opt_state.average))
    return of_rule(opt_state)


def _replaced(tree: PyTree, structure: Any, function: Callable[[PyTree], PyTree]) -> PyTree:
    """The tree with `function` applied to the subtrees that have this structure."""

    def has_structure(node: PyTree) -> bool:
        return bool(jax.tree.structure(node) == structure)

    return jax.tree.map(
        lambda node: function(node) if has_structure(node) else node, tree, is_leaf=has_structure
    )


def create(
    key: PRNGKeyArray,
    build: Callable[[], nnx.Module],
    optimizer: UpdateRule,
    num_classes: int,
    has_average: bool = False,
) -> TrainState:
    """A state at step 0 with parameters drawn from `key` by `layers.draw_weights`."""

    def numbers(key: PRNGKeyArray) -> dict[str, PyTree]:
        module = build()
        draw_weights(module, key)
        # Exhaustive on purpose: raises if a module holds anything else.
        _, params, batch_stats = nnx.split(module, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
        weights = Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))
        opt_state = optimizer(0.0, 0.0, 0.0).init(weights.params)
        return {
            "step": jnp.zeros((), jnp.int32),
            **weights._asdict(),
            "opt_state": Averaged(opt_state, weights) if has_average else opt_state,
            "metrics": Metrics.empty(num_classes),
            "report": StepReport.empty(),
        }

    graphdef = nnx.graphdef(nnx.eval_shape(build))
    # The arrays are created on the devices of the key.
    return TrainState(**jax.jit(numbers)(key), graphdef=graphdef, optimizer=optimizer)


def initialize(key: PRNGKeyArray, config: Config, info: DatasetInfo) -> TrainState:
    """The state at step 0 of the network and the update rule that a config describes.

    Args:
      key: For the initial weights.
      config: Of the run.
      info: The image shape and the classes.

    Raises:
      ConfigError: The images are too small for the network, or it lacks a layer that is named.
    """
    settings = config.model, info.image_shape, info.num_classes
    trunk = _trunk(config.optimizer.trunk, *settings) if config.optimizer.trunk else ()

    def build() -> nnx.Module:
        network = models.create(*settings)
        for name in trunk if config.optimizer.trunk_stats == "frozen" else ():
            getattr(network, name).eval()  # sets its BatchNorm layers to use_running_average
        return network

    return create(
        key,
        build,
        optimizers.create(config.optimizer, trunk),
        info.num_classes,
        has_average=config.train.ema_decay > 0,
    )


def _trunk(
    last: str, config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[str, ...]:
    """The names of a network's layers from the first one to `last`, without auxiliary heads.

    Raises:
      ConfigError: There is no such layer; the message lists those that there are.
    """
    rows = layer_table(config, image_shape, num_classes)
    *names, _ = dict.fromkeys(r.name.partition(".")[0] for r in rows if not r.training_only)
    if last not in names:  # the classifier is left out: something has to learn
        raise ConfigError(f"optimizer.trunk={last!r}: must be one of {', '.join(names)}")
    return tuple(names[: names.index(last) + 1])
