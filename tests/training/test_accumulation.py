"""A batch that is computed in parts against the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import NUM_CLASSES, hyperparameters, make_data, make_state

from googlenet_jax.config import ModelConfig
from googlenet_jax.models.layers import Linear, Unit
from googlenet_jax.training import optimizer, state, step
from googlenet_jax.training.metrics import Metrics

pytestmark = pytest.mark.usefixtures("compiled_quickly")
one_step = jax.jit(step.train_step, static_argnames="parts")


class Plain(nnx.Module):
    """Two units and a classifier in float64, without dropout."""

    def __init__(self, batch_norm):
        config = ModelConfig(dtype="float64", batch_norm=batch_norm)
        self.unit1, self.unit2 = Unit(1, 4, 3, config), Unit(4, 6, 3, config)
        self.fc = Linear(6, NUM_CLASSES, config)
        if batch_norm:
            self.eval()  # with fixed statistics

    def __call__(self, x, *, train, key=None):
        return self.fc(self.unit2(self.unit1(x, train), train).mean(axis=(1, 2))), ()


@pytest.mark.parametrize("is_mixed", [False, True], ids=["labels", "targets"])
@pytest.mark.parametrize("batch_norm", [False, True], ids=["no BatchNorm", "fixed statistics"])
def test_parts_give_the_numbers_of_the_whole_batch(batch_norm, is_mixed):
    """To the rounding of float64."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(12, 8, 8, 1)), rng.integers(0, 10, 12).astype(np.int32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        targets = jnp.asarray(rng.dirichlet(np.ones(10), 12)) if is_mixed else None
        fresh = state.create(
            jax.random.key(3), lambda: Plain(batch_norm), optimizer.sgd, NUM_CLASSES
        )
        fresh = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, fresh)
        fresh = fresh.replace(metrics=Metrics.empty(NUM_CLASSES))  # always float32
        batch = jax.tree.map(jnp.asarray, (images, labels))
        numbers = hyperparameters(dtype=np.float64)._replace(class_weights=np.linspace(0.5, 2, 10))
        found, expected = (
            one_step(fresh, *batch, jax.random.key(1), numbers, targets, parts=n) for n in (3, 1)
        )
    assert np.array_equal(found.metrics.correct, expected.metrics.correct)
    assert np.array_equal(found.metrics.count, expected.metrics.count)
    for name in ("params", "batch_stats", "opt_state", "report"):
        trees = getattr(found, name), getattr(expected, name)
        for one, other in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14, err_msg=name)


def test_batch_norm_sees_a_part_at_a_time():
    """The running mean is the whole batch's; the variance lacks that between the parts' means."""
    start, data = make_state(), make_data(12)

    def stats(chosen, parts=1):
        images = data.images[chosen] / 255
        batch = images, data.labels[chosen], jax.random.key(0), hyperparameters()
        after = one_step(start, *batch, parts=parts)
        norm = after.batch_stats["unit"]["bn"]
        return norm["mean"], norm["var"]

    kept = 0.9
    mean, var = stats(slice(None), parts=3)
    whole_mean, whole_var = stats(slice(None))
    # Part i has the images i, i + 3, ...; before the step the running means are 0.
    means = [stats(slice(number, None, 3))[0] / (1 - kept) for number in range(3)]
    between = np.var(means, axis=0)
    assert (between > 1e-6).any()
    np.testing.assert_allclose(mean, whole_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, whole_var - (1 - kept) * between, rtol=1e-6)
