"""Writes and reads an export: a folder with a trained network and all that belongs to it.

- model.safetensors: parameters and BatchNorm statistics, float32, under their layers' names.
- config.json: the run's config with the architecture, the images' normalisation and classes, the
  figures and the provenance; and the sha256 of itself and of the other two files, which
  safetensors does not keep.
- model.jaxexport: the program from uint8 images to logits, for any batch size, on a CPU, an NVIDIA
  GPU or a TPU. JAX promises to read it for six months; the weights can be read for good.
- README.md: the model card.
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

from googlenet_jax import fileio
from googlenet_jax.config import Config
from googlenet_jax.data import DatasetInfo
from googlenet_jax.errors import CheckpointError, UserError
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage.card import card
from googlenet_jax.storage.checkpoint import Record
from googlenet_jax.storage.model import Model
from googlenet_jax.storage.proof import canonical, digest
from googlenet_jax.storage.workdir import CONFIG
from googlenet_jax.training.state import TrainState

FORMAT = 1
WEIGHTS = "model.safetensors"
PROGRAM = "model.jaxexport"
CARD = "README.md"
MAX_BYTES = 2**31  # of a file
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Description:
    """The content of config.json, without the sha256 of the files.

    Attributes:
      config: The run's config, made `portable`.
      dataset: Image shape, classes and normalisation.
      step: The step at which the weights were saved.
      metrics: The line of metrics.jsonl of that step; empty if it was not evaluated.
      provenance: `data` as in a checkpoint's record, the `checkpoint` that was asked for, the
        `command` that trains such a network, and the `training` and `export` environments.
    """

    config: Config
    dataset: DatasetInfo
    step: int
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def record(self) -> Record:
        """The record of its checkpoint, without the history before it."""
        history = [self.metrics] if self.metrics else []
        return Record(history, self.dataset.to_dict(), self.provenance["data"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "dataset": self.dataset.to_dict(),
            "step": self.step,
            "metrics": self.metrics,
            "provenance": self.provenance,
        }


def portable(config: Config) -> Config:
    """A copy without the paths of this machine; some keep the name of a file or folder."""
    config = Config.from_dict(config.to_dict())
    config.data.path = config.data.pictures = ""
    config.data.classes = Path(config.data.classes).name
    config.train.init_from = Path(config.train.init_from).name
    return config


def describe(
    model: Model, config: Config, checkpoint: str, command: str, environments: dict[str, Any]
) -> Description:
    """The description of a run's network for its export.

    Args:
      model: The network.
      config: The run's config, made `portable`.
      checkpoint: The checkpoint as it was asked for: best, latest or a step.
      command: The command that starts such a run.
      environments: The `training` and `export` environments, and the `date` of the export.
    """
    step, history = int(model.state.step), model.record.history
    data = {**model.record.provenance, "source": Path(model.record.provenance["source"]).name}
    data.pop("cache", None)
    return Description(
        config,
        model.info,
        step,
        metrics=history[-1] if history and history[-1]["step"] == step else {},
        provenance={"data": data, "checkpoint": checkpoint, "command": command, **environments},
    )


def write(folder: Path, model: Model, description: Description) -> None:
    """Writes an export; at any moment the folder is as it was, or holds the whole export.

    Args:
      folder: A new or empty folder.
      model: The network.
      description: See `describe`.

    Raises:
      UserError: The folder cannot be written.
    """
    tensors = {name: np.asarray(leaf) for name, leaf in named_weights(model.state)}
    values = description.to_dict()
    files = {WEIGHTS: safetensors.numpy.save(tensors), PROGRAM: serialize(model)}
    values["sha256"] = {name: digest(content) for name, content in files.items()}
    values["sha256"][CONFIG] = digest(canonical(values))
    files[CONFIG] = (json.dumps(values, indent=2) + "\n").encode()
    files[CARD] = card(values, model.state.num_parameters).encode()
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        temporary.replace(folder)
    except OSError as error:
        raise UserError(f"--out={folder}: cannot be written: {error}") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def read(folder: WorkdirPath) -> tuple[Description, dict[str, np.ndarray]]:
    """The content of config.json, and the arrays by name, both verified.

    Raises:
      CheckpointError: It is not an export of this version, or is damaged.
    """
    path = folder / CONFIG
    try:
        values = fileio.read_json(path)
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        sums = values["sha256"]
        if sums.pop(CONFIG) != digest(canonical(values)):
            raise ValueError("it is damaged or was edited: its sha256 does not match")
        del values["format"], values["sha256"]
        description = _description(**values)
        expected = {name: sums[name] for name in (WEIGHTS, PROGRAM)}
    except OSError as error:
        raise CheckpointError(f"{folder}: holds no run and no export ({error.strerror})") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: not an export of this version: {reason}") from error
    contents = {}
    for name, expected_sum in expected.items():
        path = folder / name
        try:
            contents[name] = fileio.read(path, MAX_BYTES)
        except FileNotFoundError:
            if name == PROGRAM:  # not needed here, so it may be left out
                continue
            raise CheckpointError(f"{path}: is missing; copy the whole export") from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        if digest(contents[name]) != expected_sum:
            raise CheckpointError(
                f"{path}: is damaged: its sha256 is not the one in {CONFIG}; copy the export again"
            )
    try:
        return description, safetensors.numpy.load(contents[WEIGHTS])
    except Exception as error:  # the sha256 is right, so another program wrote it
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read: {error}") from error


def fill(
    like: TrainState, step: int, tensors: dict[str, np.ndarray], source: WorkdirPath
) -> TrainState:
    """A state with the weights of an export.

    Args:
      like: The shapes of the network's state.
      step: The step at which the weights were saved.
      tensors: The weights, by name.
      source: Where they come from, for messages.

    Raises:
      CheckpointError: They do not fit the network.
    """
    wanted = {name: (leaf.dtype, leaf.shape) for name, leaf in named_weights(like)}
    found = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    if wanted != found:
        misfits = sorted(dict(wanted.items() ^ found.items()))
        raise CheckpointError(
            f"{source}: its arrays do not fit its config: {len(misfits)} differ, first "
            f"{misfits[0]}; export the network again"
        )
    filled = jax.tree_util.tree_map_with_path(lambda path, _: tensors[_name(path)], _trees(like))
    return like.with_weights(step, **filled)


def serialize(model: Model) -> bytes:
    """The network as a serialized program from uint8 images to logits, for each platform."""
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.info.image_shape), jnp.uint8)
    # Everything that the function closes over goes into the program; leave the momentum out.
    bare = dataclasses.replace(model, state=model.state.replace(opt_state=()))
    # Otherwise the program would name this machine's file and line for each operation.
    frames: int = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        # A new function: one that was traced before would bring its locations along.
        export = jax.export.export(jax.jit(lambda x: bare.logits(x)), platforms=PLATFORMS)
        return bytes(export(images).serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", frames)


def _description(
    config: Any, dataset: Any, step: Any, metrics: Any, provenance: Any
) -> Description:
    """The description in a config.json; a ValueError if it is invalid."""
    if type(step) is not int or not 0 <= step < 2**31:
        raise ValueError("step: must be a whole number from 0 to 2^31 - 1")
    if not isinstance(metrics, dict) or not isinstance(provenance["data"], dict):
        raise ValueError("metrics and provenance.data: must be JSON objects")
    info = DatasetInfo.from_dict(dataset)
    return Description(Config.from_dict(config), info, step, metrics, provenance)


def named_weights(state: TrainState) -> list[tuple[str, Any]]:
    """Parameters and BatchNorm statistics under their names in an export."""
    leaves = jax.tree_util.tree_leaves_with_path(_trees(state))
    return [(_name(path), leaf) for path, leaf in leaves]


def _trees(state: TrainState) -> dict[str, PyTree]:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
