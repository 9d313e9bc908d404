"""Thousands of damaged archives: each loads correctly or raises a DataError of one line."""

import gzip
import pickle

import numpy as np
import pytest
from cifar_files import (
    as_pickles,
    as_python_2,
    as_tar,
    pixels_and_labels,
    random_members,
    write_folder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from googlenet_jax import data
from googlenet_jax.config import DataConfig
from googlenet_jax.errors import DataError

CALLED = []


def call_me():
    """What the hostile fragments below would call."""
    CALLED.append(True)


FRAGMENTS = [
    b"ctest_cifar_fuzz\ncall_me\n)R",  # protocol 2: a global, an empty tuple, a call
    b"(itest_cifar_fuzz\ncall_me\n",  # protocol 0: an instance
    b"\x8c\x0ftest_cifar_fuzz\x8c\x07call_me\x93)R",  # protocol 4
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # 2^63 bytes follow
    b"r\xff\xff\xff\xff",  # stores at index 2^32 of the memo
    b"\x96\xff\xff\xff\xff\xff\x00\x00\x00",  # a byte array of a terabyte
    b"cnumpy\nndarray\n)Rb",
    b"(" * 2000,
    b"\x00" * 512,
    b"." * 3,
]
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "end"]),
        st.floats(0, 1),  # position, as a fraction of the length
        st.binary(min_size=1, max_size=8) | st.sampled_from(FRAGMENTS),
    ),
    min_size=1,
    max_size=4,
)
FUZZ = settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,  # the same examples in each test session
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def mutate(content, mutations):
    for kind, where, new in mutations:
        at = int(where * len(content))
        content = {
            "overwrite": content[:at] + new + content[at + len(new) :],
            "insert": content[:at] + new + content[at:],
            "delete": content[:at] + content[at + len(new) :],
            "end": content[:at],
        }[kind]
    return content


def members_of(form):
    members = random_members(records=2)[0]
    if form == "python 2":
        return {name.removesuffix(".bin"): as_python_2(c) for name, c in members.items()}
    return members if form == "binary" else as_pickles(members)


def load(path):
    """The loaded data set, or None if it is refused with one line that names the path."""
    try:
        return data.load(DataConfig(path=str(path), unofficial=True), seed=0)
    except DataError as error:
        message = str(error)
    finally:
        assert not CALLED
    assert "\n" not in message
    assert str(path) in message
    return None


def load_bytes(path, content):
    path.write_bytes(content)
    return load(path)


FORMS = ["binary", "python 2", "python 3"]


@pytest.fixture(scope="module", params=FORMS)
def tar(request):
    return as_tar(members_of(request.param))


def test_the_undamaged_archive_loads(tar, tmp_path):
    assert load_bytes(tmp_path / "archive", gzip.compress(tar)) is not None


@FUZZ
@given(mutations=MUTATIONS)
def test_damaged_archives(tar, tmp_path, mutations):
    """The damage is in the tar, before compression, so gzip's checksum is correct."""
    found = load_bytes(tmp_path / "archive", gzip.compress(mutate(tar, mutations), 1))
    if found is not None:
        for arrays in found.splits.values():
            assert arrays.images.shape == (len(arrays.labels), 32, 32, 3)
            assert 0 < len(arrays.labels) <= 11
            assert 0 <= arrays.labels.min() <= arrays.labels.max() < 10


@settings(FUZZ, max_examples=500)
@given(mutations=MUTATIONS)
def test_damaged_gzip(tar, tmp_path, mutations):
    """What passes the checksum must be the undamaged data."""
    whole = gzip.compress(tar, 1, mtime=0)
    found = load_bytes(tmp_path / "archive", mutate(whole, mutations))
    if found is not None:
        assert pixels_and_labels(found) == pixels_and_labels(load_bytes(tmp_path / "whole", whole))


@pytest.fixture(scope="module", params=FORMS[1:])
def unpacked(request, tmp_path_factory):
    """A folder of undamaged files, and the content of the one that each example damages."""
    members = members_of(request.param)
    folder = write_folder(tmp_path_factory.mktemp("cifar") / "unpacked", members)
    return folder, members["test_batch"]


@FUZZ
@given(mutations=MUTATIONS)
def test_damaged_pickles(unpacked, mutations):
    """In a folder, so that the damage reaches the pickle reader and not only the tar reader."""
    folder, content = unpacked
    (folder / "test_batch").write_bytes(mutate(content, mutations))
    found = load(folder)
    if found is not None:
        assert all(np.all(arrays.labels < 10) for arrays in found.splits.values())


def test_the_fragments_are_hostile():
    """Python's own pickle reader makes the call."""
    for fragment in FRAGMENTS[:3]:
        assert pickle.loads(b"\x80\x04" + fragment + b".") is None
        assert CALLED.pop()
