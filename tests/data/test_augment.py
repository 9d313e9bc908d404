"""The augmentation against plain NumPy, and the distribution of its random choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from googlenet_jax.data import augment, preprocess


def random_images(shape=(6, 8, 7, 3)):  # not square, several channels
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("zeros", "constant")])
@pytest.mark.parametrize("pad", [1, 4])
def test_crop_equals_numpy(mode, numpy_mode, pad):
    images = random_images()
    rng = np.random.default_rng(1)
    offsets = rng.integers(0, 2 * pad + 1, (6, 2))
    offsets[0], offsets[1] = (0, 2 * pad), (2 * pad, 0)  # two different corners
    found = augment.crop(jnp.asarray(images), jnp.asarray(offsets), pad, mode)
    assert found.dtype == jnp.uint8
    for image, (row, column), cut in zip(images, offsets, found, strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=numpy_mode)
        assert np.array_equal(cut, padded[row : row + 8, column : column + 7])


def test_crop_at_the_centre_is_the_image():
    images = random_images()
    found = augment.crop(jnp.asarray(images), jnp.full((6, 2), 4), 4, "reflect")
    assert np.array_equal(found, images)


def test_flip_mirrors_the_chosen_left_to_right():
    images = random_images()
    chosen = np.array([True, False, False, True, True, False])
    found = augment.flip(jnp.asarray(images), jnp.asarray(chosen))
    expected = [np.fliplr(i) if c else i for i, c in zip(images, chosen, strict=True)]
    assert np.array_equal(found, expected)


def test_normalize_equals_numpy():
    images = random_images()
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    found = preprocess.normalize(jnp.asarray(images), mean, std)
    assert found.dtype == jnp.float32
    expected = (images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    # Four float32 roundings of 6e-8 each, on values up to 1 that are then divided by 0.2.
    assert np.allclose(found, expected, rtol=0, atol=2e-6)


def test_zeros_are_black_before_normalization():
    """A crop at the corner has `pad` rows of padding, whose pixels are 0, not the mean."""
    white = jnp.full((1, 8, 8, 1), 255, jnp.uint8)
    cut = augment.crop(white, jnp.zeros((1, 2), jnp.int32), 2, "zeros")
    assert np.array_equal(cut[0, :2, :, 0], np.zeros((2, 8)))
    assert np.array_equal(cut[0, 2:, 2:, 0], np.full((6, 6), 255))
    values = preprocess.normalize(cut, [0.5], [0.25])
    assert np.allclose(values[0, :2], -2.0)
    assert np.allclose(values[0, 2:, 2:], 2.0)


def coded_images(count, size=8):
    """Images whose two channels are 100 + row and 100 + column; padding has zeros."""
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    image = (100 + np.stack([rows, columns], -1)).astype(np.uint8)
    return jnp.asarray(np.broadcast_to(image, (count, size, size, 2)))


def recover(images, pad):
    """The offsets and mirrors that `augment` chose for coded images, read from central pixels.

    A crop at (r, c) moves the pixel (i, j) to (i - r + pad, j - c + pad).
    """
    images = np.asarray(images).astype(int) - 100
    size = images.shape[1]
    flipped = images[:, pad, pad, 1] > images[:, pad, size - 1 - pad, 1]
    images = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    centre = images[:, size // 2, size // 2]
    return centre - size // 2 + pad, flipped


def test_every_offset_and_mirror_is_equally_likely():
    """With a fixed key, to be deterministic; of all keys, one in 10,000 fails correct code."""
    pad, count = 2, 20_000
    found = augment.augment(
        jax.random.key(7), coded_images(count), pad=pad, pad_mode="zeros", random_flip=True
    )
    offsets, flipped = recover(found, pad)
    # First check `recover`: the offsets and mirrors that it read give the same images.
    again = augment.flip(
        augment.crop(coded_images(count), jnp.asarray(offsets), pad, "zeros"), jnp.asarray(flipped)
    )
    assert np.array_equal(found, again)
    # Then the joint distribution, which also shows that the three choices are independent.
    cells = np.zeros((2 * pad + 1, 2 * pad + 1, 2), int)
    np.add.at(cells, (offsets[:, 0], offsets[:, 1], flipped.astype(int)), 1)
    assert stats.chisquare(cells.ravel()).pvalue > 1e-4


def test_the_key_decides():
    images = coded_images(64)

    def run(seed):
        return augment.augment(
            jax.random.key(seed), images, pad=2, pad_mode="reflect", random_flip=True
        )

    assert np.array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_nothing_to_do_changes_nothing():
    images = jnp.asarray(random_images((64, 8, 8, 3)))
    found = augment.augment(jax.random.key(0), images, pad=0, pad_mode="reflect", random_flip=False)
    assert np.array_equal(found, images)


def test_pad_and_flip_each_work_alone():
    images = coded_images(64)
    only_flip = augment.augment(
        jax.random.key(0), images, pad=0, pad_mode="zeros", random_flip=True
    )
    offsets, flipped = recover(only_flip, 0)
    assert not offsets.any()
    assert 0 < flipped.sum() < 64
    only_crop = augment.augment(
        jax.random.key(0), images, pad=2, pad_mode="zeros", random_flip=False
    )
    offsets, flipped = recover(only_crop, 2)
    assert not flipped.any()
    assert len(np.unique(offsets, axis=0)) > 10


def test_alternating_shows_both_sides_in_two_epochs():
    key, index = jax.random.key(0), jnp.arange(4000)
    first, second, third = (augment.alternating(key, index, jnp.int32(e)) for e in range(3))
    assert np.array_equal(first, ~second)
    assert np.array_equal(first, third)
    assert stats.binomtest(int(first.sum()), 4000).pvalue > 1e-3
    # An image keeps its side wherever it stands in a batch.
    shuffled = np.random.default_rng(0).permutation(4000)
    found = augment.alternating(key, jnp.asarray(shuffled), jnp.int32(0))
    assert np.array_equal(found, np.asarray(first)[shuffled])


def test_cutout_equals_the_authors_rule():
    """The mask of DeVries and Taylor's code, in NumPy, at the centres that were drawn."""
    images = jnp.ones((50, 10, 8, 2))
    key, size = jax.random.key(3), 4
    found = np.asarray(augment.cutout(key, images, size))
    centers = jax.random.randint(key, (50, 2), 0, jnp.array([10, 8]))
    for image, (y, x) in zip(found, np.asarray(centers), strict=True):
        mask = np.ones((10, 8))
        top, bottom = np.clip(y - size // 2, 0, 10), np.clip(y + size // 2, 0, 10)
        left, right = np.clip(x - size // 2, 0, 8), np.clip(x + size // 2, 0, 8)
        mask[top:bottom, left:right] = 0
        assert np.array_equal(image, np.stack([mask, mask], axis=-1))
    assert len({(int(y), int(x)) for y, x in centers}) > 25


def numbered_images(size=6, side=8):
    """Each image has one value everywhere, and each target is one-hot."""
    images = jnp.broadcast_to(jnp.arange(1.0, size + 1)[:, None, None, None], (size, side, side, 1))
    return images, jnp.eye(size)


mix = jax.jit(augment.mix, static_argnames=("mixup", "cutmix"))


def test_mixup_by_hand():
    images, targets = numbered_images()
    shares = []
    for seed in range(200):
        found, mixed = mix(jax.random.key(seed), images, targets, mixup=0.5, cutmix=0.0)
        share = float(mixed[1, 1])
        shares.append(share)
        assert np.allclose(mixed, share * np.eye(6) + (1 - share) * np.eye(6)[[5, 0, 1, 2, 3, 4]])
        others = np.asarray(images)[[5, 0, 1, 2, 3, 4]]
        assert np.allclose(found, share * np.asarray(images) + (1 - share) * others, atol=1e-5)
    assert stats.kstest(shares, stats.beta(0.5, 0.5).cdf).pvalue > 1e-3


def test_cutmix_by_hand():
    """The box is one rectangle of the other image, and the targets have the shares of the area."""
    images, targets = numbered_images()
    shares = []
    for seed in range(200):
        found, mixed = mix(jax.random.key(seed), images, targets, mixup=0.0, cutmix=1.0)
        covered = np.asarray(found)[1, :, :, 0] == 1
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        assert covered.sum() == len(rows) * len(columns)
        assert np.all(np.asarray(found)[1, :, :, 0][~covered] == 2)
        assert mixed[1].tolist() == pytest.approx([covered.mean(), 1 - covered.mean(), 0, 0, 0, 0])
        assert np.all((np.asarray(found)[0, :, :, 0] == 6) == covered)  # one box for the batch
        shares.append(covered.mean())
    assert 0.15 < np.mean(shares) < 0.5  # boxes at the border are cut


def test_each_batch_has_mixup_or_cutmix():
    images, targets = numbered_images()
    whole = 0
    for seed in range(100):
        found, _ = mix(jax.random.key(seed), images, targets, mixup=1.0, cutmix=1.0)
        whole += set(np.unique(np.asarray(found)[1])) <= {1.0, 2.0}
    assert 30 < whole < 70


def test_views_average_to_what_they_say():
    """With a network that only reads the pixel at the upper left."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 1)), jnp.float32)
    x = np.asarray(images)[..., 0]

    def corner(tta):
        return sum(
            weight * np.asarray(view)[:, 0, 0, 0] for weight, view in augment.views(images, tta)
        )

    assert np.array_equal(corner("none"), x[:, 0, 0])
    assert np.allclose(corner("mirror"), (x[:, 0, 0] + x[:, 0, 3]) / 2)
    # Moved to the lower right, the corner shows the reflected pixel; to the upper left, the next.
    moved = (x[:, 1, 1] + x[:, 1, 2]) / 2
    assert np.allclose(corner("shifts"), (x[:, 0, 0] + x[:, 0, 3]) / 4 + moved / 2)
    for tta in ("none", "mirror", "shifts"):
        assert sum(weight for weight, _ in augment.views(images, tta)) == 1
