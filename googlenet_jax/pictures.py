"""Picture files of any size and kind, as a network's images."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from googlenet_jax.errors import DataError


def read(
    file: Path | bytes, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    """The whole picture, of an animation the first frame, resized to `shape`.

    It is turned as its EXIF orientation says, laid on white where it is transparent, converted
    to gray or RGB, and then stretched to the height and width by bilinear interpolation that
    averages over all pixels where it shrinks. A picture that has that size keeps its pixels.

    Args:
      file: in a format that Pillow reads, or its content.
      shape: (height, width, channels) with 1 or 3 channels.

    Raises:
      DataError: it is no picture, is damaged, or exceeds Pillow's limit of pixels; says why,
        without the file's name.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            picture = _convert(ImageOps.exif_transpose(opened), {1: "L", 3: "RGB"}[channels])
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise DataError("is no picture that Pillow knows") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"is too large: {error}") from error
    except Exception as error:  # Pillow's decoders raise almost anything
        reason = getattr(error, "strerror", None) or f"{error}"
        raise DataError(f"cannot be read: {reason or type(error).__name__}") from error
    return np.asarray(picture).reshape(shape)


def _convert(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        # Pillow would clip at 255 what counts to 65,535, or to 1.
        white = 1 if picture.mode == "F" else 65535
        shares = np.nan_to_num(np.asarray(picture, np.float32) / white).clip(0, 1)
        picture = Image.fromarray(np.round(shares * 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)
