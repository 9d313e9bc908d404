"""The data sets: right pixels, right splits, and one line for whatever is wrong with a file."""

import gzip
import hashlib
import io
import tarfile

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from googlenet_jax.config import DataConfig
from googlenet_jax.data import Split, cifar, digits, epoch_order, load
from googlenet_jax.errors import DataError


@pytest.fixture(scope="module")
def dataset():
    return digits.load("", unofficial=False)


def test_digits_are_every_fifth_for_test(dataset):
    """The split counted anew, image by image, from what scikit-learn hands out."""
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
        # Back from 0..255 to counts of 0 to 16 dark pixels.
        counts = np.round(arrays.images[..., 0] / 255 * 16)
        assert np.array_equal(counts, source.images[indices])
    assert dataset.provenance["official"] is True
    assert Split.VALID.num_examples(dataset) == 0


def test_digits_normalisation_is_the_training_images_own(dataset):
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
    # Together they are the training images, none twice and none lost.
    assert sorted(as_rows(train) + as_rows(valid)) == sorted(as_rows(dataset.splits[Split.TRAIN]))
    assert apart.splits[Split.TEST] is dataset.splits[Split.TEST]


def test_validation_follows_from_the_seed(dataset):
    first, again, other = (
        as_rows(dataset.with_validation(100, seed).splits[Split.VALID]) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_validation_that_takes_a_whole_class(dataset):
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


def test_max_train_examples_come_after_validation():
    found = load(DataConfig(name="digits", valid_examples=100, max_train_examples=1342), seed=0)
    sizes = {split: split.num_examples(found) for split in Split}
    assert sizes == {Split.TRAIN: 1342, Split.VALID: 100, Split.TEST: 355}


def test_an_epoch_s_order():
    def order(seed, epoch):
        return np.asarray(epoch_order(jax.random.key(seed), epoch, 100))

    assert np.array_equal(np.sort(order(0, 0)), np.arange(100))
    assert np.array_equal(order(0, 3), order(0, 3))
    orders = [order(0, 0), order(0, 1), order(1, 0), np.arange(100)]
    assert len({o.tobytes() for o in orders}) == 4


# CIFAR-10 in the layout that its authors describe: of each image a byte for the label, then
# 1,024 of red, of green, of blue, row by row.

NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def random_members(records=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, records, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, records), dtype=np.uint8)
    members = {}
    for name, batch, marks in zip(NAMES, images, labels, strict=True):
        content = b""
        for image, mark in zip(batch, marks, strict=True):
            planes = [image[:, :, channel].tobytes() for channel in range(3)]
            content += bytes([mark]) + b"".join(planes)
        members[name] = content
    return members, images, labels


def write_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "cifar-10-binary.tar.gz"


@pytest.mark.parametrize("reverse", [False, True])
def test_cifar_pixels_labels_and_order(archive, reverse):
    """In the order of the batches' numbers, whatever their order in the archive."""
    members, images, labels = random_members()
    names = [*members]
    if reverse:
        names.reverse()
    readme = {"readme.html": b"other files do not matter"}
    path = write_archive(archive, readme | {name: members[name] for name in names})
    found = cifar.load(path, unofficial=True)
    train, test = found.splits[Split.TRAIN], found.splits[Split.TEST]
    assert np.array_equal(train.images, images[:5].reshape(15, 32, 32, 3))
    assert np.array_equal(train.labels, labels[:5].ravel())
    assert np.array_equal(test.images, images[5])
    assert np.array_equal(test.labels, labels[5])
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int32
    assert found.info.image_shape == (32, 32, 3)
    assert found.provenance == {
        "source": path,
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "official": False,
    }


def test_cifar_refuses_what_is_not_official(archive):
    members, _, _ = random_members()
    path = write_archive(archive, members)
    with pytest.raises(DataError) as caught:
        cifar.load(path, unofficial=False)
    message = one_line(caught, path)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in message
    # The published archive's.
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in message
    assert "--config.data.unofficial=True" in message


def one_line(caught, path):
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("path", ["", "absent.tar.gz", "."])
def test_cifar_without_a_file(path):
    with pytest.raises(DataError) as caught:
        cifar.load(path, unofficial=True)
    assert one_line(caught, path).startswith(f"data.path={path!r}: ")


def damaged(members, damage):
    """The archive's members after one damage to the third batch, and what the message says."""
    name = "data_batch_3.bin"
    content = members[name]
    changed = {
        "lacking": None,
        "empty": b"",
        "a byte short": content[:-1],
        "too many records": content[:3073] * 10_001,
        "label 200": bytes([200]) + content[1:],
        "label 10": bytes([10]) + content[1:],
    }[damage]
    members = {**members, name: changed}
    return {name: content for name, content in members.items() if content is not None}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("lacking", "lacks data_batch_3.bin"),
        ("empty", "data_batch_3.bin has 0 bytes"),
        ("a byte short", "data_batch_3.bin has 9218 bytes"),  # 3 records of 3,073 less one
        ("too many records", "data_batch_3.bin has 30733073 bytes"),
        ("label 200", "has label 200"),
        ("label 10", "has label 10"),
    ],
)
def test_cifar_with_a_damaged_member(archive, damage, says):
    members, _, _ = random_members()
    path = write_archive(archive, damaged(members, damage))
    with pytest.raises(DataError) as caught:
        cifar.load(path, unofficial=True)
    assert says in one_line(caught, path)


def test_cifar_that_is_a_folder_by_that_name(archive):
    """A member that is no regular file is as good as none."""
    members, _, _ = random_members()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "test_batch.bin":
                member.type, member.size = tarfile.DIRTYPE, 0
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError) as caught:
        cifar.load(str(archive), unofficial=True)
    assert "lacks test_batch.bin" in one_line(caught, archive)


def test_cifar_truncated_anywhere(archive):
    members, _, _ = random_members()
    write_archive(archive, members)
    content = archive.read_bytes()
    whole = len(content)
    for size in (0, 5, 12, whole // 4, whole // 2, whole - 2000):
        archive.write_bytes(content[:size])
        with pytest.raises(DataError) as caught:
            cifar.load(str(archive), unofficial=True)
        one_line(caught, archive)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>not found</html>" * 100,
        gzip.compress(b"no tar" * 1000),
        b"\x1f\x8b" + b"x" * 500,
        b"\x1f\x8b\x08",
    ],
    ids=["a web page", "gzip of something else", "gzip's mark alone", "half a header"],
)
def test_cifar_that_is_no_archive(archive, content):
    archive.write_bytes(content)
    with pytest.raises(DataError) as caught:
        cifar.load(str(archive), unofficial=True)
    one_line(caught, archive)


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_cifar_with_a_flipped_bit(archive, percent):
    """The tar format does not notice; gzip's checksum does, also without an official sum."""
    write_archive(archive, random_members()[0])
    content = bytearray(archive.read_bytes())
    content[len(content) * percent // 100] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError) as caught:
        cifar.load(str(archive), unofficial=True)
    one_line(caught, archive)


def test_cifar_that_goes_on_behind_its_end(archive):
    """A small file must not unpack without end."""
    write_archive(archive, random_members()[0])
    archive.write_bytes(archive.read_bytes() + gzip.compress(bytes(4 << 20)))
    with pytest.raises(DataError, match="goes on behind the end") as caught:
        cifar.load(str(archive), unofficial=True)
    one_line(caught, archive)
