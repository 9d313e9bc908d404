"""Windows that slide over images: padding, shifted views, and the layout of their gradients."""

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
    """Pads height and width with `fill`: at the edges, and `interior` times between pixels.

    Negative padding crops.
    """
    spatial = [(low, high, interior) for low, high in padding]
    return lax.pad(x, jnp.array(fill, x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])


def shifted_views(
    x: Images, window: tuple[int, ...], stride: int, padding: Padding, fill: float
) -> Iterator[Outputs]:
    """Yields for each tap (i, j) of a window, row by row, the pixels that the tap meets.

    With p the padded images and s the stride, the view of tap (i, j) is

        v[b, y, x, c] = p[b, s y + i, s x + j, c]

    So any function of the windows is a function of these few views, element by element: the
    maximum of all views is max pooling.
    """
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
    """Spreads the outputs' gradient so that sliding the window over it visits the inputs.

    Between neighbours there are `stride` - 1 values of `fill`, and as many at the edges as it
    takes. Then the window of stride 1 at input pixel (y, x) holds all outputs that saw the pixel.
    Their order is reversed: the window's last tap is the output that saw the pixel with its first
    tap. This is why the gradient of a convolution is a convolution with the flipped kernel.

    Args:
      gradient: Gradient of the outputs, or anything else of their shape.
      size: Height and width of the inputs.
      window: Height and width of the window.
      stride: Of the windows over the inputs.
      padding: Of the inputs.
      fill: The value between and around.
    """
    spans = [(outputs - 1) * stride + 1 for outputs in gradient.shape[1:3]]
    rows, columns = (
        (window[axis] - 1 - low, size[axis] + low - spans[axis])
        for axis, (low, _) in enumerate(padding)
    )
    return pad(gradient, (rows, columns), fill, interior=stride - 1)
