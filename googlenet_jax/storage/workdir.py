"""A run's working directory: its config, its lock, the lines of its history."""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from googlenet_jax import fileio, parallel
from googlenet_jax.config import Config
from googlenet_jax.errors import CheckpointError, ConfigError, TrainingError, UserError
from googlenet_jax.fileio import WorkdirPath

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
FILES = (CONFIG, "metrics.jsonl", "summary.json", "curves.png")
"""What a run writes beside its checkpoints."""


@contextlib.contextmanager
def lock(workdir: WorkdirPath) -> Iterator[None]:
    """Makes the directory and keeps other processes from training in it.

    The kernel frees the lock when the process ends, however it ends. A store has no locks: there
    nobody keeps another process away.

    A start that fails before anything is written leaves nothing behind, new folders included.

    Raises:
      UserError: another process trains there, it holds something else than a run, or it is no
        directory that can be written.
    """
    fileio.check(workdir)
    try:
        _check_own(workdir)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"--workdir={workdir}: cannot be read: {error}") from error
    if not isinstance(workdir, Path):
        marker = workdir / CHECKPOINTS / ".folder"
        is_new = not marker.exists()
        try:
            # It stands for the folder, and shows before anything is computed whether one may write.
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
        return
    made: list[Path] = []
    try:
        file = _open_lock(workdir, made)
        with os.fdopen(file, "w"):
            try:
                yield
            except BaseException:
                _remove_unused(workdir, made)  # before the lock is free
                raise
    except BaseException:
        _remove_unused(workdir, made)
        raise


def is_training(workdir: WorkdirPath) -> bool:
    """Whether a process trains there now; True where nobody can say, as in a store."""
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
    """Makes sure that a folder holds a run or nothing of the kind, and that it can be written to.

    Raises:
      UserError: something else would be overwritten, or is in the way.
    """
    # Every run makes the folder of its checkpoints before its other files; an export has none.
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
    if (workdir / "tensorboard").exists() and not (workdir / "tensorboard").is_dir():
        raise UserError(f"{workdir / 'tensorboard'}: is no folder, and a run needs it; remove it")
    if (workdir / CONFIG).exists():
        read_config(workdir)


def _open_lock(workdir: Path, made: list[Path]) -> int:
    """The descriptor of the locked file; adds to `made` what had to be made for it.

    Raises:
      UserError: see `lock`.
    """
    path = workdir / ".lock"
    for _ in range(100):
        try:
            _make_folders(workdir, made)
            is_new = not path.exists()
            # Without waiting, as a pipe of that name would make it wait for ever.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # a process that was refused has just removed the folder that it had made
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise UserError(f"--workdir={workdir}: cannot be written: {error}") from error
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UserError(f"{path}: is not a regular file; remove it")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that another process has just removed keeps nobody away.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                if is_new:
                    made.append(path)
                _make_folders(workdir / CHECKPOINTS, made)
                return file
        except BlockingIOError as error:
            os.close(file)
            made.clear()  # the other process uses them
            raise UserError(f"--workdir={workdir}: another process is training there") from error
        except UserError:
            os.close(file)
            raise
        except OSError as error:
            os.close(file)
            raise UserError(f"--workdir={workdir}: cannot be written: {error}") from error
        os.close(file)
    raise UserError(f"--workdir={workdir}: cannot be written: it goes away again and again")


def _make_folders(folder: Path, made: list[Path]) -> None:
    for each in [*reversed(folder.parents), folder]:
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            made.append(each)


def _remove_unused(workdir: Path, made: list[Path]) -> None:
    """Removes what was made for a run that has written nothing."""
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
    """Where a process of a run writes what people read.

    The first process has the working directory, and the lock on it; what the others would write
    is the same, and goes into a folder that is thrown away.

    Raises:
      UserError: see `lock`.
    """
    if parallel.is_first_process():
        with lock(workdir):
            yield workdir
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def check_new(folder: WorkdirPath, flag: str) -> None:
    """Makes sure that a folder holds nothing that could be overwritten.

    Args:
      folder: to be written; need not exist.
      flag: that named it.

    Raises:
      UserError: it is not empty, or no folder.
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
      CheckpointError: there is no run.
      ConfigError: the file is damaged.
      UserError: it is in a store that cannot be reached.
    """
    fileio.check(workdir)
    path = workdir / CONFIG
    try:
        return Config.from_dict(fileio.read_json(path))
    except OSError as error:
        raise CheckpointError(f"--workdir={workdir}: holds no run (no {CONFIG})") from error
    except (ValueError, AttributeError) as error:  # a ConfigError is a ValueError
        raise ConfigError(f"{path}: not a config of this version: {error}") from error


def write_config(workdir: WorkdirPath, config: Config) -> None:
    """Writes the complete config of a run."""
    fileio.write_json(workdir / CONFIG, config.to_dict())


def check_same_run(workdir: WorkdirPath, config: Config) -> Config | None:
    """The config that the run in `workdir` was saved with, if `config` may go on with it.

    Returns None where there is no checkpoint yet: then nothing is lost by another config.

    Raises:
      ConfigError: it differs in a field that changes the result; names each with both values.
      CheckpointError: there are checkpoints but no config.
    """
    # Orbax gives an unfinished checkpoint another name.
    if not any(path.name.isdecimal() for path in (workdir / CHECKPOINTS).glob("*")):
        return None
    saved = read_config(workdir)
    changed = [f"{name} (was {old!r}, is {new!r})" for name, old, new in _changes(saved, config)]
    if changed:
        raise ConfigError(
            f"--workdir={workdir}: holds another run: {', '.join(changed)}; "
            "choose another directory, or the old values"
        )
    return saved


def check_recorded(workdir: WorkdirPath, config: Config, recorded: dict[str, Any]) -> None:
    """Makes sure that config.json says what a verified checkpoint says.

    Args:
      workdir: of the run.
      config: from its config.json.
      recorded: the config in the checkpoint's record; empty in those of older versions.

    Raises:
      ConfigError: they differ in a field that changes the result; names each with both values.
    """
    if not recorded:
        return
    try:
        proven = Config.from_dict(recorded)
    except ConfigError as error:
        raise ConfigError(f"{workdir}: a checkpoint of another version: {error}") from error
    changed = [
        f"{name} is {new!r}, but the checkpoint was written with {old!r}"
        for name, old, new in _changes(proven, config)
    ]
    if changed:
        raise ConfigError(f"{workdir / CONFIG}: has been changed: {'; '.join(changed)}")


def _changes(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of each setting that changes the result and differs."""
    before = {name: value for name, _, value in old.options()}
    return [
        (name, before[name], value)
        for name, field, value in new.options()
        if value != before[name] and not field.metadata["resumable"]
    ]


def write_metrics(workdir: WorkdirPath, history: list[dict[str, Any]]) -> None:
    """Writes metrics.jsonl anew, one finished epoch a line, so that it is never torn or doubled."""
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    fileio.write(workdir / "metrics.jsonl", lines.encode())
