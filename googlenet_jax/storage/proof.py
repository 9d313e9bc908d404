"""Verifies checkpoints: everything that proves that one is what was written.

Orbax commits a checkpoint atomically but verifies no content: a flipped bit in an array file loads
without an error. So each checkpoint carries two proofs. Its metadata holds a digest of every leaf
of the state, computed before the state was written, and a digest of the metadata itself. After the
commit, a seal lists the sha256 of each file, which also finds damage in parts that no leaf depends
on. A run that is killed between the two leaves a checkpoint without a seal; the digests still prove
its state.
"""

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from googlenet_jax import fileio
from googlenet_jax.errors import CheckpointError, no_logging
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.training.state import TrainState

SEAL = "seal.json"
# The file system's or the machine's fault, which may pass. The file itself may be whole.
PASSING = {
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
}


class DamagedError(CheckpointError):
    """A checkpoint that cannot be read, or is not what was written; it may be deleted."""


class ChangedError(ValueError):
    """Part of a checkpoint is not what was written; the message says which part."""


@contextlib.contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Turns whatever is raised while the named checkpoint is read into one of two errors.

    Raises:
      DamagedError: It is not what was written.
      CheckpointError: It cannot be read now, but may be whole.
    """
    try:
        with no_logging():
            yield
    except ChangedError as error:
        raise DamagedError(f"{checkpoint} is damaged: {error}") from error
    except Exception as error:  # Orbax and TensorStore raise almost anything
        reason = f"cannot be read: {first_line(error)}"
        if _passes(error):
            raise CheckpointError(f"{checkpoint} {reason}") from error
        raise DamagedError(f"{checkpoint} is damaged: {reason}") from error


def _passes(error: Exception) -> bool:
    """Whether the reason lies outside of the checkpoint, such as too little memory."""
    if isinstance(error, OSError):
        return error.errno in PASSING
    texts = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def check_entries(folder: Path, shown: WorkdirPath) -> None:
    """Checks that whatever Orbax would take for a checkpoint is a folder of plain files.

    Orbax lists every name that matches the regular expression below, which includes digits of
    other scripts and a line break at the end. Opening a pipe would block forever. Messages name
    the folder as `shown`.

    Raises:
      CheckpointError: Something else has the name of a checkpoint.
    """
    for path in folder.iterdir():
        if not re.search(r"^(0|[1-9]\d*)$", path.name):
            continue
        if not re.fullmatch("[0-9]{1,18}", path.name) or path.is_symlink() or not path.is_dir():
            raise CheckpointError(f"{shown / path.name}: is not a checkpoint; move it elsewhere")
        for each in path.rglob("*"):
            if not (each.is_file() or each.is_dir()):
                raise CheckpointError(
                    f"{shown / each.relative_to(folder)}: is not a regular file; move it elsewhere"
                )


def seal(folder: Path) -> None:
    """Writes the seal of a committed checkpoint."""
    # Orbax has no hidden files; file managers do, and may change theirs later.
    files = sorted(p for p in folder.rglob("[!.]*") if p.is_file() and p.name != SEAL)
    digests = {p.relative_to(folder).as_posix(): _file_digest(p) for p in files}
    fileio.write_json(folder / SEAL, digests)


def check_seal(folder: Path) -> None:
    """Verifies the files of a checkpoint; one without a seal passes.

    Raises:
      ChangedError: A file is missing or has changed, or the seal is no JSON file.
      OSError: A file cannot be read now.
    """
    try:
        sealed = fileio.read_json(folder / SEAL)
    except FileNotFoundError:  # the run was killed between commit and seal
        return
    except (OSError, ValueError) as error:
        if _passes(error):
            raise
        raise ChangedError(f"{SEAL} cannot be read") from error
    if not isinstance(sealed, dict):
        raise ChangedError(f"file {SEAL} has changed")
    # Files that the seal does not list, such as .DS_Store, were added by others: harmless.
    for name, expected in sorted(sealed.items()):
        try:
            path = folder / name
            is_same = path.is_file() and _file_digest(path) == expected
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            if _passes(error):
                raise
            is_same = False
        if not is_same:
            raise ChangedError(f"file {name[:100]} is missing or has changed")


def with_digest(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint and their digest."""
    return {**metadata, "digest": digest(canonical(metadata))}


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Verifies metadata, and returns them without their digest.

    Raises:
      ChangedError: The digest is wrong, or the leaves' digests are not strings.
      KeyError: There is no digest.
    """
    values = dict(metadata)
    if values.pop("digest") != digest(canonical(values)):
        raise ChangedError("its record has changed")
    if not all(isinstance(text, str) for text in values["leaves"].values()):
        raise ChangedError("its digests are not strings")
    return values


def leaf_digests(state: TrainState) -> dict[str, str]:
    """Type, shape and sha256 of each leaf, by its path in the state."""
    return {
        name: f"{_describe(leaf)} {digest(np.asarray(leaf).tobytes())}"
        for name, leaf in _named(jax.device_get(state)).items()
    }


def check_leaves(checkpoint: str, digests: dict[str, str], state: TrainState) -> None:
    """Verifies a restored state.

    Raises:
      DamagedError: A leaf is not what was written.
    """
    found = leaf_digests(state).items()
    if changed := [name for name, text in found if digests.get(name) != text]:
        raise DamagedError(
            f"{checkpoint} is damaged: {len(changed)} arrays have changed, first {changed[0]}"
        )


def misfits(digests: dict[str, str], like: TrainState) -> list[str]:
    """The leaves whose type or shape differs from those of another state, or of its shapes."""
    found = {name: text.rsplit(" ", 1)[0] for name, text in digests.items()}
    wanted = {name: _describe(leaf) for name, leaf in _named(like).items()}
    return sorted(dict(found.items() ^ wanted.items()))


def digest(content: bytes) -> str:
    """The sha256 of the content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def canonical(values: Any) -> bytes:
    """JSON values as bytes that do not depend on the order of their names."""
    return json.dumps(values, sort_keys=True).encode()


def first_line(error: Exception) -> str:
    """The error's type and the first line of its text; Orbax may add the text of a whole state."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _named(state: TrainState) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
