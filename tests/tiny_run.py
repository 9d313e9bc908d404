"""A run so small that a test of its working directory is about something else."""

import contextlib
import io
from pathlib import Path

import train.main

# 8 steps an epoch, of which the second is cut short: checkpoints at steps 8 and 9.
STEPS = (8, 9)
ARGUMENTS = [
    *("--config", "digits", "--config.model.width_multiplier=0.0625", "--config.train.steps=9"),
    *("--config.train.batch_size=8", "--config.data.max_train_examples=64"),
    *("--config.data.valid_examples=20",),
]


def make(tmp_path_factory) -> Path:
    """The run's working directory; all modules of a session share it, so copy before writing."""
    workdir = tmp_path_factory.getbasetemp() / "tiny_run"
    if not workdir.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            train.main.main([*ARGUMENTS, "--workdir", str(workdir)])
    return workdir
