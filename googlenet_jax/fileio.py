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
    with told(UserError, folder, "cannot be reached"), contextlib.suppress(FileNotFoundError):
        files, key = open_store(folder)
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
    with told(TrainingError, path, "cannot be written"):
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
        with told(CheckpointError, folder, "cannot be read"):
            files, key = open_store(folder)
            return {name: found["size"] for name, found in files.find(key, detail=True).items()}
    found = {}
    for parent, _, names in os.walk(folder):  # what vanishes meanwhile is left out
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def open_store(folder: epath.Path) -> tuple[Any, str]:
    """The store of a folder, and the folder's key in it."""
    import fsspec  # not needed on this machine alone, and it takes a while

    # What it remembered of a folder would hide what other processes have done there since.
    return fsspec.url_to_fs(str(folder), use_listings_cache=False)


@contextlib.contextmanager
def told(kind: type[Exception], path: epath.Path, what: str) -> Iterator[None]:
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
