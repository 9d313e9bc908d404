"""Convolution and max pooling with gradients that are fast on each backend.

The values are those of XLA's native operations. What is computed differently, and where:

- Convolution, on a CPU. XLA computes the gradient of a kernel at 4 to 17 GFLOP/s, where a matrix
  product reaches 100, and native convolution gradients are 20 times slower inside a loop (jax
  issue 12868). So both gradients are written as plain convolutions and matrix products.
- Max pooling, on a CPU and a GPU. The gradient of XLA's native pooling costs more than the
  convolutions around it. So pooling is a maximum of shifted views. On an H100 in bfloat16 this
  made the training step 1.6 times as fast (6,400 to 10,200 images/s at batch 128). The forward
  pass also keeps which tap of a window won: on a CPU forward and gradient together are 12 times
  as fast as if the gradient found it again (14 against 169 ms, 32x32x32x192). There, too, pooling
  is compiled apart from its neighbours: XLA would compute all taps again within each of them.

`jax.lax.platform_dependent` chooses when a program is compiled; an exported program holds both.
"""

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from googlenet_jax.models.windows import NO_PADDING, Padding, adjoint, pad, shifted_views

Images = Float[Array, "batch height width in_channels"]
Kernel = Float[Array, "kernel_height kernel_width in_channels out_channels"]
Outputs = Float[Array, "batch out_height out_width out_channels"]
Pooled = Float[Array, "batch out_height out_width in_channels"]
Result = TypeVar("Result")
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _apart(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function as a call, whose operations XLA fuses with each other only.

    For a CPU: XLA drops `lax.optimization_barrier` there before it fuses.
    """

    def call(*arguments: Array) -> Result:
        results = jax.jit(function)(*arguments)
        # The attribute is given to the operation that made the results, which is the call.
        return set_xla_metadata(results, inlineable="false")

    return call


def same_padding(size: int) -> Padding:
    """The padding with which an odd kernel `size` keeps the image size at a stride of 1."""
    return ((size // 2, size // 2), (size // 2, size // 2))


def _native_conv(
    x: Images, kernel: Kernel, stride: int, padding: Padding, precision: str
) -> Outputs:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT, precision=precision
    )


def _conv_as_product(
    x: Images, kernel: Kernel, stride: int, padding: Padding, precision: str
) -> Outputs:
    """The same, in forms that XLA computes fast on a CPU.

    A 1x1 convolution is a matrix product over the channels. An image with fewer pixels than the
    kernel is padded first: XLA would take it for the kernel, and multiply at 2 to 5 GFLOP/s.
    """
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding == NO_PADDING:
        return jnp.matmul(x, kernel[0, 0], precision=precision)
    sizes = zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)
    outputs = math.prod(size + low + high - window + 1 for size, (low, high), window in sizes)
    if stride == 1 and outputs < math.prod(kernel.shape[:2]):
        convolve = _apart(lambda x, kernel: _native_conv(x, kernel, 1, NO_PADDING, precision))
        return convolve(pad(x, padding, 0), kernel)
    return _native_conv(x, kernel, stride, padding, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv(
    x: Images, kernel: Kernel, stride: int, padding: Padding, precision: str = "default"
) -> Outputs:
    """Convolution as in deep learning, which is cross-correlation.

    With p the padded images, k the kernel and s the stride,

        out[b, y, x, o] = sum over i, j, c of p[b, s y + i, s x + j, c] * k[i, j, c, o]

    Args:
      x: Images, NHWC.
      kernel: Weights, HWIO.
      stride: Pixels from one window to the next, in both axes.
      padding: Zeros around the images.
      precision: Of the products: "default", "high" or "highest" (see `jax.lax.Precision`).
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _conv_as_product(x, kernel, stride, padding, precision),
        default=lambda x, kernel: _native_conv(x, kernel, stride, padding, precision),
    )


def _conv_forward(
    x: Images, kernel: Kernel, stride: int, padding: Padding, precision: str
) -> tuple[Outputs, tuple[Images, Kernel]]:
    return conv(x, kernel, stride, padding, precision), (x, kernel)


