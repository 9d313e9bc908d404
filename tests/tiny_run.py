"""A run so small that a test of its working directory is about something else."""

import contextlib
import fcntl
import io
import os
from pathlib import Path

import compiling

import train.main

# 8 steps an epoch, of which the second is cut short: checkpoints at steps 8 and 9.
STEPS = (8, 9)
ARGUMENTS = [
    *("--config", "digits", "--config.model.width_multiplier=0.0625", "--config.train.steps=9"),
    *("--config.train.batch_size=8", "--config.data.max_train_examples=64"),
    *("--config.data.valid_examples=20",),
]


def make(tmp_path_factory) -> Path:
    """The run's working directory; all workers of a session share it, so copy before writing."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    workdir = base / "tiny_run"
    with (base / "tiny_run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (workdir / "curves.png").exists():  # what a run writes last
            with compiling.quickly(), contextlib.redirect_stdout(io.StringIO()):
                train.main.main([*ARGUMENTS, "--workdir", str(workdir)])
    return workdir
