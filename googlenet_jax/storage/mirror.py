"""Copies checkpoints to and from an object store.

In a store nothing can be renamed, which is how Orbax commits, and Orbax writes to Google's store
only. So Orbax works in a temporary folder of this machine. Each checkpoint is copied once it is
sealed, the seal last: a checkpoint without a seal in the store does not count.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from googlenet_jax.errors import CheckpointError, TrainingError
from googlenet_jax.fileio import open_store, temporary_folder, told


@contextlib.contextmanager
def copied(remote: epath.Path, last: str) -> Iterator[Path]:
    """A temporary folder with a copy of a store's folder; see `download`."""
    with temporary_folder() as folder:
        download(remote, folder, last)
        yield folder


def download(remote: epath.Path, local: Path, last: str) -> None:
    """Copies the subfolders that are complete.

    Args:
      remote: The folder in the store.
      local: The folder to copy into.
      last: Name of the object that is written last; a subfolder with it is complete.

    Raises:
      CheckpointError: The store cannot be read.
    """
    with told(CheckpointError, remote, "cannot be read"):
        files, key = open_store(remote)
        keys = [
            each
            for objects in _subfolders(files, key).values()
            if any(name.endswith(f"/{last}") for name in objects)
            for each in objects
        ]
        if keys:
            files.get(keys, [str(local / each.removeprefix(f"{key}/")) for each in keys])


def publish(local: Path, remote: epath.Path, name: str, last: str) -> None:
    """Copies one subfolder to a store, and deletes the numbered ones there that `local` lacks.

    Args:
      local: The folder of this machine.
      remote: Its copy in the store.
      name: The subfolder to copy; it replaces the store's.
      last: Name of the file that is copied last and deleted first.

    Raises:
      TrainingError: The store cannot be written.
    """
    with told(TrainingError, remote, "cannot be written"):
        files, key = open_store(remote)
        existing = _subfolders(files, key)
        _delete(files, existing.pop(name, []), last)
        paths = [path for path in (local / name).rglob("*") if path.is_file()]
        for some in ([p for p in paths if p.name != last], [p for p in paths if p.name == last]):
            keys = [f"{key}/{path.relative_to(local).as_posix()}" for path in some]
            files.put([str(path) for path in some], keys)
        for other, keys in existing.items():
            # A name that is not a number is not a checkpoint's.
            if other.isdecimal() and not (local / other).is_dir():
                _delete(files, keys, last)


def _subfolders(files: Any, key: str) -> dict[str, list[str]]:
    """The keys of all objects in the subfolders of a folder, by the subfolder's name.

    In a store a name may hold "..", which would lead a copy of it out of its folder here. Such
    objects are left out.
    """
    found: dict[str, list[str]] = {}
    for each in files.find(key):
        name, *rest = each.removeprefix(f"{key}/").split("/")
        if rest and not {"", ".", ".."} & {name, *rest}:
            found.setdefault(name, []).append(each)
    return found


def _delete(files: Any, keys: list[str], last: str) -> None:
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{last}")):
        files.rm_file(key)
