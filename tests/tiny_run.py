"""A run so small that a test of its working directory is about something else."""

import contextlib
import io
from pathlib import Path

import jax

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


@contextlib.contextmanager
def compiling_once(tmp_path_factory):
    """Keeps what is compiled on disk: to jit, the optimizer of each state is a new one."""
    new = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    old = {name: getattr(jax.config, name) for name in new}
    for name, value in new.items():
        jax.config.update(name, value)
    yield
    for name, value in old.items():
        jax.config.update(name, value)
