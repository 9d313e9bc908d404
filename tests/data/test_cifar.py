"""CIFAR-10 and CIFAR-100: the same pixels from every format, and errors of one line."""

import gzip
import hashlib
import io
import itertools
import os
import pickle
import tarfile

import numpy as np
import pytest
from cifar_files import (
    as_pickles,
    as_python_2,
    pixels_and_labels,
    random_cifar100,
    random_members,
    write_archive,
    write_folder,
)

from googlenet_jax.config import DataConfig
from googlenet_jax.data import Split, cifar, load
from googlenet_jax.errors import DataError


def load_cifar10(path, unofficial=True):
    return load(DataConfig(path=str(path), unofficial=unofficial), seed=0)


def refusal(path, unofficial=True):
    """The error's message, which is one line and names the file."""
    with pytest.raises(DataError) as caught:
        load_cifar10(path, unofficial)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "cifar-10-binary.tar.gz"


@pytest.mark.parametrize("reverse", [False, True])
def test_cifar_pixels_labels_and_order(archive, reverse):
    """They are in the order of the batches' numbers, whatever the order in the archive."""
    members, images, labels = random_members()
    names = [*members]
    if reverse:
        names.reverse()
    readme = {"readme.html": b"other files are ignored"}
    path = write_archive(archive, readme | {name: members[name] for name in names})
    found = load_cifar10(path)
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


def test_cifar_refuses_an_unofficial_archive(archive):
    members, _, _ = random_members()
    message = refusal(write_archive(archive, members), unofficial=False)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in message
    # The sum of the published archive.
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in message
    assert "--config.data.unofficial=True" in message


@pytest.mark.parametrize("path", ["absent.tar.gz", "."])
def test_cifar_without_a_file(path):
    assert refusal(path).startswith(f"data.path={path!r}: ")


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (lambda content: None, "lacks data_batch_3.bin"),
        (lambda content: b"", "data_batch_3.bin has 0 bytes"),
        (lambda content: content[:-1], "data_batch_3.bin has 9218 bytes"),  # 3 * 3,073 - 1
        (lambda content: content[:3073] * 10_001, "data_batch_3.bin has 30733073 bytes"),
        (lambda content: bytes([200]) + content[1:], "train split has label 200"),
        (lambda content: bytes([10]) + content[1:], "train split has label 10"),
    ],
)
def test_cifar_with_a_damaged_member(archive, damaged, says):
    members, _, _ = random_members()
    content = damaged(members.pop("data_batch_3.bin"))
    if content is not None:
        members["data_batch_3.bin"] = content
    assert says in refusal(write_archive(archive, members))


def test_cifar_with_a_folder_in_place_of_a_batch(archive):
    """Members of the archive that are not regular files are ignored."""
    members, _, _ = random_members()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "test_batch.bin":
                member.type, member.size = tarfile.DIRTYPE, 0
            tar.addfile(member, io.BytesIO(content))
    assert "lacks test_batch.bin" in refusal(archive)


