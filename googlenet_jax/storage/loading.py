"""Loads a network from a run or an export, to call it or to start a run from its weights."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp

from googlenet_jax import data, fileio
from googlenet_jax.config import Config, ModelConfig
from googlenet_jax.data import Dataset, DatasetInfo, Stream
from googlenet_jax.errors import CheckpointError, DataError, UserError
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
PAUSES = 30  # on a busy machine a deletion may make no progress for a while
T = TypeVar("T")


def load_model(folder: str | WorkdirPath, checkpoint: str) -> Model:
    """See `googlenet_jax.load`."""
    folder = pretrained.find(folder)
    fileio.check(folder)
    # A run makes the folder of its checkpoints before its config.json; an export has none.
    exists = os.path.exists if isinstance(folder, Path) else type(folder).exists
    if exists(folder / CONFIG) and not exists(folder / CHECKPOINTS):
        if checkpoint != "best":
            raise CheckpointError(
                f"{folder}: an export holds one checkpoint, not {checkpoint!r}; leave it out"
            )
        return load_export(folder)
    return load_run(folder, checkpoint)


def load_data(config: Config, data_path: str) -> Dataset | Stream:
    """The data of a run.

    Args:
      config: Of the run.
      data_path: Where the data are now, if they have moved; else "".

    Raises:
      DataError: They cannot be used.
    """
    place = data_path or config.data.path
    try:
        return data.load(dataclasses.replace(config.data, path=place), config.seed)
    except DataError as error:
        if data_path or not place or Path(place).expanduser().exists():
            raise
        raise DataError(
            f"{error}; if the data have moved, give their place: --data-path"
        ) from error


def load_export(folder: WorkdirPath) -> Model:
    """The network of an export.

    Raises:
      CheckpointError: There is no export, or it is damaged.
    """
    found, tensors = export.read(folder)
    like = abstract_state(found.config, found.dataset)
    weights = export.fill(like, found.step, tensors, folder)
    weights_used, network = found.config.train.weights, found.config.model
    return Model(found.dataset, weights, found.record, weights_used, network)


def load_run(workdir: WorkdirPath, checkpoint: str) -> Model:
    """The network of a run's checkpoint.

    Raises:
      CheckpointError: There is no such run or checkpoint, or it is damaged.
      ConfigError: config.json is damaged, or differs from the config in the checkpoint.
    """
    config = read_config(workdir)

    def load(checkpoints: Checkpoints) -> Model:
        step = checkpoints.resolve(checkpoint)
        found = checkpoints.read_record(step)
        check_recorded(workdir, config, found.config)
        info = read_info(workdir, found)
        restored, record = checkpoints.restore(step, abstract_state(config, info))
        weights = restored.for_inference()
        return Model(info, weights, record, config.train.weights, config.model)

    return read_checkpoints(workdir, load)


def read_checkpoints(workdir: WorkdirPath, read: Callable[[Checkpoints], T]) -> T:
    """The result of `read` for the checkpoints of a run, which may be training meanwhile.

    A training run deletes its older checkpoints. So if `read` fails and the folder has changed
    since, it is called again for the checkpoints that are there then.

    Args:
      workdir: The run's directory.
      read: May be called several times.

    Raises:
      CheckpointError: There are no checkpoints, or `read` raises it.
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
    """The description of the images in a checkpoint's record.

    Raises:
      CheckpointError: It is invalid, although its digest is right.
    """
    try:
        return DatasetInfo.from_dict(record.dataset)
    except ValueError as error:
        raise CheckpointError(f"{workdir}: its checkpoint has a wrong record: {error}") from error


def abstract_state(config: Config, info: DatasetInfo) -> TrainState:
    """The shapes and types of a run's state, without its numbers."""
    return jax.eval_shape(lambda key: state.initialize(key, config, info), jax.random.key(0))


def start_from(
    fresh: TrainState, workdir: str, info: DatasetInfo, network: ModelConfig
) -> tuple[TrainState, str]:
    """A state at step 0 with the weights of another run's best checkpoint, or of an export.

    The classifiers keep their initial weights unless the classes are the same, in the same order.
    Auxiliary heads that this network lacks are left out.

    Args:
      fresh: The state whose weights are replaced.
      workdir: The run or the export.
      info: The images and the classes to train on.
      network: The settings of the network of `fresh`.

    Returns:
      The state, and a sentence that says which weights were taken and which are new.

    Raises:
      CheckpointError: There is no such checkpoint or export, or it has another network; names the
        settings that differ.
    """
    source = pretrained.find(workdir)
    if isinstance(source, Path) and not os.path.exists(source):
        raise CheckpointError(
            f"train.init_from={workdir!r}: no such folder: import weights into it (python -m "
            f"train.import_torch FILE --workdir {workdir}), or start from a run or an export that "
            "you have (--config.train.init_from=DIR) or from nothing (--config.train.init_from=)"
        )
    try:
        found = load_model(source, "best")
    except UserError as error:
        raise CheckpointError(f"train.init_from={workdir!r}: {error}") from error
    weights = found.state
    params, batch_stats = (
        {name: layer for name, layer in tree.items() if name in own or name not in HEADS}
        for tree, own in ((weights.params, fresh.params), (weights.batch_stats, fresh.batch_stats))
    )
    left_out = sorted(HEADS & weights.params.keys() - fresh.params.keys())
    has_same_classes = found.info.class_names == info.class_names
    new = []
    if not has_same_classes:
        params["fc"], new = fresh.params["fc"], ["fc"]
        for head in sorted(HEADS & params.keys()):
            params[head] = {**params[head], "fc2": fresh.params[head]["fc2"]}
            new.append(f"{head}.fc2")
    started = fresh.replace(params=params, batch_stats=batch_stats)
    if fresh.average is not None:
        # A copy, since a step donates the weights and their average.
        average = jax.tree.map(jnp.copy, state.Weights(params, batch_stats))
        started = started.replace(opt_state=state.Averaged(fresh.opt_state.rule, average))
    shapes = [
        {name: leaf.shape for name, leaf in export.named_weights(each)} for each in (started, fresh)
    ]
    misfits = sorted(dict(shapes[0].items() ^ shapes[1].items()))
    if misfits:
        differences = _differences(network, found.network)
        channels = info.image_shape[2], found.info.image_shape[2]
        if channels[0] != channels[1]:
            differences.append("images of {} channels here, {} there".format(*channels))
        first = f"{len(misfits)} arrays do not fit, first {misfits[0].partition('.')[2]}"
        raise CheckpointError(
            f"train.init_from={workdir!r}: is another network: {'; '.join(differences) or first}; "
            "use the config.model of those weights"
        )
    taken = f"weights of {workdir} at step {int(weights.step)}, "
    if has_same_classes:
        taken += "with their classifier: the classes are the same"
    else:
        taken += f"with a new classifier for {info.num_classes} classes: "
        if found.info.num_classes == info.num_classes:
            taken += "their names or order differ"
        else:
            taken += f"the weights are for {found.info.num_classes}"
        taken += f"; drawn anew: {', '.join(new)}"
    return started, taken + (f"; left out: {', '.join(left_out)}" if left_out else "")


def _differences(here: ModelConfig, there: ModelConfig) -> list[str]:
    """The settings that differ between two networks, with both values."""
    values = dataclasses.asdict(there)
    return [
        f"model.{name} {value} here, {values[name]} there"
        for name, value in dataclasses.asdict(here).items()
        if value != values[name]
    ]
