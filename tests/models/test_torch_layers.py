"""Single operations against PyTorch's: pooling, padding, initial weights, parameter updates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from googlenet_jax import models
from googlenet_jax.config import ModelConfig, OptimizerConfig
from googlenet_jax.data import augment
from googlenet_jax.models.googlenet import AuxiliaryPool
from googlenet_jax.models.layers import MaxPool
from googlenet_jax.training import state
from googlenet_jax.training.optimizer import create, create_schedule

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def images(size, channels=3):
    return np.random.default_rng(size).normal(size=(2, size, size, channels)).astype(np.float32)


def as_torch(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def assert_same(found, expected, tolerance=0.0):
    expected = expected.numpy().transpose(0, 2, 3, 1)
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= tolerance


@pytest.mark.parametrize("size", range(2, 18))
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, None), (2, 2, None), (3, 2, 1), (3, 1, 1)]
)
def test_max_pooling(size, window, stride, padding):
    """Without padding, PyTorch's `ceil_mode`."""
    pool = MaxPool(window, stride, padding)
    expected = functional.max_pool2d(
        as_torch(images(size)), window, stride, padding or 0, ceil_mode=padding is None
    )
    found = pool(jnp.asarray(images(size)))
    assert_same(found, expected)
    assert pool.out_size(size) == found.shape[1]


@pytest.mark.parametrize("size", [5, 6, 7, 8, 14, 16, 17])
@pytest.mark.parametrize("kind", ["5x5/3", "adaptive"])
def test_the_heads_average_pooling(size, kind):
    pool = AuxiliaryPool(ModelConfig(aux_pool=kind, matmul_precision="highest"))
    x = as_torch(images(size))
    expected = (
        functional.avg_pool2d(x, 5, 3) if kind == "5x5/3" else functional.adaptive_avg_pool2d(x, 4)
    )
    # Means of up to 25 numbers near 1, summed in another order.
    assert_same(pool(jnp.asarray(images(size))), expected, 1e-6)


@pytest.mark.parametrize("pad", [1, 4])
@pytest.mark.parametrize("mode", ["reflect", "zeros"])
def test_padding_and_crop(pad, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    torch_mode = "reflect" if mode == "reflect" else "constant"
    padded = functional.pad(as_torch(pixels).float(), (pad,) * 4, torch_mode).numpy()
    for offset in ((0, 0), (pad, 2 * pad), (2 * pad, 1)):
        found = augment.crop(jnp.asarray(pixels), jnp.array([offset] * 2), pad, mode)
        top, left = offset
        expected = padded[:, :, top : top + 9, left : left + 9].transpose(0, 2, 3, 1)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("fan", ["fan_out", "fan_in"])
def test_initial_weights_have_pytorch_s_bounds_and_variance(fan):
    """Layer by layer: `kaiming_uniform_` for kernels, and the default of `Conv2d` for biases.

    The variance of n uniform values has a relative standard deviation of sqrt(4 / 5 / n). The
    tolerance is five of those for each of the two draws.
    """
    config = ModelConfig(width_multiplier=0.25, aux_heads=True, init=fan)
    params = state.create(
        jax.random.key(0),
        lambda: models.create(config, (32, 32, 3), 10),
        create(OptimizerConfig()),
        10,
    ).params
    torch.manual_seed(0)
    compared = 0

    def compare(ours, theirs, bound):
        ours, theirs = (
            np.asarray(ours, np.float64).ravel(),
            theirs.detach().double().numpy().ravel(),
        )
        assert max(abs(ours).max(), abs(theirs).max()) <= bound * (1 + 1e-6)
        tolerance = 5 * 2 * math.sqrt(4 / 5 / ours.size)
        assert abs((ours**2).mean() / (theirs**2).mean() - 1) <= tolerance

    for path, kernel in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key != "kernel":
            continue
        layer = params
        for key in path[:-1]:
            layer = layer[key.key]
        *window, fan_in, fan_out = kernel.shape
        area = math.prod(window)
        if window:
            reference = torch.nn.Conv2d(fan_in, fan_out, window)
        else:
            reference = torch.nn.Linear(fan_in, fan_out)
        torch.nn.init.kaiming_uniform_(reference.weight, mode=fan, nonlinearity="relu")
        fans = {"fan_in": fan_in, "fan_out": fan_out}
        compare(kernel, reference.weight, math.sqrt(6 / (area * fans[fan])))
        compare(layer["bias"], reference.bias, 1 / math.sqrt(area * fan_in))
        compared += 1
    assert compared == 2 + 9 * 6 + 2 * 3 + 1


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_updates_are_pytorch_s(name):
    """Twelve steps over three epochs, with coupled weight decay and a cosine by epoch."""
    config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.01)
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=7), rng.normal(size=(12, 7))
    # Optax's Adam raises a float to an integer power.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        schedule, rule_of = create_schedule(config, 4, 12), create(config)
        params = jnp.asarray(start)
        opt_state = rule_of(0.0, 0.0, 0.0).init(params)
        for number, gradient in enumerate(gradients):
            rule = rule_of(schedule(number), config.momentum, config.weight_decay)
            updates, opt_state = rule.update(jnp.asarray(gradient), opt_state, params)
            params = params + updates
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    if name == "sgd":
        update = torch.optim.SGD([theirs], 0.1, momentum=0.9, weight_decay=0.01)
    else:
        update = torch.optim.Adam([theirs], 0.1, weight_decay=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(update, 3)
    for number, gradient in enumerate(gradients, start=1):
        theirs.grad = torch.from_numpy(gradient.copy())
        update.step()
        if number % 4 == 0:
            cosine.step()
    assert np.abs(np.asarray(params) - theirs.detach().numpy()).max() <= 1e-12