def test_cifar_truncated_anywhere(archive):
    members, _, _ = random_members()
    write_archive(archive, members)
    content = archive.read_bytes()
    whole = len(content)
    for size in (0, 5, 12, whole // 4, whole // 2, whole - 2000):
        archive.write_bytes(content[:size])
        refusal(archive)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>not found</html>" * 100,
        gzip.compress(b"no tar" * 1000),
        b"\x1f\x8b" + b"x" * 500,
        b"\x1f\x8b\x08",
    ],
    ids=["a web page", "gzip of something else", "only gzip's first bytes", "half a header"],
)
def test_cifar_that_is_not_an_archive(archive, content):
    archive.write_bytes(content)
    refusal(archive)


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_cifar_with_a_flipped_bit(archive, percent):
    """The tar format does not notice it, but gzip's checksum does, without an official sum."""
    write_archive(archive, random_members()[0])
    content = bytearray(archive.read_bytes())
    content[len(content) * percent // 100] ^= 1
    archive.write_bytes(content)
    refusal(archive)


def test_cifar_with_data_after_its_end(archive):
    """A small file must not unpack without limit."""
    write_archive(archive, random_members()[0])
    archive.write_bytes(archive.read_bytes() + gzip.compress(bytes(4 << 20)))
    assert "has data after the end" in refusal(archive)


def test_cifar_that_unpacks_without_limit(archive):
    """An unused member unpacks to a thousand times the archive's size."""
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("large")
        member.size = 700 << 20
        tar.addfile(member, Zeros(member.size))
    assert archive.stat().st_size < 1 << 20
    assert "unpacks to more bytes than the format allows" in refusal(archive)


class Zeros(io.RawIOBase):
    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


@pytest.mark.parametrize("form", ["binary", "Python 3", "Python 2"])
def test_cifar_is_the_same_from_every_format(archive, tmp_path, form):
    members, images, labels = random_members()
    members = {
        "binary": members,
        "Python 3": as_pickles(members),
        "Python 2": {name.removesuffix(".bin"): as_python_2(c) for name, c in members.items()},
    }[form]
    found = [
        load_cifar10(write_archive(archive, members)),
        load_cifar10(write_folder(tmp_path / "unpacked", members)),
        load_cifar10(write_folder(tmp_path / "a" / "cifar-10-batches", members).parent),
    ]
    train, test = found[0].splits[Split.TRAIN], found[0].splits[Split.TEST]
    assert np.array_equal(train.images, images[:5].reshape(-1, 32, 32, 3))
    assert np.array_equal(train.labels, labels[:5].ravel())
    assert np.array_equal(test.images, images[5])
    assert np.array_equal(test.labels, labels[5])
    assert pixels_and_labels(found[1]) == pixels_and_labels(found[0])
    assert pixels_and_labels(found[2]) == pixels_and_labels(found[0])
    assert found[1].provenance["sha256"] == found[2].provenance["sha256"]


def test_a_folder_is_not_official(tmp_path):
    folder = write_folder(tmp_path / "unpacked", random_members()[0])
    assert "--config.data.unofficial=True" in refusal(folder, unofficial=False)


def test_a_folder_with_something_else(tmp_path):
    folder = write_folder(tmp_path / "photos", {"cat.png": b"x"})
    assert "cifar-10-binary.tar.gz or cifar-10-python.tar.gz" in refusal(folder)


def test_cifar100_takes_the_fine_labels(tmp_path):
    """A binary record has two labels, the coarse one first; a Python batch has them by name."""
    binary, python, expected = random_cifar100()
    for form, members in (("binary", binary), ("python", python)):
        path = write_folder(tmp_path / form, members)
        config = DataConfig(name="cifar100", path=str(path), unofficial=True)
        found = load(config, seed=0)
        assert found.info.num_classes == 100
        for name, (images, fine) in expected.items():
            assert np.array_equal(found.splits[Split(name)].images, images)
            assert np.array_equal(found.splits[Split(name)].labels, fine)


def test_cifar100_classes_are_in_alphabetical_order():
    names = cifar.CIFAR100.info.class_names
    assert len(set(names)) == 100
    assert list(names) == sorted(names)


class Hostile:
    """Makes its pickle call any function with any arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["whole", "data", "labels", "extra"])
def test_a_pickle_s_code_is_never_run(tmp_path, protocol, place):
    marker = tmp_path / "run"
    hostile = Hostile(marker.touch)
    members, _, _ = random_members()
    batches = as_pickles(members)
    batch = pickle.loads(batches["data_batch_1"])
    content = hostile if place == "whole" else {**batch, place.encode(): hostile}
    pickled = pickle.dumps(content, protocol)
    pickle.loads(pickled)
    assert marker.exists()  # Python's own reader runs the code
    marker.unlink()
    batches["data_batch_1"] = pickled
    folder = write_folder(tmp_path / "unpacked", batches)
    assert "data_batch_1 is not a CIFAR batch" in refusal(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({b"labels": [0, 1]}, "pixels do not have the shape"),
        ({b"labels": [0, 1, -1]}, "not integers from 0 to 2147483647"),
        ({b"labels": [0, 1, 2**40]}, "not integers from 0 to 2147483647"),
        ({b"labels": [0, 1, True]}, "not integers from 0 to 2147483647"),
        ({b"labels": (0, 1, 2)}, "pixels do not have the shape"),
        ({b"labels": [0, 1, 10]}, "has label 10"),
        ({b"labels": None}, "pixels do not have the shape"),
        ({b"data": np.zeros((3, 3071), np.uint8)}, "pixels do not have the shape"),
        ({b"data": np.zeros((3, 3072), np.int8)}, "not an array of uint8"),
        ({b"data": np.zeros((3, 3072), np.float32)}, "not an array of uint8"),
        ({b"data": np.zeros((3072, 3), np.uint8).T}, "not an array of uint8"),
        ({b"data": b"x" * 9216}, "AttributeError"),
        ({b"data": [0] * 9216}, "AttributeError"),
    ],
    ids=itertools.count(),
)
def test_a_pickled_batch_with_a_wrong_entry(tmp_path, change, says):
    batches = as_pickles(random_members()[0])
    batch = pickle.loads(batches["data_batch_2"]) | change
    batches["data_batch_2"] = pickle.dumps(batch, protocol=2)
    assert says in refusal(write_folder(tmp_path / "unpacked", batches))


def nested(times):
    """A pickled tuple that holds another tuple twice, which again holds one twice, and so on."""
    return b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(times))


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        # Hashing or printing it takes 2^200 steps, and no signal can interrupt that.
        (b"\x80\x02}" + nested(200) + b"K\x01s.", "keys that are not strings"),
        (b"\x80\x02}(" + nested(200) + b"K\x01u.", "keys that are not strings"),
        (
            b"\x80\x02}(U\x06labels](K\x00K\x01eU\x04datacnumpy.core.multiarray\n_reconstruct\n)R"
            + b"(K\x01"
            + nested(200)
            + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR\x89U\x01xtbu.",
            "pixels do not have the shape",
        ),
        # A text of 1,000 characters, encoded 500 times.
        (
            b"\x80\x02}(X\xe8\x03\x00\x00"
            + b"a" * 1000
            + b"q\x00"
            + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 500
            + b"u.",
            "encodes more text than the file holds",
        ),
    ],
    ids=["name", "names", "shape", "text"],
)
def test_a_small_batch_that_takes_unlimited_time_or_memory(tmp_path, batch, says):
    batches = as_pickles(random_members()[0])
    batches["data_batch_1"] = batch
    assert says in refusal(write_folder(tmp_path / "unpacked", batches))


def test_stored_files_are_regular_and_bounded(tmp_path):
    """This is checked before they are read: no waiting for a pipe, no sum of 60 GB."""
    with (tmp_path / "cifar.tar.gz").open("wb") as file:
        file.truncate(60 * 2**30)
    with pytest.raises(DataError, match="larger than 4,294,967,296 bytes"):
        load_cifar10(tmp_path / "cifar.tar.gz")
    for split in ("train", "test"):
        os.mkfifo(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="is not a regular file"):
        load_cifar10(tmp_path)


def test_a_complete_split_is_balanced(tmp_path, monkeypatch):
    members, _, _ = random_members(records=10)
    for name in members:
        rows = np.frombuffer(members[name], np.uint8).reshape(-1, 3073).copy()
        rows[:, 0] = np.arange(10)
        if name == "test_batch.bin":
            rows[3, 0] = 4
        members[name] = rows.tobytes()
    path = write_folder(tmp_path / "unpacked", members)
    load_cifar10(path)  # a part of CIFAR-10 need not be balanced
    monkeypatch.setitem(cifar.CIFAR10.counts, Split.TRAIN, 50)
    monkeypatch.setitem(cifar.CIFAR10.counts, Split.TEST, 10)
    assert "test split has 0 images of class 'cat'; expected 1" in refusal(path)
