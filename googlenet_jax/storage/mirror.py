"""Checkpoints in an object store: copies of those in a folder of this machine.

In a store nothing can be renamed, which is how Orbax commits, and of the stores Orbax writes only
Google's. So Orbax works in a temporary folder, and each checkpoint is copied once it is sealed,
its seal last: without one, the other objects count for nothing.
"""

from pathlib import Path
from typing import Any

from etils import epath

from googlenet_jax.errors import CheckpointError, TrainingError
from googlenet_jax.fileio import open_store, told


def download(remote: epath.Path, local: Path, last: str) -> None:
    """Copies the folders of a folder that are whole.

    Args:
      remote: the folder of folders.
      local: where they go.
      last: the name of the object that is written last into each of them.

    Raises:
      CheckpointError: the store does not give them.
    """
    with told(CheckpointError, remote, "cannot be read"):
        files, key = open_store(remote)
        keys = [
            each for keys in _folders(files, key).values() if _is_whole(keys, last) for each in keys
        ]
        if keys:
            files.get(keys, [str(local / each.removeprefix(f"{key}/")) for each in keys])


def publish(local: Path, remote: epath.Path, name: str, last: str) -> None:
    """Copies one folder of a folder to a store, and deletes there those that are no longer here.

    Args:
      local: the folder of folders.
      remote: its copy.
      name: of the one to copy; it replaces what the store has under that name.
      last: the name of the file that is written last.

    Raises:
      TrainingError: the store does not take it.
    """
    with told(TrainingError, remote, "cannot be written"):
        files, key = open_store(remote)
        there = _folders(files, key)
        _delete(files, there.pop(name, []), last)
        paths = [path for path in (local / name).rglob("*") if path.is_file()]
        for some in ([p for p in paths if p.name != last], [p for p in paths if p.name == last]):
            keys = [f"{key}/{path.relative_to(local).as_posix()}" for path in some]
            files.put([str(path) for path in some], keys)
        for other, keys in there.items():
            # A name that is no number is somebody else's.
            if other.isdecimal() and not (local / other).is_dir():
                _delete(files, keys, last)


def _folders(files: Any, key: str) -> dict[str, list[str]]:
    """The keys of all objects in the folders of a folder, by the name of the folder."""
    found: dict[str, list[str]] = {}
    for each in files.find(key):
        name, slash, _ = each.removeprefix(f"{key}/").partition("/")
        if slash:
            found.setdefault(name, []).append(each)
    return found


def _is_whole(keys: list[str], last: str) -> bool:
    return any(key.endswith(f"/{last}") for key in keys)


def _delete(files: Any, keys: list[str], last: str) -> None:
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{last}")):
        files.rm_file(key)
