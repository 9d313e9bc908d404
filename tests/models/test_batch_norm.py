"""BatchNorm with ReLU against PyTorch, and against the plain formulas and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from googlenet_jax.config import ModelConfig
from googlenet_jax.models import batch_norm, layers, ops

torch = pytest.importorskip("torch")
EPSILON = 1e-5


def plain(x, scale, shift):
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    return jax.nn.relu((x - mean) / jnp.sqrt(var + EPSILON) * scale + shift)


def draw(channels, dtype, side=5):
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 2.0, (4, side, side, channels))
    numbers = (
        x,
        rng.uniform(0.5, 1.5, channels),
        rng.normal(size=channels),
        rng.normal(size=x.shape),
    )
    return [jnp.asarray(each, dtype) for each in numbers]


@pytest.mark.parametrize("widths", [(7,), (2, 4, 1)])
def test_values_and_gradients_are_the_formulas_in_float64(widths):
    """For one layer, and for three that share the channels."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x, scale, shift, weights = draw(7, jnp.float64)

        def ours(x, scale, shift):
            scales, shifts = batch_norm.cut(scale, widths), batch_norm.cut(shift, widths)
            found = batch_norm.by_batch(x, scales, shifts, EPSILON)
            responses, mean, var = (jnp.concatenate(each, -1) for each in found)
            assert tuple(part.shape[-1] for part in found[0]) == widths
            return (responses * weights).sum(), (mean, var)

        def theirs(x, scale, shift):
            return (plain(x, scale, shift) * weights).sum()

        gradient_of = jax.value_and_grad(ours, (0, 1, 2), has_aux=True)
        (value, (mean, var)), found = jax.jit(gradient_of)(x, scale, shift)
        expected = jax.grad(theirs, (0, 1, 2))(x, scale, shift)
        assert float(value) == pytest.approx(float(theirs(x, scale, shift)), rel=1e-12)
        assert np.allclose(mean, np.mean(x, axis=(0, 1, 2)), rtol=1e-12)
        assert np.allclose(var, np.var(x, axis=(0, 1, 2)), rtol=1e-10)
        for one, other in zip(found, expected, strict=True):
            assert np.allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_channel_of_equal_numbers_stays_finite(dtype):
    """Its variance, a difference of squares, could come out negative."""
    x = jnp.full((4, 5, 5, 3), 3.3e3, dtype)
    ones = jnp.ones(3)

    def total(x):
        (y,), _, (var,) = batch_norm.by_batch(x, [ones], [ones], EPSILON)
        return y.astype(jnp.float32).sum(), var

    gradient, var = jax.grad(total, has_aux=True)(x)
    assert np.all(np.asarray(var) >= 0)
    assert np.all(np.isfinite(gradient))


