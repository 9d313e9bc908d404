"""Caches the decoded images of a small data set in the user's home."""

import contextlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from googlenet_jax import fileio
from googlenet_jax.data.dataset import Arrays, Split


def cached(key: str, make: Callable[[], dict[Split, Arrays]]) -> tuple[dict[Split, Arrays], str]:
    """Returns the arrays cached under `key`, and a description of the cache file.

    If they are not cached, or the file is damaged (the zip format has checksums), `make` makes
    them and they are cached. If they cannot be cached, the description gives the reason.
    """
    try:
        path = fileio.cache_folder() / f"{key}.npz"
    except OSError as error:
        return make(), f"none ({error.strerror})"
    try:
        with np.load(path) as stored:
            splits = {
                split: Arrays(stored[f"{split}_images"], stored[f"{split}_labels"])
                for split in (Split.TRAIN, Split.TEST)
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        splits = make()
        try:
            _write(path, splits)
        except OSError as error:
            return splits, f"none ({error})"
    return splits, f"{path} ({path.stat().st_size / 1e6:.0f} MB)"


def _write(path: Path, splits: dict[Split, Arrays]) -> None:
    named = {
        f"{split}_{part}": getattr(arrays, part)
        for split, arrays in splits.items()
        for part in ("images", "labels")
    }
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            np.savez(file, **named)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
