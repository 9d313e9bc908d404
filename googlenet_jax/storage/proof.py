"""The proof that a checkpoint is what was written.

Orbax commits a checkpoint atomically but verifies no content: a flipped bit in an array file loads
without an error. So each checkpoint carries two proofs. Its metadata holds a digest of every leaf
of the state, computed before the state was written, and a digest of the metadata itself. Once the
checkpoint is committed, a seal lists the sha256 of each of its files, which also finds damage in
parts that no leaf depends on. A run that is killed between the two leaves a checkpoint without a
seal; the digests still prove its state.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from googlenet_jax import fileio
from googlenet_jax.training.state import TrainState

SEAL = "seal.json"


def digest(*parts: bytes) -> str:
    """The sha256 of the parts, one after the other."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def canonical(values: Any) -> bytes:
    """JSON values as bytes that do not depend on the order of their names."""
    return json.dumps(values, sort_keys=True).encode()


def closed(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with their own digest."""
    return {**metadata, "digest": digest(canonical(metadata))}


def opened(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `closed`.

    Raises:
      KeyError: there is no digest.
      ValueError: the digest is not that of the metadata.
    """
    values = dict(metadata)
    if values.pop("digest") != digest(canonical(values)):
        raise ValueError("its record has changed")
    return values


def leaf_digests(state: TrainState) -> dict[str, str]:
    """The type, shape and sha256 of each leaf, by its path in the state."""
    return {
        name: f"{_describe(leaf)} {digest(np.asarray(leaf).tobytes())}"
        for name, leaf in _named(jax.device_get(state)).items()
    }


def misfits(digests: dict[str, str], like: TrainState) -> list[str]:
    """The leaves whose type or shape differs from those of another state, or its shapes."""
    found = {name: text.rsplit(" ", 1)[0] for name, text in digests.items()}
    wanted = {name: _describe(leaf) for name, leaf in _named(like).items()}
    return sorted(dict(found.items() ^ wanted.items()))


def changed(digests: dict[str, str], state: TrainState) -> list[str]:
    """The leaves of a state that are not those of the digests."""
    return [name for name, text in leaf_digests(state).items() if digests.get(name) != text]


def seal(folder: Path) -> None:
    """Writes the seal of a committed checkpoint."""
    fileio.write_json(folder / SEAL, _file_digests(folder))


def check_seal(folder: Path) -> None:
    """Verifies the files of a checkpoint; one without a seal was killed before it was sealed.

    Raises:
      ValueError: a file is missing or has changed, or the seal cannot be read.
    """
    try:
        sealed = fileio.read_json(folder / SEAL)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ValueError(f"{SEAL} cannot be read") from error
    if not isinstance(sealed, dict):
        raise ValueError(f"file {SEAL} is not as it was written")
    # Files that the seal does not list, such as .DS_Store, were added by others: harmless.
    for name, expected in sorted(sealed.items()):
        try:
            path = folder / name
            is_same = path.is_file() and _file_digest(path) == expected
        except (OSError, ValueError):  # ValueError: a NUL in the name
            is_same = False
        if not is_same:
            raise ValueError(f"file {name[:100]} is not as it was written")


def _named(state: TrainState) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _file_digests(folder: Path) -> dict[str, str]:
    # Orbax hides none of its files; file managers do, and may change theirs later.
    files = sorted(p for p in folder.rglob("[!.]*") if p.is_file() and p.name != SEAL)
    return {p.relative_to(folder).as_posix(): _file_digest(p) for p in files}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
