"""A run's working directory: its lock, its config.json and its metrics.jsonl."""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from googlenet_jax import fileio, parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Split
from googlenet_jax.errors import CheckpointError, ConfigError, TrainingError, UserError
from googlenet_jax.fileio import WorkdirPath

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
FILES = (CONFIG, "metrics.jsonl", "summary.json", "curves.png", "logger.json")
"""The files that a run writes beside its checkpoints."""


@contextlib.contextmanager
def lock(workdir: WorkdirPath) -> Iterator[None]:
    """Makes the directory and keeps other processes from training in it.

    The kernel frees the lock when the process ends, however it ends. Object stores have no lock:
    never start two runs in one directory there.

    If the start fails before anything is written, whatever was made is removed again.

    Raises:
      UserError: Another process is training there, the directory holds something other than a
        run, or it cannot be written.
    """
    fileio.check(workdir)
    try:
        _check_own(workdir)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"--workdir={workdir}: cannot be read: {error}") from error
    with _locked(workdir) if isinstance(workdir, Path) else _marked(workdir):
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    made: list[Path] = []
    file = None
    try:
        file = _open_lock(workdir, made)
        yield
    except BaseException:
        _remove_unused(workdir, made)  # before the lock is free
        raise
    finally:
        if file is not None:
            os.close(file)


@contextlib.contextmanager
def _marked(workdir: epath.Path) -> Iterator[None]:
    marker = workdir / CHECKPOINTS / ".folder"
    is_new = not marker.exists()
    try:
        # Stores have no folders: this file stands for one, and shows early if writing is allowed.
        fileio.write(marker, b"")
    except TrainingError as error:
        raise UserError(f"--workdir={error}") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the store may be what has failed
            if is_new and _is_unused(workdir):
                marker.unlink()
        raise


def is_training(workdir: WorkdirPath) -> bool:
    """Whether a process is training there now; always True in a store, which has no locks."""
    if not isinstance(workdir, Path):
        return True
    try:
        file = os.open(workdir / ".lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def _check_own(workdir: WorkdirPath) -> None:
    """Checks that a run would overwrite only its own files, and that nothing is in its way.

    Raises:
      UserError: Files of something else would be overwritten, or something is in the way.
    """
    # A run makes the folder of its checkpoints before its other files; an export has none.
    is_run = (workdir / CHECKPOINTS).is_dir()
    for name in FILES:
        path = workdir / name
        if path.exists() and not is_run:
            raise UserError(
                f"--workdir={workdir}: holds {name} but no run; choose another directory"
            )
    if not isinstance(workdir, Path):
        return
    for path in [workdir / each for name in FILES for each in (name, f".{name}.tmp")]:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file, and a run would write it; remove it")
    for events in (workdir / "tensorboard", *(workdir / "tensorboard" / split for split in Split)):
        if events.exists() and not events.is_dir():
            raise UserError(f"{events}: is not a folder, and a run would write in it; remove it")
    if (workdir / CONFIG).exists():
        read_config(workdir)


def _open_lock(workdir: Path, made: list[Path]) -> int:
    """Makes and locks the file; returns its descriptor, and adds whatever it made to `made`.

    Raises:
      UserError: See `lock`.
    """
    path = workdir / ".lock"
    for _ in range(100):
        try:
            _make_folders(workdir, made)
            is_new = not path.exists()
            # O_NONBLOCK: a pipe of that name would block forever.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the folder, after its start failed
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise UserError(f"--workdir={workdir}: cannot be written: {error}") from error
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, file)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise UserError(f"{path}: is not a regular file; remove it")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # If another process has just removed the file, the lock keeps nobody out.
                if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                    if is_new:
                        made.append(path)
                    _make_folders(workdir / CHECKPOINTS, made)
                    stack.pop_all()  # leaves the file open
                    return file
            except BlockingIOError as error:
                made.clear()  # the other process uses them
                raise UserError(
                    f"--workdir={workdir}: another process is training there"
                ) from error
            except OSError as error:
                raise UserError(f"--workdir={workdir}: cannot be written: {error}") from error
    raise UserError(f"--workdir={workdir}: cannot be written: other processes keep removing it")


def _make_folders(folder: Path, made: list[Path]) -> None:
    for each in [*reversed(folder.parents), folder]:
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            made.append(each)


