"""Which epoch is the best."""

import pytest
from histories import entry, evaluated

from googlenet_jax.storage.summary import best_entry, selection_metrics, selection_split


@pytest.mark.parametrize(
    ("history", "best"),
    [
        ([evaluated(1, 0.5, 1.0), evaluated(2, 0.7, 2.0), evaluated(3, 0.6, 0.1)], 2),
        # Ties in accuracy go to the lower loss, ties in both to the later epoch.
        ([evaluated(1, 0.7, 0.5), evaluated(2, 0.7, 0.4), evaluated(3, 0.7, 0.6)], 2),
        ([evaluated(1, 0.7, 0.5), evaluated(2, 0.7, 0.5), evaluated(3, 0.6, 0.5)], 2),
        # Epochs that were not evaluated do not count, however good in training.
        ([evaluated(1, 0.1, 3.0), entry(2, train_accuracy=1.0), evaluated(3, 0.0, 3.0)], 1),
        ([evaluated(1, 0.0, 9.0), entry(2)], 1),
    ],
)
def test_best_entry(history, best):
    assert best_entry(history)["epoch"] == best


def test_validation_goes_before_test():
    """With a validation split, the test images have no part in the choice."""
    history = [
        {**evaluated(1, 0.9, 0.1, "valid"), "test_accuracy": 0.1, "test_loss": 3.0},
        {**evaluated(2, 0.8, 0.2, "valid"), "test_accuracy": 0.9, "test_loss": 0.1},
    ]
    assert best_entry(history)["epoch"] == 1
    assert selection_split(history[0]) == "valid"
    assert selection_metrics(history[0]) == {"accuracy": 0.9, "loss": 0.1}
    assert selection_split(evaluated(1, 0.5, 1.0)) == "test"
    assert selection_metrics(entry(1)) is None
