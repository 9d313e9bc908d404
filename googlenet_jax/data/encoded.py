"""Decodes the PNG or JPEG images of a small data set, and caches the pixels in the user's home."""

import contextlib
import errno
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from googlenet_jax.data import pictures
from googlenet_jax.data.dataset import Arrays, Split
from googlenet_jax.errors import DataError


def decode(
    images: Sequence[bytes], shape: tuple[int, int, int], source: str, first: int = 0
) -> UInt8[np.ndarray, "examples height width channels"]:
    """Decodes images that all have the same shape.

    Args:
      images: Contents of PNG or JPEG files.
      shape: (height, width, channels) of each image.
      source: Where they come from, for the error message.
      first: The number of `images[0]` in the source, for the error message.

    Raises:
      DataError: An image cannot be decoded or has another shape.
    """
    height, width, channels = shape
    pixels = np.empty((len(images), *shape), np.uint8)
    mode = {1: "L", 3: "RGB"}[channels]

    def fill(index: int) -> None:
        try:
            with pictures.open_image(images[index], ("PNG", "JPEG")) as image:
                found = (image.mode, *image.size)  # read from the header, before decoding
                if found == (mode, width, height):
                    pixels[index] = np.asarray(image).reshape(shape)
                    return
        except Exception as error:  # Pillow's decoders raise almost anything
            raise DataError(
                f"{source}: image {first + index} cannot be decoded: {error}"
            ) from error
        raise DataError(
            f"{source}: image {first + index} is {found[0]}, {found[1]}x{found[2]}; "
            f"expected {mode}, {width}x{height}"
        )

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(images)), chunksize=1000):
            pass
    return pixels


def cache_folder() -> Path:
    """This project's folder in the user's cache folder.

    Raises:
      OSError: The user has no home directory, as in many containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "googlenet_jax"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "there is no home directory") from error


def cached(key: str, make: Callable[[], dict[Split, Arrays]]) -> tuple[dict[Split, Arrays], str]:
    """Returns the arrays cached under `key`, and a description of the cache file.

    If they are not cached, or the file is damaged (the zip format has checksums), `make` makes
    them and they are cached. If they cannot be cached, the description gives the reason.
    """
    try:
        path = cache_folder() / f"{key}.npz"
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
