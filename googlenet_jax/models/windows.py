"""Windows that move over images: padding, the views that a window's taps have, and the way back."""

import itertools
from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

Padding = tuple[tuple[int, int], tuple[int, int]]
"""((low, high) of the height, (low, high) of the width), in pixels."""

NO_PADDING: Padding = ((0, 0), (0, 0))
Images = Shaped[Array, "batch height width channels"]
Padded = Shaped[Array, "batch padded_height padded_width channels"]
Outputs = Shaped[Array, "batch out_height out_width channels"]


def pad(x: Images, padding: Padding, fill: float, interior: int = 0) -> Padded:
    """Pads height and width around and, by `interior`, between pixels; below 0 it crops."""
    spatial = [(low, high, interior) for low, high in padding]
    return lax.pad(x, jnp.array(fill, x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])


def shifted_views(
    x: Images, window: tuple[int, ...], stride: int, padding: Padding, fill: float
) -> Iterator[Outputs]:
    """For each tap of a window, row-major: the pixels that it meets, one for each output."""
    padded = pad(x, padding, fill)
    batch, height, width, channels = padded.shape
    rows, columns = ((height - window[0]) // stride, (width - window[1]) // stride)
    for row, column in itertools.product(range(window[0]), range(window[1])):
        yield lax.slice(
            padded,
            (0, row, column, 0),
            (batch, row + rows * stride + 1, column + columns * stride + 1, channels),
            (1, stride, stride, 1),
        )


def adjoint(
    gradient: Outputs,
    size: tuple[int, ...],
    window: tuple[int, ...],
    stride: int,
    padding: Padding,
    fill: float = 0,
) -> Padded:
    """The outputs' gradient, spread so that windows of stride 1 over it meet each of the inputs.

    The window of an input pixel holds the outputs whose windows hold the pixel: its last tap is
    the output that sees the pixel with its first. `fill` is what stands between and around them.
    """
    spans = [(outputs - 1) * stride + 1 for outputs in gradient.shape[1:3]]
    rows, columns = (
        (window[axis] - 1 - low, size[axis] + low - spans[axis])
        for axis, (low, _) in enumerate(padding)
    )
    return pad(gradient, (rows, columns), fill, interior=stride - 1)
