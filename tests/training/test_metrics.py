"""The metrics against NumPy, which sorts the logits where the library counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from googlenet_jax.training.metrics import Metrics


def expected_metrics(logits, labels, losses, mask):
    """Ranks by a stable sort of the negated logits: the lower class wins a tie."""
    num_classes = logits.shape[1]
    ranking = np.argsort(-logits, axis=1, kind="stable")
    correct, top5, count = (np.zeros(num_classes, int) for _ in range(3))
    loss_sum = 0.0
    for order, label, loss, counts in zip(ranking, labels, losses, mask, strict=True):
        if counts:
            loss_sum += loss
            count[label] += 1
            correct[label] += order[0] == label
            top5[label] += label in order[:5]
    return loss_sum, correct, top5, count


def batch(size, num_classes, seed=0):
    """Rounds the logits, so that there are many ties."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(size, num_classes)) * 2).astype(np.float32)
    labels = rng.integers(0, num_classes, size).astype(np.int32)
    return logits, labels, rng.exponential(size=size).astype(np.float32)


def of_batch(logits, labels, losses, mask=None):
    arrays = [jnp.asarray(x) for x in (logits, labels, losses)]
    return Metrics.of_batch(*arrays, None if mask is None else jnp.asarray(mask))


def assert_equal(found, expected):
    loss_sum, *counts = expected
    assert float(found.loss_sum) == pytest.approx(loss_sum, rel=1e-5)  # float32, 100 terms
    for name, value in zip(("correct", "correct_top5", "count"), counts, strict=True):
        assert np.array_equal(getattr(found, name), value), name


@pytest.mark.parametrize("num_classes", [2, 4, 5, 6, 10])
@pytest.mark.parametrize("masked", [False, True])
def test_of_batch_equals_numpy(num_classes, masked):
    logits, labels, losses = batch(100, num_classes)
    mask = np.random.default_rng(1).random(100) < (0.6 if masked else 2)
    found = of_batch(logits, labels, losses, mask if masked else None)
    assert_equal(found, expected_metrics(logits, labels, losses, mask))
    if num_classes <= 5:  # the top five are all classes
        assert np.array_equal(found.correct_top5, found.count)


def test_accuracy_equals_argmax():
    logits, labels, losses = batch(200, 10)
    found = of_batch(logits, labels, losses)
    assert int(found.correct.sum()) == (logits.argmax(1) == labels).sum()


def test_the_lower_class_wins_ties():
    """With equal logits class 0 is the answer, and the top five are 0 to 4."""
    labels = np.arange(8, dtype=np.int32)
    found = of_batch(np.zeros((8, 8), np.float32), labels, np.zeros(8, np.float32))
    assert found.correct.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert found.correct_top5.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_masked_examples_have_no_effect():
    """Even if their losses are NaN or infinite."""
    logits, labels, losses = batch(6, 10)
    losses[3:] = np.nan, np.inf, 1.0
    mask = np.array([True] * 3 + [False] * 3)
    found = of_batch(logits, labels, losses, mask)
    assert_equal(found, expected_metrics(logits[:3], labels[:3], losses[:3], mask[:3]))


def test_parts_merge_to_the_whole():
    logits, labels, losses = batch(100, 10)
    whole = of_batch(logits, labels, losses)
    parts = Metrics.empty(10)
    for start, end in ((0, 1), (1, 40), (40, 100)):
        part = of_batch(logits[start:end], labels[start:end], losses[start:end])
        parts = jax.jit(Metrics.merge)(parts, part)
    assert_equal(parts, expected_metrics(logits, labels, losses, np.ones(100, bool)))
    found, expected = parts.compute(), whole.compute()
    assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-6)
    assert found == expected


def test_compute_equals_numpy():
    logits, labels, losses = batch(50, 10)
    labels[labels == 7] = 3  # an absent class has accuracy 0, no division by 0
    found = of_batch(logits, labels, losses).compute()
    hits = logits.argmax(1) == labels
    ranking = np.argsort(-logits, axis=1, kind="stable")
    assert found["examples"] == 50
    assert found["loss"] == pytest.approx(losses.astype(np.float64).mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx(hits.mean(), rel=1e-6)
    in_five = (ranking[:, :5] == labels[:, None]).any(1)
    assert found["top5_accuracy"] == pytest.approx(in_five.mean(), rel=1e-6)
    per_class = [hits[labels == c].mean() if (labels == c).any() else 0.0 for c in range(10)]
    assert found["per_class_accuracy"] == pytest.approx(per_class, rel=1e-6)
    assert per_class[7] == 0.0
    assert {type(v) for v in found.values()} == {float, int, list}  # as JSON needs them


def test_counts_are_exact_beyond_float32():
    """2^24 + 1 examples: the first count that a float32 cannot hold."""
    ones = Metrics.empty(2).count.at[0].add(2**24)
    many = Metrics(jnp.zeros(()), ones, ones, ones)
    more = many.merge(of_batch(*batch(1, 2)))
    assert int(more.count.sum()) == 2**24 + 1
    assert more.compute()["examples"] == 2**24 + 1


def test_nan_logits_are_never_correct():
    """Comparisons with NaN are false, so counting the classes ahead of the label gives 0."""
    logits, losses = jnp.full((4, 10), jnp.nan), jnp.full(4, jnp.nan)
    labels = jnp.array([5, 6, 8, 9], jnp.int32)  # none of the first five classes
    found = Metrics.of_batch(logits, labels, losses).compute()
    assert found["accuracy"] == 0.0
    assert found["top5_accuracy"] == 0.0
