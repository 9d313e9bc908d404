"""The digits, splits and epoch orders, and how `load` applies a config."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from googlenet_jax.config import DataConfig
from googlenet_jax.data import Split, digits, epoch_order, load
from googlenet_jax.errors import DataError


@pytest.fixture(scope="module")
def dataset():
    return digits.load("", unofficial=False)


def test_digits_are_every_fifth_for_test(dataset):
    """The split is counted again, image by image, from scikit-learn's arrays."""
    source = load_digits()
    seen = [0] * 10
    expected = {Split.TRAIN: [], Split.TEST: []}
    for index, label in enumerate(source.target):
        seen[label] += 1
        expected[Split.TEST if seen[label] % 5 == 0 else Split.TRAIN].append(index)
    assert (len(expected[Split.TRAIN]), len(expected[Split.TEST])) == (1442, 355)
    assert set(dataset.splits) == set(expected)
    for split, indices in expected.items():
        arrays = dataset.splits[split]
        assert split.num_examples(dataset) == len(indices)
        assert arrays.images.shape == (len(indices), 8, 8, 1)
        assert arrays.images.dtype == np.uint8
        assert np.array_equal(arrays.labels, source.target[indices])
        # From 0..255 back to counts of 0 to 16 dark pixels.
        counts = np.round(arrays.images[..., 0] / 255 * 16)
        assert np.array_equal(counts, source.images[indices])
    assert dataset.provenance["official"] is True
    assert Split.VALID.num_examples(dataset) == 0


def test_digits_mean_and_std_are_those_of_the_training_images(dataset):
    pixels = dataset.splits[Split.TRAIN].images.astype(np.float64) / 255
    assert digits.INFO.mean == (round(pixels.mean(), 4),)
    assert digits.INFO.std == (round(pixels.std(), 4),)


def test_digits_take_no_path():
    with pytest.raises(DataError, match=r"^data\.path='x': "):
        digits.load("x", unofficial=False)


def as_rows(arrays):
    pairs = zip(arrays.images, arrays.labels, strict=True)
    return [(image.tobytes(), int(label)) for image, label in pairs]


@pytest.mark.parametrize("size", [10, 100, 203])
def test_validation_is_balanced_and_disjoint(dataset, size):
    apart = dataset.with_validation(size, seed=1)
    valid, train = apart.splits[Split.VALID], apart.splits[Split.TRAIN]
    counts = np.bincount(valid.labels, minlength=10)
    assert counts.sum() == size
    assert counts.max() - counts.min() <= 1
    assert len(train.labels) == 1442 - size
    # Together they are the training images, none twice and none missing.
    assert sorted(as_rows(train) + as_rows(valid)) == sorted(as_rows(dataset.splits[Split.TRAIN]))
    assert apart.splits[Split.TEST] is dataset.splits[Split.TEST]


def test_validation_follows_from_the_seed(dataset):
    first, again, other = (
        as_rows(dataset.with_validation(100, seed).splits[Split.VALID]) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_validation_must_not_take_a_whole_class(dataset):
    smallest = int(np.bincount(dataset.splits[Split.TRAIN].labels).min())
    dataset.with_validation(10 * (smallest - 1), seed=0)
    with pytest.raises(DataError) as caught:
        dataset.with_validation(10 * smallest, seed=0)
    label = np.flatnonzero(np.bincount(dataset.splits[Split.TRAIN].labels) == smallest)[0]
    assert f"takes {smallest} images of class '{label}', which has {smallest}" in str(caught.value)
    assert str(caught.value).startswith(f"data.valid_examples={10 * smallest}: ")


def test_max_train_examples_keeps_the_first(dataset):
    found = load(DataConfig(name="digits", max_train_examples=50), seed=0)
    whole = dataset.splits[Split.TRAIN]
    assert as_rows(found.splits[Split.TRAIN]) == as_rows(whole)[:50]
    assert Split.TEST.num_examples(found) == 355
    every = load(DataConfig(name="digits", max_train_examples=1442), seed=0)
    assert Split.TRAIN.num_examples(every) == 1442
    with pytest.raises(DataError, match=r"^data\.max_train_examples=1443: digits has 1442$"):
        load(DataConfig(name="digits", max_train_examples=1443), seed=0)


def test_max_train_examples_applies_after_validation():
    found = load(DataConfig(name="digits", valid_examples=100, max_train_examples=1342), seed=0)
    sizes = {split: split.num_examples(found) for split in Split}
    assert sizes == {Split.TRAIN: 1342, Split.VALID: 100, Split.TEST: 355}


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_downscale_averages_squares(dataset, factor):
    found = load(DataConfig(name="digits", downscale=factor), seed=0)
    size = 8 // factor
    assert found.info.image_shape == (size, size, 1)
    for split, arrays in dataset.splits.items():
        small = found.splits[split]
        assert np.array_equal(small.labels, arrays.labels)
        for row, column in np.ndindex(size, size):
            rows = slice(row * factor, (row + 1) * factor)
            columns = slice(column * factor, (column + 1) * factor)
            exact = arrays.images[:, rows, columns].mean((1, 2))
            # Rounded to the nearest integer, halves up.
            assert np.array_equal(small.images[:, row, column], np.floor(exact + 0.5))


def test_downscale_that_does_not_divide():
    with pytest.raises(DataError, match=r"^data\.downscale=3: does not divide the 8x8 pixels"):
        load(DataConfig(name="digits", downscale=3), seed=0)


def test_epoch_order():
    def order(seed, epoch):
        return np.asarray(epoch_order(jax.random.key(seed), epoch, 100))

    assert np.array_equal(np.sort(order(0, 0)), np.arange(100))
    assert np.array_equal(order(0, 3), order(0, 3))
    orders = [order(0, 0), order(0, 1), order(1, 0), np.arange(100)]
    assert len({o.tobytes() for o in orders}) == 4
