"""Each warning appears for its own cause only."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import digits
from googlenet_jax.training import health
from googlenet_jax.training.metrics import Evaluation, Metrics
from train.loop import train_and_evaluate

NAMES = tuple(f"class {i}" for i in range(10))


def entry(epoch, loss, accuracy=0.5):
    return {
        "epoch": epoch,
        "step": 100 * epoch,
        "train_loss": loss,
        "train_accuracy": accuracy,
    }


def trained(count=(100,) * 10):
    return dataclasses.replace(Metrics.empty(10), count=jnp.array(count))


def evaluated(predicted=(50,) * 10, active=(1,) * 8, count=(50,) * 10):
    counts = {"count": jnp.array(count), "correct": jnp.array(count)}
    return Evaluation(
        jnp.zeros(()),
        **counts,
        correct_top5=jnp.array(count),
        predicted=jnp.array(predicted),
        active=jnp.array(active),
    )


def check(*losses, accuracy=0.5, train=None, evaluation=None, test_loss=1.0, batch_norm=True):
    history = [entry(i, loss) for i, loss in enumerate(losses, 1)]
    history[-1] |= {"train_accuracy": accuracy, "test_loss": test_loss}
    return health.check(history, train or trained(), evaluation or evaluated(), NAMES, batch_norm)


def test_a_healthy_run_has_no_warnings():
    assert check(2.0, 1.5, 1.2, 1.0) == {}
    assert check(1.0, 0.02, 0.05) == {}  # small losses sometimes double
    assert check(2.0, 1.5, 2.1) == {}


def test_a_test_loss_far_above_the_training_loss_in_the_first_epochs():
    found = check(4.0, test_loss=99.0)
    assert list(found) == ["lag"]
    assert "the test loss is 99 beside a training loss of 4, as often in the first" in found["lag"]
    assert check(4.0, test_loss=7.9) == check(0.1, test_loss=4.6) == {}  # below twice guessing
    assert check(4.0, test_loss=99.0, batch_norm=False) == {}
    assert check(4.0, 3.0, 2.0, 1.0, test_loss=99.0) == {}  # statistics of 400 steps lag no more


@pytest.mark.parametrize("losses", [(2.0, 1.0, 1.6), (1.0, 0.02, 0.3), (1.0, 2.4)])
def test_a_spike_of_the_loss(losses):
    found = check(*losses)
    assert list(found) == ["spike"]
    assert f"{min(losses):.4f}" in found["spike"]
    assert f"{losses[-1]:.4f} in epoch {len(losses)}" in found["spike"]


def test_accuracy_at_chance():
    assert list(check(2.3, 2.3, 2.3, accuracy=0.11)) == ["chance"]
    assert check(2.3, 2.3, 2.3, accuracy=0.14) == {}  # 1,000 images: 3 standard errors are 0.03
    assert check(2.3, 2.3, accuracy=0.1) == {}  # too early to tell
    # The accuracy of always predicting the most frequent class.
    unbalanced = trained((910, *(10,) * 9))
    assert "0.9100" in check(2.3, 2.3, 2.3, accuracy=0.91, train=unbalanced)["chance"]


def test_dead_relus():
    dead = (0,) * 5 + (1,) * 3
    assert "62% of the ReLU channels" in check(2, 2, 1, evaluation=evaluated(active=dead))["dead"]
    assert check(2, 2, 1, evaluation=evaluated(active=dead[1:])) != {}
    assert check(2, 2, 1, evaluation=evaluated(active=dead[2:])) == {}
    assert check(2, 1, evaluation=evaluated(active=dead)) == {}  # too early


def test_classes_that_are_never_predicted():
    predicted = (0, 0, 100, 100, *(50,) * 6)
    found = check(2, 2, 1, evaluation=evaluated(predicted))
    assert list(found) == ["missed"]
    assert "2 of 10 classes are never predicted" in found["missed"]
    assert "(class 0, class 1)" in found["missed"]
    one = evaluated((0, 50, 100, *(50,) * 7))
    found = check(2, 2, 1, evaluation=one)
    assert "1 of 10 classes is never predicted (class 0)" in found["missed"]
    # A class with few images may be missed by chance.
    few = evaluated(predicted, count=(9, 9, *(50,) * 8))
    assert check(2, 2, 1, evaluation=few) == {}
    # A network at chance gets only that warning.
    only = evaluated((500, *(0,) * 9))
    assert list(check(2, 2, 2, accuracy=0.1, evaluation=only)) == ["chance"]
    assert ", ...)" in check(2, 2, 1, evaluation=only)["missed"]


def test_an_epoch_that_was_not_evaluated():
    history = [entry(i, 1.0) for i in range(1, 5)]
    assert health.check(history, trained(), None, NAMES, True) == {}


def test_an_evaluation_counts_predictions_and_active_relus():
    """Against NumPy; masked examples do not count."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 10)).astype(np.float32)
    labels = rng.integers(0, 10, 20).astype(np.int32)
    active, mask = rng.random((20, 7)) < 0.3, rng.random(20) < 0.5
    found = Evaluation.of_inference(
        *map(jnp.asarray, (logits, labels, np.ones(20, np.float32), active, mask))
    )
    guesses = np.bincount(logits.argmax(1)[mask], minlength=10)
    assert np.array_equal(found.predicted, guesses)
    assert np.array_equal(found.active, active[mask].sum(0))
    assert np.array_equal(found.count, np.bincount(labels[mask], minlength=10))


def test_a_dead_relu_is_seen():
    state = tiny.make_state()
    images = tiny.to_float(tiny.make_data(6).images)
    bias = state.params["unit"]["bn"]["bias"].at[1].set(-1e3)
    unit = {**state.params["unit"], "bn": {**state.params["unit"]["bn"], "bias": bias}}
    logits, active = state.replace(params={**state.params, "unit": unit}).infer(images)
    assert logits.shape == (6, tiny.NUM_CLASSES)
    assert active.any(axis=0).tolist() == [True, False, True, True]


@pytest.mark.usefixtures("compiled_quickly")
def test_a_run_warns_once(tmp_path, capfd):
    """Also when it is resumed; summary.json keeps the warning."""
    config = digits.get_config()
    config.model.name, config.model.depth = "preact_resnet", 11
    config.model.width_multiplier = 0.0625
    config.data.max_train_examples = config.data.valid_examples = 64
    config.train.batch_size = 2
    config.optimizer.schedule, config.optimizer.learning_rate = "constant", 1e-9
    for epochs in (3, 4, 5):  # of 32 steps
        config.train.epochs = epochs
        summary = train_and_evaluate(config, tmp_path)
        assert [text[:14] for text in summary["warnings"]] == ["after epoch 4 "] * (epochs > 3)
    (line,) = (line for line in capfd.readouterr().out.splitlines() if "warning" in line)
    assert line == f"warning: {summary['warnings'][0]}"
