"""Turns picture files of any size into pixels of one size.

This is the only module that opens picture files: `read` for evaluation, `read_random_crop` for
training.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from googlenet_jax import fileio
from googlenet_jax.errors import DataError

# Not all formats of Pillow, because it hands some of them to other programs: Ghostscript would run
# a PostScript file, whatever its name.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_BYTES = 2**28  # of a file
MAX_PIXELS = 2**26  # each takes 3 or 4 bytes once decoded, before the picture is resized

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def open_image(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Opens a picture by reading its header only; Pillow decodes the pixels when they are used.

    Args:
      content: The content of the file.
      formats: Pillow's names of the formats to accept.

    Raises:
      DataError: It has another format, or more than `MAX_PIXELS`.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise DataError(f"is not a picture of these formats: {', '.join(formats)}") from error
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
    """The pixels of a picture, resized to `shape`; of an animation, the first frame.

    The picture is rotated by its EXIF orientation, laid on white if it is transparent, and
    converted to gray or RGB. Then it is stretched to the given height and width by bilinear
    interpolation, which averages over all pixels when it shrinks. At its original size, a picture
    keeps its pixels.

    Args:
      file: A file in one of the `FORMATS`, or its content.
      shape: (height, width, channels) of the result, with 1 or 3 channels.
      center_crop: Side of the central square to keep, as a fraction of the shorter side; 0 keeps
        the whole picture.

    Raises:
      DataError: It is not a regular file, not a picture, damaged, or larger than `MAX_BYTES` or
        `MAX_PIXELS`. The message does not name the file.
    """

    def box(width: int, height: int) -> Box:
        side = min(width, height) * center_crop
        return _central(width, height, side) if center_crop else (0, 0, width, height)

    return _read(file, shape, box)


def read_random_crop(
    file: Path | bytes, shape: tuple[int, int, int], rng: np.random.Generator, min_area: float
) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of a random part of a picture, stretched to `shape`; otherwise like `read`.

    Szegedy et al., "Going Deeper with Convolutions" (2014), section 6: a patch of 8 % to 100 % of
    the area, with an aspect ratio between 3/4 and 4/3. The area and the logarithm of the ratio are
    drawn uniformly until the patch fits. After ten tries, the largest central square is used.

    Args:
      file: See `read`.
      shape: See `read`.
      rng: Draws the patch.
      min_area: Smallest area of the patch, as a fraction of the picture's area.

    Raises:
      DataError: See `read`.
    """

    def box(width: int, height: int) -> Box:
        for _ in range(10):
            area = rng.uniform(min_area, 1) * width * height
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left, top = (int(rng.integers(n + 1)) for n in (width - w, height - h))
                return left, top, left + w, top + h
        return _central(width, height, min(width, height))

    return _read(file, shape, box)


def _central(width: int, height: int, side: float) -> Box:
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _read(
    file: Path | bytes, shape: tuple[int, int, int], box_of: Callable[[int, int], Box]
) -> UInt8[np.ndarray, "height width channels"]:
    """Decodes a picture and stretches the part `box_of(width, height)` to `shape`."""
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
        # Here white is 65,535, or 1 in floating point; Pillow would clip at 255 instead.
        white = 1 if picture.mode == "F" else 65535
        with np.errstate(all="ignore"):  # pixels may be NaN or infinite
            shares = np.nan_to_num(np.asarray(picture, np.float32) / white).clip(0, 1)
        picture = Image.fromarray(np.round(shares * 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


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
            with open_image(images[index], ("PNG", "JPEG")) as image:
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
