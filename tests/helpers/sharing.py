"""Folders shared by the workers of a test session: the first one to need a folder fills it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder(tmp_path_factory, name: str) -> Iterator[Path]:
    """Locks a session folder for one worker; the folder may not exist yet."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with (base / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield base / name
