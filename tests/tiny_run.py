"""A run so small that a test of its working directory is about something else."""

import contextlib
import io
from pathlib import Path

import compiling
import sharing

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
    with sharing.folder(tmp_path_factory, "tiny_run") as workdir:
        if not (workdir / "curves.png").exists():  # what a run writes last
            with compiling.quickly(), contextlib.redirect_stdout(io.StringIO()):
                train.main.main([*ARGUMENTS, "--workdir", str(workdir)])
    return workdir
