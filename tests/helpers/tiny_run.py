"""A run so small that a test of its working directory is about something else."""

import contextlib
import io
import json
from pathlib import Path

import compiling
import sharing

import train.main
from googlenet_jax.storage import proof

# 8 steps an epoch, of which the second is cut short: checkpoints at steps 8 and 9.
STEPS = (8, 9)
DIGITS = [
    *("--config", "digits", "--config.train.batch_size=8", "--config.train.steps=9"),
    *("--config.data.max_train_examples=64", "--config.data.valid_examples=20"),
]
# To trace the whole GoogLeNet takes seconds whenever a run is loaded: it is for the tests that ask
# for it.
ARGUMENTS = [
    *(*DIGITS, "--config.model.name=preact_resnet", "--config.model.depth=11"),
    "--config.model.width_multiplier=0.25",
]
GOOGLENET = [*DIGITS, "--config.model.width_multiplier=0.0625"]


def make(tmp_path_factory, arguments=ARGUMENTS) -> Path:
    """The run's working directory; all workers of a session share it, so copy before writing."""
    name = "tiny_googlenet" if arguments is GOOGLENET else "tiny_run"
    with sharing.folder(tmp_path_factory, name) as workdir:
        if not (workdir / "curves.png").exists():  # what a run writes last
            with compiling.quickly(), contextlib.redirect_stdout(io.StringIO()):
                train.main.main([*arguments, "--workdir", str(workdir)])
    return workdir


def change_records(workdir: Path, change, checkpoints="checkpoints") -> None:
    """Changes what the checkpoints record, as a version that wrote something else would have."""
    for folder in (workdir / checkpoints).iterdir():
        path = folder / "_CHECKPOINT_METADATA"
        values = json.loads(path.read_text())
        proven = values["custom_metadata"]
        del proven["digest"]
        change(proven)
        proven["digest"] = proof.digest(proof.canonical(proven))
        path.write_text(json.dumps(values))
        sealed = json.loads((folder / proof.SEAL).read_text())
        sealed[path.name] = proof.digest(path.read_bytes())
        (folder / proof.SEAL).write_text(json.dumps(sealed))


def set_config(workdir: Path, config: dict) -> None:
    """Another config, as if the run had been started with it."""
    change_records(workdir, lambda proven: proven["record"].update(config=config))
    (workdir / "config.json").write_text(json.dumps(config))