def _remove_unused(workdir: Path, made: list[Path]) -> None:
    """Removes whatever was made, unless the run has written something."""
    if not _is_unused(workdir):
        return
    with contextlib.suppress(OSError):  # a folder that is no longer empty stays
        while made:
            path = made.pop()
            path.rmdir() if path.is_dir() else path.unlink()


def _is_unused(workdir: WorkdirPath) -> bool:
    return not any((workdir / name).exists() for name in FILES)


@contextlib.contextmanager
def reports(workdir: WorkdirPath) -> Iterator[WorkdirPath]:
    """Where a process of a run writes its reports.

    That is the working directory, locked, for the first process. The others would write the same,
    and get a temporary folder.

    Raises:
      UserError: See `lock`.
    """
    if parallel.is_first_process():
        with lock(workdir):
            yield workdir
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def check_new(folder: WorkdirPath, flag: str) -> None:
    """Checks that a folder is empty or does not exist yet.

    Args:
      folder: The folder that will be written.
      flag: The flag that named it, for messages.

    Raises:
      UserError: It is not empty, or is not a folder.
    """
    fileio.check(folder)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{flag}={folder}: is not empty; choose another directory")
    except OSError as error:
        raise UserError(f"{flag}={folder}: cannot be written: {error}") from error


def read_config(workdir: WorkdirPath) -> Config:
    """The config that the run in `workdir` was started with.

    Raises:
      CheckpointError: There is no run.
      ConfigError: The file is damaged.
      UserError: It is in a store that cannot be reached.
    """
    fileio.check(workdir)
    path = workdir / CONFIG
    try:
        return Config.from_dict(fileio.read_json(path))
    except OSError as error:
        if isinstance(path, Path) and os.path.exists(path):
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        raise CheckpointError(f"--workdir={workdir}: holds no run (no {CONFIG})") from error
    except (ValueError, AttributeError) as error:  # a ConfigError is a ValueError
        raise ConfigError(f"{path}: not a config of this version: {error}") from error


def write_config(workdir: WorkdirPath, config: Config) -> None:
    """Writes the complete config of a run."""
    fileio.write_json(workdir / CONFIG, config.to_dict())


def check_same_run(workdir: WorkdirPath, config: Config) -> Config | None:
    """Checks that `config` can go on with the run in `workdir`, and returns the run's own config.

    Returns None if there is no checkpoint yet: then any config may start.

    Raises:
      ConfigError: A field that changes the result differs; names each with both values.
      CheckpointError: There are checkpoints but no config.
    """
    folder = workdir / CHECKPOINTS
    # The name of an unfinished checkpoint is not a number. In a store, `glob` would take characters
    # of the folder's own path for a pattern.
    if not (folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())):
        return None
    saved = read_config(workdir)
    changed = [f"{name} (was {old!r}, is {new!r})" for name, old, new in _changes(saved, config)]
    if changed:
        raise ConfigError(
            f"--workdir={workdir}: holds a run with other settings: {', '.join(changed)}; "
            "choose another directory, or set the old values"
        )
    return saved


def check_recorded(workdir: WorkdirPath, config: Config, recorded: dict[str, Any]) -> None:
    """Checks that config.json agrees with the config in a verified checkpoint.

    Args:
      workdir: The run's directory.
      config: The content of config.json.
      recorded: The config in the checkpoint's record; empty in those of older versions.

    Raises:
      ConfigError: A field that changes the result differs; names each with both values.
    """
    if not recorded:
        return
    try:
        proven = Config.from_dict(recorded)
    except ConfigError as error:
        raise ConfigError(
            f"{workdir}: the config in the checkpoint is not one of this version: {error}"
        ) from error
    changed = [
        f"{name} is {new!r}, but the checkpoint was written with {old!r}"
        for name, old, new in _changes(proven, config)
    ]
    if changed:
        raise ConfigError(
            f"{workdir / CONFIG}: was edited: {'; '.join(changed)}; put the old value back"
        )


def _changes(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of each setting that differs and changes the result."""
    before = {name: value for name, _, value in old.options()}
    return [
        (name, before[name], value)
        for name, field, value in new.options()
        if value != before[name] and not field.metadata["resumable"]
    ]


def write_metrics(workdir: WorkdirPath, history: list[dict[str, Any]]) -> None:
    """Rewrites metrics.jsonl, one line per finished epoch, so that no line is torn or doubled."""
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    fileio.write(workdir / "metrics.jsonl", lines.encode())