def _conv_backward(
    stride: int, padding: Padding, precision: str, saved: tuple[Images, Kernel], gradient: Outputs
) -> tuple[Images, Kernel]:
    def native(x: Images, kernel: Kernel, gradient: Outputs) -> tuple[Images, Kernel]:
        _, vjp = jax.vjp(lambda x, k: _native_conv(x, k, stride, padding, precision), x, kernel)
        return vjp(gradient)

    def in_plain_forms(x: Images, kernel: Kernel, gradient: Outputs) -> tuple[Images, Kernel]:
        # The gradient of x is a convolution too: of the outputs' gradient, spread by the stride,
        # with the kernel flipped in height and width and its channel axes swapped.
        spread = adjoint(gradient, x.shape[1:3], kernel.shape[:2], stride, padding)
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return (
            _conv_as_product(spread, flipped, 1, NO_PADDING, precision),
            _kernel_gradient(x, kernel.shape, gradient, stride, padding, precision),
        )

    return lax.platform_dependent(*saved, gradient, cpu=in_plain_forms, default=native)


def _kernel_gradient(
    x: Images,
    shape: tuple[int, ...],
    gradient: Outputs,
    stride: int,
    padding: Padding,
    precision: str,
) -> Kernel:
    """The gradient of the kernel, which sums over the batch and the output pixels.

    With p the padded images, s the stride and g the outputs' gradient,

        dk[i, j, c, o] = sum over b, y, x of p[b, s y + i, s x + j, c] * g[b, y, x, o]

    This is a convolution of the images with g as the kernel. It is also, for each tap (i, j), the
    matrix product of the tap's shifted view with g.
    """
    if stride == 1 and shape[:2] != (1, 1) and x.shape[1] * x.shape[2] > 64:
        # A convolution in which batch and input channels change places. On one core it reaches
        # 70 GFLOP/s against the products' 56 (3x3, 32x32 pixels, 64 to 192 channels) and 87
        # against 36 (5x5, 32 to 96); no gain at 8x8. The batch is cut into n parts, because 32
        # images at once can be too many for a cache that others use too: 4 GFLOP/s against 33 with
        # 8 images (the first layer above). More parts would only take longer to compile. Each part
        # takes every n-th image, so devices that share a batch have equal shares of each part.
        most = min(16, -(-len(x) // 8))
        n = next(n for n in range(most, 0, -1) if len(x) % n == 0)
        images, gradients = (y.reshape(-1, n, *y.shape[1:]) for y in (x, gradient))
        pairs = zip(
            images.transpose(1, 4, 2, 3, 0), gradients.transpose(1, 2, 3, 0, 4), strict=True
        )
        parts = [_native_conv(*pair, 1, padding, precision) for pair in pairs]
        return functools.reduce(jnp.add, parts).transpose(1, 2, 0, 3)
    flat = gradient.reshape(-1, shape[3])
    taps = [
        jnp.matmul(view.reshape(-1, shape[2]).T, flat, precision=precision)
        for view in shifted_views(x, shape[:2], stride, padding, fill=0)
    ]
    return jnp.stack(taps).reshape(shape)


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: Images, window: int, stride: int, padding: Padding) -> Pooled:
    """The maximum of each `window` x `window` square of pixels; padding never wins.

    On every backend, the gradient of a square goes to its first maximum in row-major order.
    """
    return _max_pool_forward(x, window, stride, padding)[0]


def _max_pool_forward(
    x: Images, window: int, stride: int, padding: Padding
) -> tuple[Pooled, tuple[Images, Array]]:
    """The maxima, and what the gradient needs: the images, and which tap of each window won.

    A tap is a position in the window, numbered in row-major order. The gradient uses the images
    on a TPU, where the taps are zeros, and the taps elsewhere.
    """

    def native(x: Images) -> tuple[Pooled, Array]:
        maxima = _native_max_pool(x, window, stride, padding)
        return maxima, jnp.zeros(maxima.shape, jnp.uint8)

    def by_views(x: Images) -> tuple[Pooled, Array]:
        views = shifted_views(x, (window, window), stride, padding, -jnp.inf)
        maxima = next(views)
        winner = jnp.zeros(maxima.shape, jnp.uint8)
        for tap, view in enumerate(views, start=1):
            winner = jnp.where(view > maxima, jnp.uint8(tap), winner)
            maxima = jnp.maximum(view, maxima)
        return maxima, winner

    maxima, winner = lax.platform_dependent(x, tpu=native, cpu=_apart(by_views), default=by_views)
    return maxima, (x, winner)


def _native_max_pool(x: Images, window: int, stride: int, padding: Padding) -> Pooled:
    dimensions, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, dimensions, strides, ((0, 0), *padding, (0, 0)))


