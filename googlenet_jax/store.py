"""Working directories in object stores, gs:// and s3://, through etils' epath and fsspec.

A store keeps whole objects and promises little else: nothing is appended to, renamed or locked.
So an object is there whole or not at all, and a folder of many has one that is written last and
deleted first: without it, the others count for nothing.
"""

import contextlib
import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from googlenet_jax.errors import CheckpointError, TrainingError, UserError, no_logging

WorkdirPath: TypeAlias = Path | epath.Path
"""A folder or file of this machine, or of a store."""

PACKAGES = {"gs://": "gcsfs", "s3://": "s3fs"}
MAX_JSON_BYTES = 2**26  # far more than the history of any run


def parse(text: str) -> WorkdirPath:
    """The path that a text names."""
    return epath.Path(text) if text.startswith(tuple(PACKAGES)) else Path(text)


def check(folder: WorkdirPath) -> None:
    """Makes sure that the store of a folder answers; a folder of this machine has none.

    Raises:
      UserError: the path is neither a store's nor this machine's, a package is not installed, or
        the store refuses, such as for want of credentials.
    """
    if isinstance(folder, Path):
        if str(folder).startswith(tuple(scheme.rstrip("/") for scheme in PACKAGES)):
            raise UserError(f"{folder}: a store's path begins with {' or '.join(PACKAGES)}")
        return
    with _told(UserError, folder, "cannot be reached"), contextlib.suppress(FileNotFoundError):
        files, key = _open(folder)
        # Any object will do; of the bucket itself a user may not be allowed to know anything.
        files.info(f"{key}/config.json")


def read(path: WorkdirPath, max_bytes: int) -> bytes:
    """The content of a regular file, or of an object.

    Args:
      path: of it; links are followed.
      max_bytes: the most that it may hold, which is checked before memory is taken.

    Raises:
      OSError: it cannot be read, is larger, or is a folder, pipe, socket or device, from which a
        read might never come back.
    """
    if not isinstance(path, Path):
        size, content = path.stat().length, path.read_bytes
    else:
        try:
            status = path.stat()
        except ValueError as error:  # a NUL in the name
            raise OSError(errno.EINVAL, str(error), str(path)) from error
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        size, content = status.st_size, path.read_bytes
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", str(path))
    return content()


def read_json(path: WorkdirPath) -> Any:
    """The value that a JSON file of at most `MAX_JSON_BYTES` holds.

    Raises:
      OSError: see `read`.
      ValueError: it is not JSON, or nested too deeply.
    """
    return parse_json(read(path, MAX_JSON_BYTES))


def parse_json(content: bytes) -> Any:
    """The value that JSON text holds.

    Raises:
      ValueError: it is not JSON, nested too deeply, or names something twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # the reader takes the last one, and people see the first
        raise ValueError("it has a name twice")
    return values


def write(path: WorkdirPath, content: bytes) -> None:
    """Writes a file or an object, which at any moment is the old one or the whole new one.

    Raises:
      OSError: this machine does not take it.
      TrainingError: the store does not take it.
    """
    if isinstance(path, Path):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)  # it may be a pipe, or a link to somebody's file
            with temporary.open("xb") as file:
                file.write(content)
            temporary.replace(path)
        except OSError as error:  # one of a full disk names no file
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise OSError(error.errno, error.strerror, str(path)) from error
        return
    with _told(TrainingError, path, "cannot be written"):
        try:
            path.write_bytes(content)
        except FileNotFoundError as error:
            raise LookupError("there is no such bucket") from error


def write_json(path: WorkdirPath, value: Any) -> None:
    """Writes a JSON file for people to read too; see `write`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def listing(folder: WorkdirPath) -> dict[str, Any]:
    """Something that changes whenever anything is written or deleted in a folder.

    Raises:
      CheckpointError: its store does not answer.
    """
    if not isinstance(folder, Path):
        with _told(CheckpointError, folder, "cannot be read"):
            files, key = _open(folder)
            return {name: found["size"] for name, found in files.find(key, detail=True).items()}
    found = {}
    for parent, _, names in os.walk(folder):  # what vanishes meanwhile is left out
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def download(remote: epath.Path, local: Path, last: str) -> None:
    """Copies the folders of a folder that are whole.

    Args:
      remote: the folder of folders.
      local: where they go.
      last: the name of the object that is written last into each of them.

    Raises:
      CheckpointError: the store does not give them.
    """
    with _told(CheckpointError, remote, "cannot be read"):
        files, key = _open(remote)
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
    with _told(TrainingError, remote, "cannot be written"):
        files, key = _open(remote)
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


def _open(folder: epath.Path) -> tuple[Any, str]:
    import fsspec  # not needed on this machine alone, and it takes a while

    # What it remembered of a folder would hide what other processes have done there since.
    return fsspec.url_to_fs(str(folder), use_listings_cache=False)


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


@contextlib.contextmanager
def _told(kind: type[Exception], path: epath.Path, what: str) -> Iterator[None]:
    """Makes one line of what the stores' libraries raise and log, which is almost anything."""
    # Only in the main thread, as that would mute what others have to say.
    is_main = threading.current_thread() is threading.main_thread()
    try:
        with no_logging() if is_main else contextlib.nullcontext():
            yield
    except ImportError as error:
        package = PACKAGES[str(path)[:5]]
        raise UserError(f"{path}: needs pip install {package}: {error}") from error
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise kind(f"{path}: {what}: {text[:200]}") from error