def test_in_bfloat16_statistics_and_gradients_are_sums_in_float32():
    """For 1e5 numbers: a sum in bfloat16 would stop growing at 256 times one number."""
    x, scale, shift, weights = draw(3, jnp.float32, side=160)
    coarse = x.astype(jnp.bfloat16)

    def total(x, shift, respond):
        return (respond(x, shift).astype(jnp.float32) * weights).sum()

    def ours(x, shift):
        return batch_norm.by_batch(x, [scale], [shift], EPSILON)[0][0]

    _, (mean,), (var,) = batch_norm.by_batch(coarse, [scale], [shift], EPSILON)
    wide = coarse.astype(jnp.float32)
    assert mean.dtype == var.dtype == jnp.float32
    assert np.allclose(mean, wide.mean(axis=(0, 1, 2)), rtol=1e-5)
    assert np.allclose(var, wide.var(axis=(0, 1, 2)), rtol=1e-4)
    found = jax.grad(total, 1)(coarse, shift, ours)
    expected = jax.grad(total, 1)(wide, shift, lambda x, shift: plain(x, scale, shift))
    assert np.allclose(found, expected, rtol=1e-2, atol=2.0)  # of sums of 1e5 weights near 1


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_in_bfloat16_gradients_are_the_formulas(mean):
    """Of x to bfloat16's rounding, of scale and shift to float32's, also if the mean is large."""
    x, scale, shift, weights = draw(3, jnp.float32, side=20)
    coarse, weights = (each.astype(jnp.bfloat16) for each in (x + mean, weights))

    def total(x, scale, shift, respond):
        return (respond(x, scale, shift) * weights.astype(jnp.float32)).sum()

    def ours(x, scale, shift):
        (y,), _, _ = batch_norm.by_batch(x, [scale], [shift], EPSILON)
        return y.astype(jnp.float32)

    gradient_of = jax.grad(total, (0, 1, 2))
    found = gradient_of(coarse, scale, shift, ours)
    expected = gradient_of(coarse.astype(jnp.float32), scale, shift, plain)
    assert found[0].dtype == jnp.bfloat16
    assert np.allclose(found[0].astype(jnp.float32), expected[0], rtol=2**-8, atol=1e-4)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_a_bias_before_batch_norm_acts_as_in_pytorch(fused):
    """Over five steps with momentum and weight decay it decays, and moves the running mean."""
    widths = (3, 2, 4)
    config = ModelConfig(dtype="float64", bn_epsilon=EPSILON)
    rng = np.random.default_rng(1)
    rate, momentum, decay = 0.1, 0.9, 0.05
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        units = [layers.Unit(6, width, 1, config) for width in widths]
        theirs = []
        for unit, width in zip(units, widths, strict=True):
            kernel, bias = rng.normal(size=(6, width)), rng.normal(size=width)
            unit.conv.kernel.set_value(jnp.asarray(kernel[None, None]))
            unit.conv.bias.set_value(jnp.asarray(bias))
            for name in ("scale", "bias", "mean", "var"):
                variable = getattr(unit.bn, name)
                variable.set_raw_value(variable[...].astype(jnp.float64))
            conv = torch.nn.Conv2d(6, width, 1, dtype=torch.float64)
            conv.weight.data = torch.from_numpy(kernel.T[:, :, None, None].copy())
            conv.bias.data = torch.from_numpy(bias)
            norm = torch.nn.BatchNorm2d(width, eps=EPSILON, dtype=torch.float64)
            theirs.append(torch.nn.Sequential(conv, norm, torch.nn.ReLU()))
        modules = nnx.List(units)
        graphdef, params, stats = nnx.split(modules, nnx.Param, nnx.BatchStat)
        update = torch.optim.SGD(
            [p for module in theirs for p in module.parameters()],
            rate,
            momentum=momentum,
            weight_decay=decay,
        )

        def respond(params, stats, x, train):
            units = list(nnx.merge(graphdef, params, stats, copy=True))
            y = layers.fused_units(units, x, train) if fused else [u(x, train) for u in units]
            return jnp.concatenate(y, -1), nnx.state(nnx.List(units), nnx.BatchStat)

        def loss(params, stats, x, weights):
            y, stats = nnx.capture(respond)(params, stats, x, True)
            return (y * weights).sum(), stats

        trace = jax.tree.map(jnp.zeros_like, params)
        for _ in range(5):
            x, weights = rng.normal(size=(4, 5, 5, 6)), rng.normal(size=(4, 5, 5, 9))
            gradients, stats = jax.grad(loss, has_aux=True)(params, stats, jnp.asarray(x), weights)
            trace = jax.tree.map(
                lambda g, p, b: g + decay * p + momentum * b, gradients, params, trace
            )
            params = jax.tree.map(lambda p, b: p - rate * b, params, trace)
            update.zero_grad()
            images = torch.from_numpy(x).permute(0, 3, 1, 2)
            y = torch.cat([module(images) for module in theirs], 1).permute(0, 2, 3, 1)
            (y * torch.from_numpy(weights)).sum().backward()
            update.step()
        found, _ = nnx.capture(respond)(params, stats, jnp.asarray(x), False)
        units = list(nnx.merge(graphdef, params, stats))
    count = 4 * 5 * 5
    for unit, (conv, norm, _) in zip(units, theirs, strict=True):
        assert np.allclose(unit.conv.bias[...], conv.bias.detach(), rtol=0, atol=1e-10)
        assert np.allclose(unit.conv.kernel[0, 0].T, conv.weight.detach()[..., 0, 0], atol=1e-10)
        assert np.allclose(unit.bn.mean[...], norm.running_mean, rtol=0, atol=1e-10)
        # PyTorch's running variance is the unbiased one; both started at 1.
        var = np.asarray(unit.bn.var[...])
        unbiased = (var - 0.9**5) * count / (count - 1) + 0.9**5
        assert np.allclose(unbiased, norm.running_var, rtol=0, atol=1e-10)
        norm.running_var.copy_(torch.from_numpy(var))  # so that inference has the same statistics
    with torch.no_grad():
        y = torch.cat([module.eval()(images) for module in theirs], 1).permute(0, 2, 3, 1)
    assert np.allclose(found, y, rtol=0, atol=1e-9)


def test_concatenate_equals_jax_numpy_s():
    """The value and the gradient."""
    x = jnp.arange(2 * 3 * 3 * 4.0).reshape(2, 3, 3, 4)

    def weighted(x, concatenate):
        return (concatenate([x, 2 * x]) * jnp.arange(8.0)).sum()

    found = jax.value_and_grad(weighted)(x, ops.concatenate)
    expected = jax.value_and_grad(weighted)(x, lambda parts: jnp.concatenate(parts, -1))
    assert all(map(np.array_equal, found, expected))


def test_a_cpu_computes_the_gradient_that_comes_in_once():
    """Pooling's takes nine comparisons with the kept winners; each time again is a tenth slower."""
    x, scale, shift, _ = draw(64, jnp.float32, side=32)
    kernel = jnp.ones((3, 3, 64, 64))

    def loss(x, scale, shift, kernel):
        convolved = ops.conv(x, kernel, 1, ops.same_padding(3))
        (response,), _, _ = batch_norm.by_batch(convolved, [scale], [shift], EPSILON)
        return jnp.sum(jnp.square(ops.max_pool(response, 3, 1, ops.same_padding(3))))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(x, scale, shift, kernel).compile()
    assert compiled.as_text().count("direction=EQ") == 9
