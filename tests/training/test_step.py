"""The training step against NumPy, and its bit-for-bit reproducibility."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_googlenet as golden
import optax
import pytest
from tiny import (
    LEARNING_RATE,
    MOMENTUM,
    NUM_CLASSES,
    WEIGHT_DECAY,
    Tiny,
    hyperparameters,
    make_data,
    make_state,
    noisy,
    to_float,
)

from googlenet_jax.config import ModelConfig
from googlenet_jax.data import epoch_order
from googlenet_jax.models import GoogLeNet
from googlenet_jax.training import step
from googlenet_jax.training.metrics import Metrics
from googlenet_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def narrow_googlenet(dtype="float32", dropout_rate=0.4) -> GoogLeNet:
    """The whole network, with 1/16 of the channels."""
    config = ModelConfig(width_multiplier=1 / 16, dropout_rate=dropout_rate, dtype=dtype)
    return GoogLeNet(config, (8, 8, 1), NUM_CLASSES)


def copy(state: TrainState) -> TrainState:
    """Copies a state for a call that donates it."""
    return jax.tree.map(jnp.copy, state)


run_steps = functools.partial(
    step.train_steps, batch_size=8, preprocess=noisy, hyperparameters=hyperparameters()
)


def assert_same_bits(first, second):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True
    ):
        assert np.array_equal(a, b), jax.tree_util.keystr(path)


def test_two_steps_equal_numpy_in_float64():
    """Loss, gradients and updated parameters against `numpy_googlenet`, to float64 rounding."""
    # Flax's BatchNorm mixes its float32 constants with float64 statistics.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state = make_state(lambda: narrow_googlenet("float64", dropout_rate=0.0))
        state = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state
        )
        state = state.replace(metrics=Metrics.empty(NUM_CLASSES))  # always float32
        params, stats = jax.device_get((state.params, state.batch_stats))
        buffers = golden.tree_map(np.zeros_like, params)
        one_step = jax.jit(
            functools.partial(step.train_step, hyperparameters=hyperparameters(dtype=np.float64))
        )
        rng = np.random.default_rng(0)
        for _ in range(2):  # the second has momentum and moved statistics
            images = rng.normal(size=(6, 8, 8, 1))
            labels = rng.integers(0, NUM_CLASSES, 6).astype(np.int32)
            before = state.params
            state = one_step(state, jnp.asarray(images), jnp.asarray(labels), jax.random.key(0))
            report = state.report
            loss, _, expected, stats = golden.loss_and_gradients(params, stats, images, labels)
            params, buffers = golden.sgd_step(
                params, expected, buffers, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
            )
            assert float(report.loss) == pytest.approx(loss, rel=1e-12)
            update = golden.tree_map(np.subtract, params, jax.device_get(before))
            for name, tree in (("grad", expected), ("param", params), ("update", update)):
                norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
                found = float(getattr(report, f"{name}_norm"))
                assert found == pytest.approx(norm, rel=1e-10), name
            # As in PyTorch, the buffer after the first step is gradient plus decay.
            assert_close(optax.tree.get(state.opt_state, "trace"), buffers)
            assert_close(state.params, params)
            assert_close(state.batch_stats, stats)


def assert_close(found, expected):
    """Compares to 1e-10 of a layer's largest value: 36 layers amplify the rounding of 1e-16.

    The scale is per layer because the gradient of a bias before BatchNorm is rounding only.
    """
    scale: dict = {}
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        layer = jax.tree_util.keystr(path[:-1])
        scale[layer] = max(scale.get(layer, 0.0), float(np.abs(value).max()))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        error = np.abs(np.asarray(a) - b).max()
        assert error <= 1e-10 * scale[jax.tree_util.keystr(path[:-1])], jax.tree_util.keystr(path)


@pytest.mark.parametrize("build", [Tiny, narrow_googlenet])
def test_splitting_a_run_into_calls_changes_no_bit(build):
    data, key = make_data(64), jax.random.key(1)
    order = epoch_order(key, 0, 64)
    start = make_state(build)
    whole = run_steps(copy(start), data, order, jnp.int32(6), key)
    cut = copy(start)
    for size in (1, 3, 2):
        cut = run_steps(cut, data, order, jnp.int32(size), key)
    assert int(cut.step) == 6
    assert_same_bits(whole, cut)
    other = run_steps(start, data, order, jnp.int32(6), jax.random.key(2))
    assert not np.array_equal(other.params["fc"]["kernel"], whole.params["fc"]["kernel"])


def test_train_steps_is_traced_once(monkeypatch):
    traces = []
    original, data = step.train_step, make_data(32)

    def counted(*args):
        traces.append(args)
        return original(*args)

    monkeypatch.setattr(step, "train_step", counted)
    state = make_state()
    for epoch, size in enumerate((1, 2, 1)):
        order = epoch_order(jax.random.key(0), epoch, 32)
        state = run_steps(state, data, order, jnp.int32(size), jax.random.key(1), batch_size=16)
    assert len(traces) == 1


def test_each_step_takes_its_own_slice_of_the_order():
    """The counts in the metrics tell which labels were seen."""
    data = make_data(40)
    order = epoch_order(jax.random.key(0), 0, 40)
    state = make_state()
    for done in range(1, 6):
        state = run_steps(state, data, order, jnp.int32(1), jax.random.key(1))
        seen = np.bincount(np.asarray(data.labels)[np.asarray(order)[: 8 * done]], minlength=10)
        assert np.array_equal(state.metrics.count, seen)
    # The first step of the next epoch resets the sums.
    state = run_steps(state, data, order[::-1], jnp.int32(1), jax.random.key(1))
    seen = np.bincount(np.asarray(data.labels)[np.asarray(order)[::-1][:8]], minlength=10)
    assert np.array_equal(state.metrics.count, seen)


def test_no_step_follows_one_that_is_not_finite():
    data = make_data(64)
    order = epoch_order(jax.random.key(0), 0, 64)
    state = run_steps(
        make_state(),
        data,
        order,
        jnp.int32(8),
        jax.random.key(1),
        hyperparameters=hyperparameters(learning_rate=1e30),
    )
    report = state.report
    assert not (np.isfinite(report.loss) and np.isfinite(report.grad_norm))
    # The first step starts from finite weights; the loss breaks in the second or third.
    assert 2 <= int(state.step) < 8


@pytest.mark.parametrize(("size", "batch_size"), [(1, 8), (7, 8), (8, 8), (20, 8), (7, 10**10)])
def test_evaluation_counts_every_image_once(size, batch_size):
    state, data = make_state(), make_data(size)
    metrics = step.evaluate(state, data, batch_size=batch_size, preprocess=to_float)
    assert np.array_equal(metrics.count, np.bincount(data.labels, minlength=NUM_CLASSES))
    logits, _, _ = state.apply(state.params, to_float(data.images), train=False)
    hits = np.asarray(logits).argmax(1) == np.asarray(data.labels)
    assert int(metrics.correct.sum()) == hits.sum()
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, data.labels)
    assert float(metrics.loss_sum) == pytest.approx(float(losses.sum()), rel=1e-5)


def test_same_key_same_weights():
    assert_same_bits(make_state(), make_state())
