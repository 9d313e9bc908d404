"""From a working directory to a network that can be called."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from googlenet_jax import optimizer, state
from googlenet_jax.augment import normalize
from googlenet_jax.checkpoint import Checkpoints, Record
from googlenet_jax.config import Config
from googlenet_jax.data import DatasetInfo
from googlenet_jax.errors import CheckpointError, UserError
from googlenet_jax.state import TrainState
from googlenet_jax.workdir import CHECKPOINTS, read_config


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network with the normalisation and the classes that belong to it.

    Attributes:
      info: image shape, class names and normalisation.
      state: the weights, and the step at which they were saved.
      record: the history of the run up to there.
    """

    info: DatasetInfo
    state: TrainState
    record: Record

    def logits(
        self,
        images: UInt8[Array | np.ndarray, "batch height width channels"]
        | Float[Array | np.ndarray, "batch height width channels"],
    ) -> Float[Array, "batch classes"]:
        """The network's answer in inference mode; its softmax is the probabilities.

        Args:
          images: NHWC of `info.image_shape`; integers of 0 to 255, or floats of 0 to 1.

        Raises:
          UserError: the images have another shape or type.
        """
        images = jnp.asarray(images)
        if images.shape[1:] != self.info.image_shape or images.ndim != 4:
            raise UserError(
                f"images of shape {images.shape}: must be (batch, *{self.info.image_shape})"
            )
        if jnp.issubdtype(images.dtype, jnp.floating):
            images = images * 255
        elif images.dtype != jnp.uint8:
            raise UserError(f"images of type {images.dtype}: must be uint8 or a float type")
        return _logits(self.state, images, self.info)


def load_model(workdir: Path, checkpoint: str) -> Model:
    """See `googlenet_jax.load`."""
    config = read_config(workdir)
    with open_checkpoints(workdir) as checkpoints:
        step = checkpoints.resolve(checkpoint)
        info = DatasetInfo.from_dict(checkpoints.read_record(step).dataset)
        restored, record = checkpoints.restore(step, abstract_state(config, info))
    return Model(info, restored, record)


@functools.partial(jax.jit, static_argnames="info")
def _logits(state: TrainState, images: Array, info: DatasetInfo) -> Array:
    return state.apply(state.params, normalize(images, info.mean, info.std), train=False)[0]


def open_checkpoints(workdir: Path) -> Checkpoints:
    """The checkpoints of a run, to read.

    Raises:
      CheckpointError: there are none.
    """
    if not (workdir / CHECKPOINTS).is_dir():
        raise CheckpointError(f"--workdir={workdir}: holds no checkpoints")
    return Checkpoints(workdir / CHECKPOINTS, writable=False)


def abstract_state(config: Config, info: DatasetInfo) -> TrainState:
    """The shapes of a run's state, without its numbers."""
    schedule = optimizer.create_schedule(config.optimizer, 1, 1)
    return jax.eval_shape(
        lambda key: state.initialize(key, config, info, schedule), jax.random.key(0)
    )


def start_from(fresh: TrainState, workdir: str) -> TrainState:
    """A state at step 0 with the weights of another run's best checkpoint.

    The classifiers keep their own initial weights where the numbers of classes differ; auxiliary
    heads that this network lacks are left out.

    Raises:
      CheckpointError: there is no such checkpoint, or its network is another one.
    """
    try:
        source = load_model(Path(workdir), "best").state
    except UserError as error:
        raise CheckpointError(f"train.init_from={workdir!r}: {error}") from error
    misfits: list[str] = []

    def take(path: tuple[Any, ...], own: Array, given: PyTree) -> Array:
        try:
            found = functools.reduce(lambda node, key: node[key.key], path, given)
        except KeyError:
            found = None
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if found is not None and found.shape == own.shape:
            return found
        if name not in classifiers:
            misfits.append(name)
        return own

    num_classes = [len(state.params["fc"]["bias"]) for state in (fresh, source)]
    layers = ("fc", "aux1.fc2", "aux2.fc2") if num_classes[0] != num_classes[1] else ()
    classifiers = [f"{layer}.{leaf}" for layer in layers for leaf in ("kernel", "bias")]
    params = jax.tree_util.tree_map_with_path(
        functools.partial(take, given=source.params), fresh.params
    )
    batch_stats = jax.tree_util.tree_map_with_path(
        functools.partial(take, given=source.batch_stats), fresh.batch_stats
    )
    if misfits:
        raise CheckpointError(
            f"train.init_from={workdir!r}: another network; {len(misfits)} arrays of this one "
            f"do not fit, first {misfits[0]}"
        )
    return fresh.replace(params=params, batch_stats=batch_stats)
