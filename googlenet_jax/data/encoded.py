"""Images that a source holds as PNG or JPEG: decoded once, then kept in the user's cache folder."""

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
    """The pixels of encoded images of one shape, (height, width, channels).

    Args:
      images: PNG or JPEG files.
      shape: of each.
      source: where they come from, for an error's message.
      first: the number of the first of them there, for the same.

    Raises:
      DataError: one of them is no image of that shape.
    """
    height, width, channels = shape
    pixels = np.empty((len(images), *shape), np.uint8)
    mode = {1: "L", 3: "RGB"}[channels]

    def fill(index: int) -> None:
        try:
            with pictures.open_image(images[index], ("PNG", "JPEG")) as image:
                found = (image.mode, *image.size)  # from the header: nothing is unpacked yet
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
    """Where a user's programs keep what they can make again.

    Raises:
      OSError: the user has no home, as in many containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "googlenet_jax"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "there is no home directory") from error


def cached(key: str, make: Callable[[], dict[Split, Arrays]]) -> tuple[dict[Split, Arrays], str]:
    """The arrays that `make` made before for this key, or makes now; and where they are kept.

    The file is verified (by the checksums of the zip format); a damaged one is made anew. A
    cache that cannot be written is done without, and the reason stands in place of the file.
    """
    try:
        path = cache_folder() / f"{key}.npz"
    except OSError as error:
        return make(), f"none ({error.strerror})"
    try:
        with np.load(path) as stored:
            return {
                split: Arrays(stored[f"{split}_images"], stored[f"{split}_labels"])
                for split in (Split.TRAIN, Split.TEST)
            }, _describe(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        splits = make()
    named = {
        f"{split}_{part}": getattr(arrays, part)
        for split, arrays in splits.items()
        for part in ("images", "labels")
    }
    temporary = path.with_name(f"{key}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **named)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return splits, f"none ({error})"
    return splits, _describe(path)


def _describe(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:.0f} MB)"
