"""Learning rates against their formulas, and the update against SGD in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from googlenet_jax.config import OptimizerConfig
from googlenet_jax.training import optimizer

STEPS_PER_EPOCH, EPOCHS = 7, 5
TOTAL = STEPS_PER_EPOCH * EPOCHS


def rates(**changes):
    schedule = optimizer.create_schedule(OptimizerConfig(**changes), STEPS_PER_EPOCH, TOTAL)
    return np.array([schedule(step) for step in range(TOTAL)])


# float32 rounds a rate by 6e-8 relative, but the cosine near -1 by 6e-8 absolute.
close = {"rtol": 1e-6, "atol": 1e-8}


def test_cosine_once_an_epoch():
    expected = [
        0.1 * (1 + math.cos(math.pi * (step // STEPS_PER_EPOCH) / EPOCHS)) / 2
        for step in range(TOTAL)
    ]
    found = rates(schedule_per="epoch")
    assert np.allclose(found, expected, **close)
    assert len(np.unique(found)) == EPOCHS  # constant within an epoch
    assert found[0] == np.float32(0.1)


def test_cosine_at_every_step():
    expected = [0.1 * (1 + math.cos(math.pi * step / TOTAL)) / 2 for step in range(TOTAL)]
    found = rates(schedule_per="step")
    assert np.allclose(found, expected, **close)
    assert np.all(np.diff(found) < 0)


def test_cosine_of_the_articles_run():
    """By hand, for 100 epochs of 390 steps: epochs 0, 25, 50, 75 and the last step."""
    schedule = optimizer.create_schedule(OptimizerConfig(), 390, 39_000)
    half = math.sqrt(0.5)
    for epoch, expected in ((0, 0.1), (25, 0.05 * (1 + half)), (50, 0.05), (75, 0.05 * (1 - half))):
        for step in (390 * epoch, 390 * epoch + 389):
            assert float(schedule(step)) == pytest.approx(expected, rel=1e-6)
    # 0.05 (1 - cos(pi / 100)) = 2.467e-5; the error of float32's cosine is up to 6e-8.
    assert float(schedule(38_999)) == pytest.approx(2.467198e-5, abs=1e-8)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_constant(per):
    found = rates(schedule="constant", schedule_per=per, learning_rate=0.3)
    assert np.array_equal(found, np.full(TOTAL, np.float32(0.3)))


def test_warmup_by_hand():
    """Half an epoch is 4 of 8 steps: 1/4, 2/4, 3/4 and 4/4 of the rate."""
    config = OptimizerConfig(schedule="constant", learning_rate=0.4, warmup_epochs=0.5)
    schedule = optimizer.create_schedule(config, 8, 80)
    found = [float(schedule(step)) for step in range(6)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rel=1e-6)


def test_warmup_multiplies_the_cosine():
    """Warm-up for 2 of 4 epochs of 2 steps; per epoch the cosine is 1, 0.8536, 0.5, 0.1464."""
    config = OptimizerConfig(learning_rate=1.0, warmup_epochs=2.0)
    schedule = optimizer.create_schedule(config, 2, 8)
    found = [float(schedule(step)) for step in range(8)]
    expected = [0.25, 0.5, 0.75 * 0.853553, 0.853553, 0.5, 0.5, 0.146447, 0.146447]
    assert found == pytest.approx(expected, rel=1e-5)


def test_schedules_work_on_a_traced_step():
    schedule = optimizer.create_schedule(OptimizerConfig(warmup_epochs=1.0), 7, 35)
    found = jax.jit(jax.vmap(schedule))(jnp.arange(35))
    expected = [float(schedule(step)) for step in range(35)]
    assert np.allclose(found, expected, **close)


def test_update_equals_numpy():
    """g = gradient + decay p; b = momentum b + g; p = p - rate b, in float64, for three steps.

    Gradients and rates differ per step, so that it shows if the rate were applied before the
    momentum (old gradients would keep old rates), or the decay after it.
    """
    config = OptimizerConfig(momentum=0.9, weight_decay=0.1)
    schedule_rates = [0.5, 0.2, 0.05]
    rng = np.random.default_rng(0)
    # A kernel, a bias and a BatchNorm scale: the decay applies to all of them.
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,), "scale": (4,)}
    expected = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    buffers = {name: np.zeros(shape) for name, shape in shapes.items()}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), expected)
    state = optimizer.create(config)(0.0, 0.0, 0.0).init(params)
    for rate in schedule_rates:
        update_rule = optimizer.create(config)(rate, config.momentum, config.weight_decay)
        gradients = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        updates, state = update_rule.update(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradients), state, params
        )
        params = jax.tree.map(jnp.add, params, updates)
        for name in shapes:
            g = gradients[name] + 0.1 * expected[name]
            buffers[name] = 0.9 * buffers[name] + g
            expected[name] = expected[name] - rate * buffers[name]
            # A few float32 roundings of numbers up to about 5.
            assert np.allclose(params[name], expected[name], rtol=0, atol=3e-6), name


def test_step_decay_divides_by_ten_at_each_fraction():
    found = rates(schedule="step", schedule_per="step", decay_at="0.5,0.75")
    # Half of 35 steps rounds to 18, three quarters to 26.
    expected = np.concatenate([np.full(18, 0.1), np.full(8, 0.01), np.full(9, 0.001)])
    assert np.allclose(found, expected, **close)
    # Per epoch: from the first epoch that begins after this fraction.
    found = rates(schedule="step", decay_at="0.5")
    assert np.allclose(found, np.repeat([0.1, 0.1, 0.1, 0.01, 0.01], STEPS_PER_EPOCH), **close)


def test_a_constant_warmup_is_a_tenth():
    found = rates(schedule="constant", warmup="constant", warmup_epochs=3 / STEPS_PER_EPOCH)
    assert np.allclose(found, [0.01] * 3 + [0.1] * (TOTAL - 3), **close)


def test_exponential_decay_is_a_staircase():
    """The paper's: 4 % less every 8 epochs of 40,036 steps (ImageNet in batches of 32)."""
    paper = OptimizerConfig(learning_rate=0.01, schedule="exponential")
    schedule = optimizer.create_schedule(paper, 40_036, 250 * 40_036)
    for epoch, cuts in ((0, 0), (7.999, 0), (8, 1), (15.999, 1), (16, 2), (249, 31)):
        rate = float(schedule(math.ceil(epoch * 40_036)))
        assert rate == pytest.approx(0.01 * 0.96**cuts, rel=1e-5)
    found = rates(schedule="exponential", decay_factor=0.5, decay_epochs=3 / 7)
    assert np.allclose(found[:9], [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025], **close)