def _max_pool_backward(
    window: int, stride: int, padding: Padding, saved: tuple[Images, Array], gradient: Pooled
) -> tuple[Images]:
    def native(x: Images, winner: Array, gradient: Pooled) -> tuple[Images]:
        _, vjp = jax.vjp(lambda x: _native_max_pool(x, window, stride, padding), x)
        return vjp(gradient)

    def by_winner(x: Images, winner: Array, gradient: Pooled) -> tuple[Images]:
        square = (window, window)

        # For each tap, and each input pixel: the output that meets the pixel with that tap.
        def views(outputs: Array, fill: int) -> list[Array]:
            spread = adjoint(outputs, x.shape[1:3], square, stride, padding, fill)
            return list(shifted_views(spread, square, 1, NO_PADDING, fill))[::-1]

        # dx = sum over the taps t of (the gradient of t's output, if t won there, else 0).
        zero = jnp.zeros((), gradient.dtype)
        pairs = zip(views(winner, window**2), views(gradient, 0), strict=True)
        parts = [jnp.where(won == tap, part, zero) for tap, (won, part) in enumerate(pairs)]
        # Without the barrier XLA would compute it again for each branch of the block before.
        return (lax.optimization_barrier(functools.reduce(jnp.add, parts)),)

    return lax.platform_dependent(
        *saved, gradient, tpu=native, cpu=_apart(by_winner), default=by_winner
    )


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def concatenate(parts: list[Float[Array, "batch height width _"]]) -> Images:
    """Concatenates the parts along the channels.

    XLA concatenates on a TPU by padding each part and taking the maximum of all. There each part
    is written into its place instead.
    """

    def in_place(*parts: Array) -> Array:
        x = lax.empty((*parts[0].shape[:-1], sum(part.shape[-1] for part in parts)), parts[0].dtype)
        start = 0
        for part in parts:
            x = lax.dynamic_update_slice_in_dim(x, part, start, axis=-1)
            start += part.shape[-1]
        return x

    return lax.platform_dependent(
        *parts, tpu=in_place, default=lambda *parts: jnp.concatenate(parts, axis=-1)
    )


LARGE = 2**16
"""Pixels of a batch: with 128 images of 32x32 `stored` saves cycles, with 16x16 it costs some."""


@jax.custom_vjp
def stored(x: Images) -> Images:
    """Returns x. On a TPU a large x is written to memory before a 3x3 convolution reads it.

    XLA would compute it within the convolution, from a slice of the block's 1x1 product. By its own
    estimate that takes 1.7 million cycles of a v5e instead of 0.6 (block 3a, 128 images).
    """
    if math.prod(x.shape[:3]) < LARGE:
        return x
    return lax.platform_dependent(x, tpu=lax.optimization_barrier, default=lambda x: x)


# The barrier itself would keep the gradient apart from what XLA fuses with it.
stored.defvjp(lambda x: (stored(x), None), lambda _, gradient: (gradient,))


def ceil_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """The (low, high) padding with which pooling keeps the last partial window.

    This is PyTorch's `ceil_mode=True`, which the article's GoogLeNet uses in its trunk: the number
    of windows is (size - window) / stride + 1, rounded up.
    """
    windows = -(-(size - window) // stride) + 1
    return 0, max(0, (windows - 1) * stride + window - size)
