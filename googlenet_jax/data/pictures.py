"""Picture files of any size, as a network's images; the only place that opens pictures."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from googlenet_jax import fileio
from googlenet_jax.errors import DataError

# Of the many formats that Pillow knows, some are handed to other programs: a PostScript file under
# a picture's name would be run by Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_BYTES = 2**28  # of a file
MAX_PIXELS = 2**26  # what is decoded takes 3 or 4 bytes each, before it is shrunk

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def open_image(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """A picture of which nothing but the header has been read.

    Args:
      content: of its file.
      formats: Pillow's names of those that it may have.

    Raises:
      DataError: it has another format, or more than `MAX_PIXELS`; says why.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise DataError(f"is no picture of these formats: {', '.join(formats)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"is too large: {error}") from error
    if opened.width * opened.height > MAX_PIXELS:
        raise DataError(
            f"is too large: {opened.width}x{opened.height} pixels are more than {MAX_PIXELS:,}"
        )
    return opened


def read(
    file: Path | bytes, shape: tuple[int, int, int], center_crop: float
) -> UInt8[np.ndarray, "height width channels"]:
    """The picture, of an animation the first frame, resized to `shape`.

    It is turned as its EXIF orientation says, laid on white where it is transparent, converted
    to gray or RGB, and then stretched to the height and width by bilinear interpolation that
    averages over all pixels where it shrinks. A picture that has that size keeps its pixels.

    Args:
      file: in one of the `FORMATS`, or its content.
      shape: (height, width, channels) with 1 or 3 channels.
      center_crop: of the shorter side, the share that a central square keeps; 0: the whole
        picture.

    Raises:
      DataError: it is no regular file, no picture, damaged, or larger than `MAX_BYTES` or
        `MAX_PIXELS`; says why, without the file's name.
    """

    def box(width: int, height: int) -> Box:
        side = min(width, height) * center_crop
        return _central(width, height, side) if center_crop else (0, 0, width, height)

    return _read(file, shape, box)


def read_random_crop(
    file: Path | bytes, shape: tuple[int, int, int], rng: np.random.Generator, min_area: float
) -> UInt8[np.ndarray, "height width channels"]:
    """A random part of the picture, stretched to `shape`; otherwise as `read`.

    Szegedy et al., "Going Deeper with Convolutions" (2014), section 6: a patch of 8 % to 100 % of
    the area, with an aspect ratio between 3/4 and 4/3. Both are drawn uniformly, the ratio's
    logarithm, until the patch fits; after ten tries it is the largest central square.

    Args:
      file: see `read`.
      shape: likewise.
      rng: of the part.
      min_area: the least share of the picture's area.

    Raises:
      DataError: see `read`.
    """

    def box(width: int, height: int) -> Box:
        for _ in range(10):
            area = rng.uniform(min_area, 1) * width * height
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left, top = (int(rng.integers(n + 1)) for n in (width - w, height - h))
                return left, top, left + w, top + h
        side = min(width, height)
        return _central(width, height, side)

    return _read(file, shape, box)


def _central(width: int, height: int, side: float) -> Box:
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _read(
    file: Path | bytes, shape: tuple[int, int, int], box_of: Callable[[int, int], Box]
) -> UInt8[np.ndarray, "height width channels"]:
    """The part of a picture that `box_of(width, height)` names, stretched to `shape`."""
    height, width, channels = shape
    try:
        content = file if isinstance(file, bytes) else fileio.read(file, MAX_BYTES)
        with open_image(content) as opened:
            picture = _convert(ImageOps.exif_transpose(opened), {1: "L", 3: "RGB"}[channels])
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything
        reason = getattr(error, "strerror", None) or f"{error}"
        raise DataError(f"cannot be read: {reason or type(error).__name__}") from error
    resized = picture.resize((width, height), Image.Resampling.BILINEAR, box_of(*picture.size))
    return np.asarray(resized).reshape(shape)


def _convert(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        # Pillow would clip at 255 what counts to 65,535, or to 1.
        white = 1 if picture.mode == "F" else 65535
        with np.errstate(all="ignore"):  # not a number, or beyond all numbers
            shares = np.nan_to_num(np.asarray(picture, np.float32) / white).clip(0, 1)
        picture = Image.fromarray(np.round(shares * 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)
