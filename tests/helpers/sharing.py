"""Work that all workers of a test session share: the first one does it, the others find it done."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder(tmp_path_factory, name: str) -> Iterator[Path]:
    """A folder of the session, for one worker at a time; need not exist yet."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with (base / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield base / name
