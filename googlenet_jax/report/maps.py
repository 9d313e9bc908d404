"""Class activation maps as pictures; `TrainState.class_maps` computes them."""

import io

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from googlenet_jax.errors import printable

MIN_SIDE = 224  # to which smaller pictures are enlarged, in pixels
ORANGE = (213, 94, 0)  # Okabe and Ito, "Color Universal Design" (2008)
OPACITY = 0.8


def overlay(
    pixels: UInt8[np.ndarray, "height width channels"],
    class_map: Float[np.ndarray, "rows columns"],
) -> UInt8[np.ndarray, "out_height out_width rgb"]:
    """The picture in gray, and in orange what speaks for the class.

    Args:
      pixels: The picture as the network sees it.
      class_map: The higher, the more orange; where it is not above 0, there is none.
    """
    gray = enlarged(pixels).mean(axis=2, keepdims=True)
    heat = np.maximum(class_map, 0) / max(class_map.max(), np.finfo(np.float32).tiny)
    smooth = Image.fromarray(heat.astype(np.float32)).resize(
        (gray.shape[1], gray.shape[0]), Image.Resampling.BILINEAR
    )
    share = OPACITY * np.asarray(smooth)[..., None]
    return np.rint((1 - share) * gray + share * np.array(ORANGE)).astype(np.uint8)


def enlarged(
    pixels: UInt8[np.ndarray, "height width channels"],
) -> UInt8[np.ndarray, "out_height out_width rgb"]:
    """The picture in RGB with each pixel as a square, if it is smaller than `MIN_SIDE`."""
    scale = max(1, MIN_SIDE // min(pixels.shape[:2]))
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)


def explain(
    pixels: UInt8[np.ndarray, "height width channels"],
    class_map: Float[np.ndarray, "rows columns"],
    title: str,
    class_name: str,
) -> bytes:
    """A PNG with the picture, and beside it the `overlay`.

    Args:
      pixels: See `overlay`.
      class_map: See `overlay`.
      title: Above both.
      class_name: Of the map.
    """
    # Without pyplot, which would keep the figure in memory and may look for a display.
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title), parse_math=False)
    parts = {
        "what the network sees": enlarged(pixels),
        f"orange: what speaks for {printable(class_name)}": overlay(pixels, class_map),
    }
    for axes, (name, part) in zip(figure.subplots(1, 2), parts.items(), strict=True):
        axes.imshow(part)
        axes.set_title(name, fontsize=10, parse_math=False)
        axes.axis("off")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
