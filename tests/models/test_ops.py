"""Our convolution and pooling against XLA's native ones, and which platform gets which.

The tests run on a CPU, where `conv` and `max_pool` do not use XLA's native gradients. The
references call `jax.lax` directly.
"""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from googlenet_jax.models import ops

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def native_conv(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def native_max_pool(x, window, stride, padding):
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *padding, (0, 0)),
    )


def values_and_gradients(functions, *args):
    """For each function: the value, and the gradients for a cotangent of small whole numbers."""

    @jax.jit  # one program for all, because compiling takes most of this file's time
    def run(*args):
        results = []
        for function in functions:
            value, vjp = jax.vjp(function, *args)
            numbers = jnp.arange(value.size) * 7 % 11 - 5
            results.append((value, *vjp(numbers.reshape(value.shape).astype(value.dtype))))
        return results

    return run(*args)


def assert_close(found, expected):
    """Within 300 roundings of the largest value: no sum here has more terms than that."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        limit = 300 * np.finfo(b.dtype).eps * np.abs(b).max()
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= limit


def precision_of(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


CONVOLUTIONS = [
    # height, width, kernel size, stride, padding
    (9, 7, (1, 1), 1, ((0, 0), (0, 0))),
    (9, 7, (1, 1), 2, ((0, 0), (0, 0))),
    (8, 9, (1, 1), 1, ((1, 0), (0, 2))),
    (8, 8, (3, 3), 1, ((1, 1), (1, 1))),
    (9, 7, (3, 3), 2, ((1, 1), (1, 1))),
    (8, 7, (3, 3), 2, ((0, 1), (2, 0))),
    (8, 7, (3, 3), 1, ((0, 0), (0, 0))),
    (7, 9, (5, 5), 1, ((2, 2), (2, 2))),
    (9, 8, (5, 5), 2, ((1, 3), (2, 0))),
    (9, 8, (7, 7), 2, ((3, 3), (3, 3))),
    (5, 5, (7, 7), 1, ((3, 3), (3, 3))),  # a kernel larger than the image
    (6, 7, (3, 5), 1, ((2, 0), (4, 1))),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float32") for case in CONVOLUTIONS]
    + [(case, "float64") for case in CONVOLUTIONS[::4]],
    ids=str,
)
def test_conv_equals_native(case, dtype):
    height, width, size, stride, padding = case
    with precision_of(dtype):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, height, width, 3)), dtype)
        kernel = jnp.asarray(rng.normal(size=(*size, 3, 4)), dtype)
        found, expected = values_and_gradients(
            (
                lambda x, k: ops.conv(x, k, stride, padding, "highest"),
                lambda x, k: native_conv(x, k, stride, padding),
            ),
            x,
            kernel,
        )
        assert found[0].dtype == dtype
        assert_close(found, expected)


def test_conv_equals_loops():
    """Against the definition, so that this file does not depend on XLA alone."""
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(3, 3, 3, 4))
    padded = np.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0)))
    expected = np.zeros((2, 2, 3, 4))
    for row, column in np.ndindex(2, 3):
        patch = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected[:, row, column] = np.einsum("bhwi,hwio->bo", patch, kernel)
    with jax.enable_x64(True):
        found = ops.conv(jnp.asarray(x), jnp.asarray(kernel), 2, ((0, 1), (2, 0)))
        assert np.allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "padding"), [((3, 3), ((1, 1), (1, 1))), ((5, 3), ((2, 1), (0, 2)))], ids=str
)
def test_kernel_gradient_of_large_images_in_parts(size, padding, dtype):
    """Images of more than 64 pixels, and more of them than one part takes."""
    with precision_of(dtype):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(36, 9, 10, 3)), dtype)
        kernel = jnp.asarray(rng.normal(size=(*size, 3, 4)), dtype)
        functions = (
            lambda x, k: ops.conv(x, k, 1, padding, "highest"),
            lambda x, k: native_conv(x, k, 1, padding),
        )
        assert_close(*values_and_gradients(functions, x, kernel))


@pytest.mark.parametrize("size", [1, 3])
def test_conv_in_bfloat16(size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 8)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(size, size, 8, 4)), jnp.bfloat16)
    found = ops.conv(x, kernel, 1, ops.same_padding(size))
    assert found.dtype == jnp.bfloat16
    exact = native_conv(
        x.astype(jnp.float32), kernel.astype(jnp.float32), 1, ops.same_padding(size)
    )
    # bfloat16 keeps 8 bits: one rounding is 2^-9 of a value. Allow a second one inside the sum.
    error = np.abs(np.asarray(found, np.float32) - np.asarray(exact)).max()
    assert error <= 2**-8 * np.abs(exact).max()


POOLS = [
    # height, width, window, stride, padding
    (8, 8, 3, 1, ((1, 1), (1, 1))),
    (9, 7, 3, 1, ((1, 1), (1, 1))),
    (8, 7, 3, 2, ((0, 1), (0, 0))),
    (9, 8, 3, 2, ((1, 1), (1, 1))),
    (9, 8, 2, 2, ((0, 0), (0, 0))),  # the last row is in no window
    (7, 7, 5, 2, ((2, 1), (0, 2))),
    (5, 6, 3, 2, ((0, 0), (0, 1))),
    (2, 2, 3, 2, ((0, 1), (0, 1))),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float32") for case in POOLS] + [(case, "float64") for case in POOLS[::4]],
    ids=str,
)
def test_max_pool_equals_native(case, dtype):
    """Exactly equal, because sums of small whole numbers have no rounding."""
    height, width, window, stride, padding = case
    with precision_of(dtype):
        distinct = np.random.default_rng(2).normal(size=(2, height, width, 3))
        # Zeros as from a ReLU, and positive values that repeat.
        ties = np.maximum(np.round(distinct), 0)
        assert len(np.unique(ties)) < 5
        x = jnp.asarray(np.concatenate([distinct, ties]), dtype)
        found, expected = values_and_gradients(
            (
                lambda x: ops.max_pool(x, window, stride, padding),
                lambda x: native_max_pool(x, window, stride, padding),
            ),
            x,
        )
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype == dtype
            assert np.array_equal(a, b)


def test_the_first_of_equal_maxima_gets_the_gradient():
    """By hand: 2x2 windows of [[1 3] [3 3]], [[0 0] [0 0]], [[2 1] [1 2]], [[5 5] [4 5]]."""
    x = jnp.array([[1, 3, 0, 0], [3, 3, 0, 0], [2, 1, 5, 5], [1, 2, 4, 5]], jnp.float32)
    cotangent = jnp.array([[10, 20], [30, 40]], jnp.float32)[None, :, :, None]
    value, vjp = jax.vjp(lambda x: ops.max_pool(x, 2, 2, ((0, 0), (0, 0))), x[None, :, :, None])
    assert np.array_equal(value[0, :, :, 0], [[3, 0], [2, 5]])
    expected = [[0, 10, 20, 0], [0, 0, 0, 0], [30, 0, 40, 0], [0, 0, 0, 0]]
    assert np.array_equal(vjp(cotangent)[0][0, :, :, 0], expected)


def test_padding_never_wins():
    x = jnp.full((1, 2, 2, 1), -7, jnp.float32)
    value, vjp = jax.vjp(lambda x: ops.max_pool(x, 3, 1, ((1, 1), (1, 1))), x)
    assert np.array_equal(value, x)
    # Each of the four windows holds all four pixels, and its gradient goes to the first.
    (gradient,) = vjp(jnp.ones_like(value))
    assert np.array_equal(gradient[0, :, :, 0], [[4, 0], [0, 0]])


def test_max_pool_in_bfloat16_is_exact():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 7, 3)), jnp.bfloat16)
    found = ops.max_pool(x, 3, 2, ((0, 0), (0, 0)))
    assert found.dtype == jnp.bfloat16
    assert np.array_equal(found, native_max_pool(x, 3, 2, ((0, 0), (0, 0))))


def test_gradients_inside_a_loop():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 2)), jnp.float32)

    def loss(conv, max_pool, kernel):
        return jnp.mean(max_pool(conv(x, kernel), 3, 2) ** 2)

    def descend(conv, max_pool):
        gradient = jax.grad(lambda k: loss(conv, max_pool, k))
        return lambda _, kernel: kernel - 0.1 * gradient(kernel)

    one = ((1, 1), (1, 1))
    step = descend(
        lambda x, k: ops.conv(x, k, 1, one, "highest"),
        lambda x, window, stride: ops.max_pool(x, window, stride, one),
    )
    native = descend(
        lambda x, k: native_conv(x, k, 1, one),
        lambda x, window, stride: native_max_pool(x, window, stride, one),
    )
    looped = jax.jit(lambda kernel: lax.fori_loop(0, 3, step, kernel))(kernel)
    expected = kernel
    for i in range(3):
        expected = native(i, expected)
    assert not np.allclose(expected, kernel, atol=1e-2)
    # Three steps of sums of 72 terms in float32.
    assert np.allclose(looped, expected, rtol=0, atol=1e-5)


def lowered(function, *args, platform):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("size", [1, 3])
def test_which_platform_gets_which_convolution(size):
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((size, size, 3, 4))

    def gradients(x, kernel):
        value, vjp = jax.vjp(lambda x, k: ops.conv(x, k, 1, ops.same_padding(size)), x, kernel)
        return value, vjp(value)

    cuda = lowered(gradients, x, kernel, platform="cuda")
    assert cuda.count("stablehlo.convolution") == 3  # forward, for the input, for the kernel
    assert "dot_general" not in cuda
    cpu = lowered(gradients, x, kernel, platform="cpu")
    assert cpu.count("stablehlo.convolution") == (0 if size == 1 else 2)
    assert cpu.count("dot_general") == (3 if size == 1 else 9)  # 9 taps of the kernel's gradient


@pytest.mark.parametrize(("images", "is_large"), [(64, True), (32, False)])
def test_a_tpu_stores_what_a_3x3_convolution_reads_if_it_is_large(images, is_large):
    x = jax.random.normal(jax.random.key(0), (images, 32, 32, 2))
    loss = jax.value_and_grad(lambda x: jnp.sum(jnp.square(ops.stored(x))))
    assert np.array_equal(loss(x)[1], 2 * x)
    stores = {
        platform: "optimization_barrier" in lowered(loss, x, platform=platform)
        for platform in ("cpu", "cuda", "tpu")
    }
    assert stores == {"cpu": False, "cuda": False, "tpu": is_large}


def test_which_platform_gets_which_pooling():
    def gradient(x):
        value, vjp = jax.vjp(lambda x: ops.max_pool(x, 3, 2, ((0, 1), (0, 1))), x)
        return value, vjp(value)

    x = jnp.ones((2, 8, 8, 3))
    tpu = lowered(gradient, x, platform="tpu")
    assert "stablehlo.reduce_window" in tpu
    assert "stablehlo.select_and_scatter" in tpu
    for platform in ("cpu", "cuda"):
        text = lowered(gradient, x, platform=platform)
        assert "stablehlo.reduce_window" not in text
        assert "stablehlo.select_and_scatter" not in text


def compiled(function, *args):
    """The program that XLA makes of the function for this CPU."""
    return jax.jit(function).lower(*args).compile().as_text()


def test_the_gradient_of_pooling_is_computed_once():
    """Nine comparisons with the winner, though two parts of the gradient go different ways."""

    def parts(x):
        y, vjp = jax.vjp(lambda x: ops.max_pool(x, 3, 1, ops.same_padding(3)), x)
        (gradient,) = vjp(jnp.sin(y))
        return [jnp.where(part > 0, part, 0).sum() for part in jnp.split(gradient, 2, axis=-1)]

    program = compiled(parts, jnp.ones((2, 8, 8, 8)))
    assert len(re.findall(r"= pred\S+ compare\(.*direction=EQ", program)) == 9


@pytest.mark.parametrize("size", [3, 4, 8])
def test_an_image_is_not_taken_for_the_kernel(size):
    def gradients(x, kernel):
        y, vjp = jax.vjp(lambda x, k: ops.conv(x, k, 1, ops.same_padding(5)), x, kernel)
        return y, vjp(jnp.sin(y))

    program = compiled(gradients, jnp.ones((2, size, size, 3)), jnp.ones((5, 5, 3, 4)))
    windows = re.findall(r" convolution\(.*window=\{size=(\w+)", program)
    assert windows == ["5x5"] * 2


# ceil((n - 3) / 2) + 1, by hand.
CEIL_SIZES = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 4, 9: 4, 10: 5, 11: 5, 12: 6}


@pytest.mark.parametrize(("size", "windows"), CEIL_SIZES.items())
def test_ceil_padding_is_pytorch_s_ceil_mode(size, windows):
    low, high = ops.ceil_padding(size, 3, 2)
    assert (low, high) == (0, (windows - 1) * 2 + 3 - size)
    x = np.arange(size, dtype=np.float32) - 50  # negative, so that zeros as padding would show
    image = jnp.asarray(np.broadcast_to(x[None, :, None, None], (1, size, 3, 1)))
    found = ops.max_pool(image, 3, 2, ((low, high), (0, 0)))
    expected = [x[2 * i : 2 * i + 3].max() for i in range(windows)]
    assert np.array_equal(found[0, :, 0, 0], expected)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_same_padding_keeps_the_size(size):
    x = jnp.ones((1, 5, 6, 1))
    assert ops.conv(x, jnp.ones((size, size, 1, 1)), 1, ops.same_padding(size)).shape == x.shape
