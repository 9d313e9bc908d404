"""A trunk: what it is, and what stays the same in a frozen one."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import NUM_CLASSES, Tiny, hyperparameters, make_data, noisy

from googlenet_jax.config import Config
from googlenet_jax.data import digits, epoch_order
from googlenet_jax.models.layer_table import layer_table
from googlenet_jax.training import state, step
from googlenet_jax.training.optimizer import UpdateRule
from train import messages
from train.resume import start

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def run(fresh, num_steps=4):
    data = make_data(64)
    return step.train_steps(
        fresh,
        data,
        epoch_order(jax.random.key(0), 0, 64),
        jnp.int32(num_steps),
        jax.random.key(1),
        hyperparameters()._replace(ema_decay=np.float32(0.9)),
        batch_size=8,
        preprocess=noisy,
    )


def is_same(one, other):
    return [*map(np.array_equal, *map(jax.tree.leaves, (one, other)))]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(
    "rule",
    [
        UpdateRule("sgd", nesterov=True, trunk=("unit",)),
        UpdateRule("adam", decay_kernels_only=True, norm_bias_factor=2.0, trunk=("unit",)),
    ],
    ids=lambda rule: rule.name,
)
def test_frozen_weights_stay_the_same_to_the_bit(rule, platform, monkeypatch):
    """With weight decay, momentum and a moving average, however the state is packed."""
    monkeypatch.setattr("googlenet_jax.parallel.platform", lambda mesh=None: platform)
    jax.clear_caches()
    fresh, other = (
        state.create(jax.random.key(3), Tiny, rule, NUM_CLASSES, has_average=True) for _ in range(2)
    )
    before = jax.device_get((fresh.params, fresh.batch_stats))
    with jax.numpy_dtype_promotion("standard"):  # Adam mixes types
        after, a_step_before = run(fresh, 4), run(other, 3)
    for params in (after.params, after.average.params):
        assert all(is_same(params["unit"], before[0]["unit"]))
        assert not any(is_same(params["fc"], before[0]["fc"]))
    assert not any(is_same(after.batch_stats, before[1]))  # these are not frozen
    last = jax.tree.map(jnp.subtract, after.params["fc"], a_step_before.params["fc"])
    moved = jnp.linalg.norm(jnp.concatenate([x.ravel() for x in jax.tree.leaves(last)]))
    assert float(after.report.update_norm) == pytest.approx(float(moved), rel=1e-3)


def resnet(trunk="", stats="moving", factor=0.0):
    config = Config()
    config.model.name, config.model.depth, config.model.width_multiplier = "preact_resnet", 11, 0.25
    config.optimizer.trunk, config.optimizer.trunk_factor = trunk, factor
    config.optimizer.trunk_stats = stats
    return state.initialize(jax.random.key(0), config, digits.INFO)


def lowered(fresh):
    data = make_data(16)
    return jax.jit(step.train_step).lower(
        fresh, data.images / 255, data.labels, jax.random.key(1), hyperparameters()
    )


@pytest.mark.parametrize("stats", ["moving", "frozen"])
def test_the_statistics_of_a_trunk(stats):
    """Where all of them are frozen, the network is the same in training as in evaluation."""
    data = make_data(16)
    fresh = resnet("bn", stats)
    after = lowered(fresh).compile()(
        fresh, data.images / 255, data.labels, jax.random.key(1), hyperparameters()
    )
    assert set(is_same(after.batch_stats, fresh.batch_stats)) == {stats == "frozen"}
    evaluated = step.eval_step(fresh, data.images / 255, data.labels).compute()["loss"]
    is_equal = float(after.report.loss) == pytest.approx(evaluated, rel=1e-5)
    assert is_equal == (stats == "frozen")


def test_a_frozen_trunk_needs_no_gradient():
    """Without one, a step costs little more than the third of it that is the forward pass."""
    whole, slower, frozen = (
        lowered(fresh).cost_analysis()["flops"]
        for fresh in (resnet(), resnet("bn", "frozen", 0.1), resnet("bn", "frozen"))
    )
    assert slower > 0.9 * whole
    assert frozen < 0.5 * whole


def test_a_trunk_is_named_as_the_summary_prints_it():
    config = Config()
    config.model.aux_heads, config.model.aux_pool = True, "adaptive"
    rows = layer_table(config.model, (32, 32, 3), 10)
    printed = [row.name.partition(".")[0] for row in rows]
    assert "aux1" in printed
    config.optimizer.trunk = "inception4e"
    fresh = jax.eval_shape(
        lambda key: state.initialize(
            key, config, dataclasses.replace(digits.INFO, image_shape=(32, 32, 3))
        ),
        jax.random.key(0),
    )
    expected = [*dict.fromkeys(printed[: printed.index("maxpool4")])]
    assert [*fresh.optimizer.trunk] == [name for name in expected if "aux" not in name]


@pytest.mark.parametrize(
    ("factor", "says"), [(0.0, "frozen"), (0.1, "with 0.1 times the learning rate")]
)
def test_a_run_says_what_its_trunk_does(factor, says, capsys):
    config = Config()
    config.optimizer.trunk, config.optimizer.trunk_factor = "block1_1", factor
    config.optimizer.trunk_stats = "frozen"
    line = messages.describe_model(config, 9)
    assert line.endswith(f"trunk up to block1_1 {says}; BatchNorm statistics in it frozen")
    start(config, mock.Mock(info=digits.INFO, provenance={}), mock.Mock(), mock.Mock())
    warned = "warning: the frozen trunk has random weights: set train.init_from\n"
    assert capsys.readouterr().out == ("" if factor else warned)
