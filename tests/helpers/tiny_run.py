"""A tiny finished run, for tests of its working directory."""

import contextlib
import io
import json
from pathlib import Path

import compiling
import sharing

import train.main
from googlenet_jax.storage import proof

# 8 steps an epoch; the second epoch ends after one step. Checkpoints at steps 8 and 9.
STEPS = (8, 9)
DIGITS = [
    *("--config", "digits", "--config.train.batch_size=8", "--config.train.steps=9"),
    *("--config.data.max_train_examples=64", "--config.data.valid_examples=20"),
]
# Tracing GoogLeNet takes seconds at each load, so only tests that need it use `GOOGLENET`.
ARGUMENTS = [
    *(*DIGITS, "--config.model.name=preact_resnet", "--config.model.depth=11"),
    "--config.model.width_multiplier=0.25",
]
GOOGLENET = [*DIGITS, "--config.model.width_multiplier=0.0625"]


def make(tmp_path_factory, arguments=ARGUMENTS) -> Path:
    """Returns the run's working directory. All test workers share it: copy it before writing."""
    name = "tiny_googlenet" if arguments is GOOGLENET else "tiny_run"
    with sharing.folder(tmp_path_factory, name) as workdir:
        if not (workdir / "curves.png").exists():  # written last
            with compiling.quickly(), contextlib.redirect_stdout(io.StringIO()):
                train.main.main([*arguments, "--workdir", str(workdir)])
    return workdir


def change_records(workdir: Path, change, checkpoints="checkpoints") -> None:
    """Changes the checkpoints' records and updates digests and seals."""
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
    """Replaces the config, as if the run had been started with it."""
    change_records(workdir, lambda proven: proven["record"].update(config=config))
    (workdir / "config.json").write_text(json.dumps(config))
