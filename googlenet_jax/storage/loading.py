"""From a working directory or an export to a network that can be called."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax

from googlenet_jax import fileio
from googlenet_jax.config import Config
from googlenet_jax.data import DatasetInfo
from googlenet_jax.errors import CheckpointError, UserError
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage import export, pretrained
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.storage.model import Model
from googlenet_jax.storage.workdir import (
    CHECKPOINTS,
    CONFIG,
    check_recorded,
    is_training,
    read_config,
)
from googlenet_jax.training import state
from googlenet_jax.training.state import TrainState

HEADS = {"aux1", "aux2"}
ATTEMPTS = 50
PAUSE_SECONDS = 0.1
PAUSES = 30  # a deletion may stand still for a while on a busy machine
T = TypeVar("T")


def load_model(folder: str | WorkdirPath, checkpoint: str) -> Model:
    """See `googlenet_jax.load`."""
    folder = pretrained.find(folder)
    fileio.check(folder)
    # Every run makes the folder of its checkpoints before its config.json.
    exists = os.path.exists if isinstance(folder, Path) else type(folder).exists
    if exists(folder / CONFIG) and not exists(folder / CHECKPOINTS):
        if checkpoint != "best":
            raise CheckpointError(f"{folder}: an export holds one checkpoint, not {checkpoint!r}")
        return load_export(folder)
    return load_run(folder, checkpoint)


def load_export(folder: WorkdirPath) -> Model:
    """The network of an export.

    Raises:
      CheckpointError: there is none, or a damaged one.
    """
    found, tensors = export.read(folder)
    like = abstract_state(found.config, found.dataset)
    return Model(found.dataset, export.fill(like, found.step, tensors, folder), found.record)


def load_run(workdir: WorkdirPath, checkpoint: str) -> Model:
    """The network of a run's checkpoint.

    Raises:
      CheckpointError: no such run or checkpoint, or a damaged one.
      ConfigError: its config.json is damaged, or is not what the checkpoint was written with.
    """
    config = read_config(workdir)

    def load(checkpoints: Checkpoints) -> Model:
        step = checkpoints.resolve(checkpoint)
        found = checkpoints.read_record(step)
        check_recorded(workdir, config, found.config)
        info = read_info(workdir, found)
        return Model(info, *checkpoints.restore(step, abstract_state(config, info)))

    return read_checkpoints(workdir, load)


def read_checkpoints(workdir: WorkdirPath, read: Callable[[Checkpoints], T]) -> T:
    """What a function finds in the checkpoints of a run, which may be training meanwhile.

    A run deletes its older checkpoints. So where something is missing or damaged and the folder
    has changed meanwhile, the function is called again, with what is there then.

    Args:
      workdir: of the run.
      read: may be called several times.

    Raises:
      CheckpointError: there are none, or what `read` raises.
    """
    folder = workdir / CHECKPOINTS
    if not folder.is_dir():
        raise CheckpointError(f"--workdir={workdir}: holds no checkpoints")
    for _ in range(ATTEMPTS - 1):
        before = fileio.listing(folder)
        try:
            with Checkpoints(folder, writable=False) as checkpoints:
                return read(checkpoints)
        except CheckpointError:
            pauses = PAUSES if is_training(workdir) else 0
            while fileio.listing(folder) == before:
                if not pauses:
                    raise
                pauses -= 1
                time.sleep(PAUSE_SECONDS)
    with Checkpoints(folder, writable=False) as checkpoints:
        return read(checkpoints)


def read_info(workdir: WorkdirPath, record: Record) -> DatasetInfo:
    """What a checkpoint's record says of the images.

    Raises:
      CheckpointError: nothing that can be so, although its digest is right.
    """
    try:
        return DatasetInfo.from_dict(record.dataset)
    except ValueError as error:
        raise CheckpointError(f"{workdir}: its checkpoint is no run's: {error}") from error


def abstract_state(config: Config, info: DatasetInfo) -> TrainState:
    """The shapes of a run's state, without its numbers."""
    return jax.eval_shape(lambda key: state.initialize(key, config, info), jax.random.key(0))


def start_from(
    fresh: TrainState, workdir: str, class_names: tuple[str, ...]
) -> tuple[TrainState, str]:
    """A state at step 0 with the weights of another run's best checkpoint, or of an export.

    The classifiers keep their own initial weights unless the classes are the same, in the same
    order; auxiliary heads that this network lacks are left out.

    Args:
      fresh: whose weights are replaced.
      workdir: the run or the export.
      class_names: of the network that is to be trained, by label.

    Returns:
      The state, and a sentence that says what was taken and what is new.

    Raises:
      CheckpointError: there is no such checkpoint or export, or its network is another one.
    """
    try:
        found = load_model(workdir, "best")
    except UserError as error:
        raise CheckpointError(f"train.init_from={workdir!r}: {error}") from error
    source = found.state
    params, batch_stats = (
        {name: layer for name, layer in tree.items() if name in own or name not in HEADS}
        for tree, own in ((source.params, fresh.params), (source.batch_stats, fresh.batch_stats))
    )
    has_same_classes = found.info.class_names == class_names
    if not has_same_classes:
        params["fc"] = fresh.params["fc"]
        for head in HEADS & params.keys():
            params[head] = {**params[head], "fc2": fresh.params[head]["fc2"]}
    shapes = [
        {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in ((params, batch_stats), (fresh.params, fresh.batch_stats))
    ]
    misfits = sorted(dict(shapes[0].items() ^ shapes[1].items()))
    if misfits:
        raise CheckpointError(
            f"train.init_from={workdir!r}: another network; {len(misfits)} arrays do not fit, "
            f"first {misfits[0].partition('.')[2]}"
        )
    taken = f"weights of {workdir} at step {int(source.step)}"
    if has_same_classes:
        taken += ", with their classifier: the classes are the same"
    else:
        taken += (
            f"; the classifier of {len(class_names)} classes is new: the weights have "
            f"{found.info.num_classes}, "
            + ("of other names" if found.info.num_classes == len(class_names) else "another number")
        )
    return fresh.replace(params=params, batch_stats=batch_stats), taken
