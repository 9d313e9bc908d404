"""Files on this machine and in object stores (gs:// and s3://), through etils' epath and fsspec.

An object store has no appending, renaming or locking, but an object is either complete or absent.
So a folder of several objects has one that is written last and deleted first; without that one, the
folder counts as absent.
"""

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

from etils import epath

from googlenet_jax.errors import CheckpointError, TrainingError, UserError, no_logging

WorkdirPath: TypeAlias = Path | epath.Path
"""A folder or file on this machine or in an object store."""

PACKAGES = {"gs://": "gcsfs", "s3://": "s3fs"}
MAX_JSON_BYTES = 2**26  # far more than any run's history needs


def cache_folder() -> Path:
    """This project's folder in the user's cache folder.

    Raises:
      OSError: The user has no home directory, as in many containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "googlenet_jax"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "there is no home directory") from error


def is_plain(path: Path | str) -> bool:
    """Whether Orbax and TensorStore read a path as it is, unlike one with brackets, for example."""
    return bool(re.fullmatch(r"[\w/.,:;=+~@#%&()' -]*", str(path)))


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder whose path is plain, see `is_plain`."""
    place = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(dir=place if is_plain(place) else "/tmp") as folder:
        yield Path(folder)


def parse(text: str) -> WorkdirPath:
    """The path for a text; gs:// and s3:// are object stores."""
    return epath.Path(text) if text.startswith(tuple(PACKAGES)) else Path(text)


def check(folder: WorkdirPath) -> None:
    """Checks that the folder's object store can be reached; does nothing for a local folder.

    Raises:
      UserError: The path is malformed (such as gs:/bucket), a package is not installed, or the
        store refuses access, for example without credentials.
    """
    if isinstance(folder, Path):
        if str(folder).startswith(tuple(scheme.rstrip("/") for scheme in PACKAGES)):
            raise UserError(f"{folder}: a store's path must begin with {' or '.join(PACKAGES)}")
        return
    with told(UserError, folder, "cannot be reached"), contextlib.suppress(FileNotFoundError):
        files, key = open_store(folder)
        # Ask for an object, not the bucket: a user may lack permission to inspect the bucket.
        files.info(f"{key}/config.json")


def read(path: WorkdirPath, max_bytes: int) -> bytes:
    """The content of a regular file (links are followed) or of an object.

    Args:
      path: The file or object.
      max_bytes: The largest size allowed; checked before memory is allocated.

    Raises:
      OSError: It cannot be read, is too large, or is a folder, pipe, socket or device, on which a
        read might block for ever.
    """
    if not isinstance(path, Path):
        size = path.stat().length
    else:
        try:
            status = path.stat()
        except ValueError as error:  # a NUL in the name
            raise OSError(errno.EINVAL, str(error), str(path)) from error
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        size = status.st_size
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", str(path))
    return path.read_bytes()


def read_json(path: WorkdirPath) -> Any:
    """The value in a JSON file of at most `MAX_JSON_BYTES`.

    Raises:
      OSError: See `read`.
      ValueError: It is not JSON, is nested too deeply, or has a name twice in one object.
    """
    content = read(path, MAX_JSON_BYTES)
    try:
        return json.loads(content, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # json would keep the last one, while a person may read the first
        raise ValueError("it has a name twice")
    return values


def write(path: WorkdirPath, content: bytes) -> None:
    """Writes a file or an object atomically: a reader sees the old content or all of the new.

    Raises:
      OSError: The file cannot be written.
      TrainingError: The object cannot be written.
    """
    if isinstance(path, Path):
        with replacing(path) as file:
            file.write(content)
        return
    with told(TrainingError, path, "cannot be written"):
        try:
            path.write_bytes(content)
        except FileNotFoundError as error:
            raise LookupError("there is no such bucket") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file on this machine, which takes the place of `path` once it is complete.

    Raises:
      OSError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # it may be a pipe, or a link to another file
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:  # the error of a full disk does not name the file
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: WorkdirPath, value: Any) -> None:
    """Writes a value as indented JSON; see `write`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def listing(folder: WorkdirPath) -> dict[str, Any]:
    """A value that changes whenever anything in the folder is written or deleted.

    Raises:
      CheckpointError: The store cannot be read.
    """
    if not isinstance(folder, Path):
        with told(CheckpointError, folder, "cannot be read"):
            files, key = open_store(folder)
            # With times and tags: a checkpoint that is written again has the same size.
            return dict(files.find(key, detail=True))
    found = {}
    for parent, _, names in os.walk(folder):  # entries that vanish meanwhile are skipped
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def open_store(folder: epath.Path) -> tuple[Any, str]:
    """The fsspec file system of a folder's store, and the folder's key in it."""
    import fsspec  # slow to import, and not needed for local files

    # A cached listing would hide what other processes have written since.
    return fsspec.url_to_fs(str(folder), use_listings_cache=False)


@contextlib.contextmanager
def told(kind: type[Exception], path: epath.Path, what: str) -> Iterator[None]:
    """Turns whatever a store's library raises into one line, and mutes what it logs.

    Args:
      kind: The exception to raise instead.
      path: The folder or object, for the message.
      what: What failed, for the message, such as "cannot be read".
    """
    # Logging is muted from the main thread only, because it would mute the other threads too.
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
