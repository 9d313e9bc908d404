"""CIFAR from TFDS and from parquet files, other TFDS sets, and the cache of decoded images."""

import dataclasses
import hashlib
import io
import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cifar_files import pixels_and_labels, random_cifar100, random_members, write_archive
from PIL import Image

from googlenet_jax import fileio
from googlenet_jax.config import DataConfig
from googlenet_jax.data import Split, cifar, decoding, load, tfds_source
from googlenet_jax.errors import DataError


def load_set(path, name="cifar10", unofficial=True, cache=True):
    config = DataConfig(name=name, path=str(path), unofficial=unofficial, cache=cache)
    return load(config, seed=0)


def refusal(path):
    """The error's message, which is one line."""
    with pytest.raises(DataError) as caught:
        load_set(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return write_archive(folder / "cifar-10-binary.tar.gz", random_members()[0])


def prepare(form, archive, folder):
    """Prepares an archive with this project's builder; TFDS takes it for the published one."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    manual = folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    shutil.copy(archive, manual)
    url = f"https://www.cs.toronto.edu/~kriz/{Path(archive).name}"
    infos = {url: checksums.compute_url_info(archive)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tfds.image_classification.Cifar10, "url_infos", infos)
        tfds_source.prepare(form, folder)
    shutil.rmtree(folder / "downloads")
    return folder


@pytest.fixture(scope="module")
def prepared_once(archive, tmp_path_factory):
    return prepare(cifar.CIFAR10, archive, tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def prepared(prepared_once, tmp_path):
    return shutil.copytree(prepared_once, tmp_path / "prepared")


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_parquet(folder, splits, label="label", change=lambda rows: rows):
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    for split, arrays in splits.items():
        rows = change([{"bytes": png(image), "path": None} for image in arrays.images])
        table = pyarrow.table({"img": rows, label: np.asarray(arrays.labels, np.int64)})
        half = len(rows) // 2
        pyarrow.parquet.write_table(table[:half], folder / f"{split}-00000-of-00002.parquet")
        pyarrow.parquet.write_table(table[half:], folder / f"{split}-00001-of-00002.parquet")
    return folder


@pytest.fixture
def parquet(archive, tmp_path):
    return write_parquet(tmp_path / "hub" / "plain_text", load_set(archive).splits)


def test_the_same_from_every_format(archive, prepared, parquet):
    expected = load_set(archive)
    places = [prepared, prepared / "cifar10", prepared / "cifar10" / "3.0.2"]
    for path in (*places, parquet, parquet.parent):
        found = load_set(path)
        assert pixels_and_labels(found) == pixels_and_labels(expected)
        assert found.info == expected.info
        for split, arrays in found.splits.items():
            assert arrays.labels.dtype == expected.splits[split].labels.dtype


def test_tfds_reads_a_prepared_set(archive, prepared):
    """TFDS's own reader accepts what this project's builder wrote."""
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split="train", data_dir=prepared, download=False)
    examples = sorted(source, key=lambda example: example["id"])
    train = load_set(archive).splits[Split.TRAIN]
    assert [example["label"] for example in examples] == train.labels.tolist()
    assert np.array_equal([example["image"] for example in examples], train.images)
    assert source.dataset_info.features["label"].names == list(cifar.CIFAR10.info.class_names)


def test_cifar100_prepared(tmp_path):
    """Both labels are stored, as by TFDS; the fine ones are the classes."""
    import tensorflow_datasets as tfds

    binary, _, expected = random_cifar100()
    archive = write_archive(tmp_path / "cifar-100-binary.tar.gz", binary)
    folder = prepare(cifar.CIFAR100, archive, tmp_path / "data")
    found = load_set(folder, name="cifar100")
    for name, (images, fine) in expected.items():
        assert np.array_equal(found.splits[Split(name)].images, images)
        assert np.array_equal(found.splits[Split(name)].labels, fine)
    source = tfds.data_source("cifar100", split="train", data_dir=folder, download=False)
    coarse = {example["id"]: example["coarse_label"] for example in source}
    records = np.frombuffer(binary["train.bin"], np.uint8).reshape(-1, 3074)
    assert [coarse[name] for name in sorted(coarse)] == records[:, 0].tolist()


def test_prepared_without_a_path(archive, prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert pixels_and_labels(load_set("")) == pixels_and_labels(load_set(archive))


def test_an_archive_in_the_tfds_folder_for_manual_downloads(archive, tmp_path, monkeypatch):
    manual = tmp_path / "data" / "downloads" / "manual"
    manual.mkdir(parents=True)
    shutil.copy(archive, manual)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    found = load_set("")
    assert found.provenance["source"] == str(manual / "cifar-10-binary.tar.gz")
    assert pixels_and_labels(found) == pixels_and_labels(load_set(archive))


def test_a_set_prepared_from_an_official_archive_is_official(archive, prepared, monkeypatch):
    found = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"sha256 is {found}.*unofficial=True"):
        load_set(prepared, unofficial=False)
    monkeypatch.setitem(cifar.CIFAR10.archives, "cifar-10-binary.tar.gz", found)
    provenance = load_set(prepared, unofficial=False).provenance
    assert (provenance["sha256"], provenance["official"]) == (found, True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"archive": 3, "records": 4}'])
def test_records_that_do_not_match_the_archive(archive, prepared, monkeypatch, content):
    found = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.CIFAR10.archives, "cifar-10-binary.tar.gz", found)
    (prepared / "cifar10" / "3.0.2" / "archive.json").write_text(content)
    with pytest.raises(DataError, match=r"sha256 is .*unofficial=True"):
        load_set(prepared, unofficial=False)


def test_damaged_records(prepared):
    path = next((prepared / "cifar10" / "3.0.2").glob("*train.array_record*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert str(prepared) in refusal(prepared)


@pytest.mark.parametrize("damage", ["dataset_info", "features", "no records"])
def test_a_damaged_folder(prepared, damage):
    folder = prepared / "cifar10" / "3.0.2"
    if damage == "no records":
        for path in folder.glob("*array_record*"):
            path.unlink()
    else:
        (folder / f"{damage}.json").write_text("{")
    with pytest.raises(DataError, match="can be read without TensorFlow"):
        load_set(prepared)


def test_a_folder_of_another_set(prepared):
    folder = (prepared / "cifar10").rename(prepared / "cifar100")
    with pytest.raises(DataError, match=r"holds cifar10 .*, not cifar100"):
        load_set(folder, name="cifar100")


def test_parquet_of_cifar100_takes_the_fine_labels(archive, tmp_path):
    splits = load_set(archive).splits
    folder = write_parquet(tmp_path / "cifar100", splits, label="fine_label")
    found = load_set(folder, name="cifar100")
    for split, arrays in splits.items():
        assert np.array_equal(found.splits[split].labels, arrays.labels)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"<html>", "cannot be decoded"),
        (None, "rows without an image"),
        (np.zeros((30_000, 2, 3), np.uint8), "image 0 is RGB, 2x30000; expected RGB, 32x32"),
        (np.zeros((32, 32), np.uint8), "image 0 is L, 32x32; expected RGB, 32x32"),
    ],
    ids=["not an image", "null", "another size", "gray"],
)
def test_parquet_with_bad_rows(archive, tmp_path, image, says):
    row = {"bytes": png(image) if isinstance(image, np.ndarray) else image, "path": None}
    splits = load_set(archive).splits
    folder = write_parquet(tmp_path / "hub", splits, change=lambda rows: [row] * len(rows))
    assert says in refusal(folder)


def test_parquet_with_other_columns(archive, tmp_path):
    folder = write_parquet(tmp_path / "hub", load_set(archive).splits, label="class")
    assert "train files cannot be read" in refusal(folder)


@pytest.mark.parametrize("label", [10, -1, 2**37])
def test_parquet_with_a_label_of_no_class(archive, tmp_path, label):
    splits = dict(load_set(archive).splits)
    train = splits[Split.TRAIN]
    wrong = np.append(np.asarray(train.labels[:-1], np.int64), label)
    splits[Split.TRAIN] = dataclasses.replace(train, labels=wrong)
    folder = write_parquet(tmp_path / "hub", splits)
    assert f"train files have label {label}; expected 0 to 9" in refusal(folder)


def test_truncated_parquet(parquet):
    path = next(parquet.glob("train-*"))
    path.write_bytes(path.read_bytes()[:1000])
    assert "train files cannot be read" in refusal(parquet)


def test_parquet_without_pyarrow(parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        load_set(parquet)


class DecodedAgain(Exception):
    pass


def forbid_decoding(monkeypatch):
    def decode(*args):
        raise DecodedAgain

    monkeypatch.setattr(decoding, "decode", decode)


def test_decoded_once(parquet, monkeypatch):
    first = load_set(parquet)
    (file,) = fileio.cache_folder().iterdir()
    assert first.provenance["cache"].startswith(f"{file} (")
    forbid_decoding(monkeypatch)
    assert pixels_and_labels(load_set(parquet)) == pixels_and_labels(first)
    with pytest.raises(DecodedAgain):
        load_set(parquet, cache=False)


def test_no_cache_is_written_if_it_is_off(parquet):
    assert "cache" not in load_set(parquet, cache=False).provenance
    assert not fileio.cache_folder().exists()


@pytest.mark.parametrize("damage", ["a bit", "the end", "empty"])
def test_a_damaged_cache_is_written_again(parquet, damage):
    first = load_set(parquet)
    (file,) = fileio.cache_folder().iterdir()
    whole = file.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    file.write_bytes({"a bit": content, "the end": whole[:-100], "empty": b""}[damage])
    assert pixels_and_labels(load_set(parquet)) == pixels_and_labels(first)
    assert file.read_bytes() == whole


def test_different_files_have_different_caches(archive, parquet, tmp_path):
    load_set(parquet)
    splits = load_set(archive).splits
    splits[Split.TEST].images[0] ^= 1
    other = load_set(write_parquet(tmp_path / "other", splits))
    assert np.array_equal(other.splits[Split.TEST].images, splits[Split.TEST].images)


def test_a_cache_that_cannot_be_written(parquet, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_set(parquet).provenance["cache"].startswith("none (")


@pytest.mark.parametrize("fails", ["refused", "no answer"])
def test_without_a_network(monkeypatch, tmp_path, fails):
    """Also if the name server does not answer, which a socket's timeout does not cover."""
    never = threading.Event()

    def connect(*args, **kwargs):
        if fails == "no answer":
            never.wait()
        raise OSError("refused")

    monkeypatch.setattr(tfds_source.socket, "create_connection", connect)
    monkeypatch.setattr(tfds_source, "NETWORK_SECONDS", 0.1)
    with pytest.raises(DataError) as caught:
        load_set("")
    never.set()
    message = str(caught.value)
    assert fails in message
    for way in ("cs.toronto.edu", "--config.data.path=", "downloads/manual"):
        assert way in message
    assert not (tmp_path / "tfds").exists()


def test_tfds_by_name(tmp_path, monkeypatch):
    """A set unknown to this project: gray, 6x8 pixels, three classes."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    images = {
        "train": rng.integers(0, 200, (20, 6, 8, 1), np.uint8),
        "test": rng.integers(0, 200, (5, 6, 8, 1), np.uint8),
    }
    with tfds.core.registered.skip_registration():

        class Marks(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.2.0")
            pkg_dir_path = tmp_path

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(6, 8, 1)),
                    "label": tfds.features.ClassLabel(names=["dot", "line", "ring"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in images}

            def _generate_examples(self, split):
                for index, image in enumerate(images[split]):
                    file = io.BytesIO(png(image[:, :, 0]))
                    yield index, {"image": file, "label": index % 3}

    Marks(data_dir=tmp_path / "data", file_format="array_record").download_and_prepare()
    for path, data_dir in ((tmp_path / "data", "elsewhere"), ("", tmp_path / "data")):
        monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
        found = load_set(path, name="tfds:marks")
        assert found.info.name == "tfds:marks"
        assert found.info.class_names == ("dot", "line", "ring")
        assert found.info.image_shape == (6, 8, 1)
        for split, expected in images.items():
            arrays = found.splits[Split(split)]
            rows = {
                (image.tobytes(), int(label))
                for image, label in zip(arrays.images, arrays.labels, strict=True)
            }
            assert rows == {(image.tobytes(), i % 3) for i, image in enumerate(expected)}
        pixels = images["train"] / 255
        assert np.allclose(found.info.mean, [pixels.mean()], rtol=1e-12)
        assert np.allclose(found.info.std, [pixels.std()], rtol=1e-12)
    with pytest.raises(DataError, match=r"no official one is known.*unofficial=True"):
        load_set("", name="tfds:marks", unofficial=False)


def test_a_set_that_tfds_has_not_prepared(tmp_path):
    with pytest.raises(DataError, match=r"data\.name='tfds:mnist': not prepared in .*array_record"):
        load_set("", name="tfds:mnist")
    with pytest.raises(DataError, match=r"no such file or folder with mnist"):
        load_set(tmp_path, name="tfds:mnist")


def test_archive_json_holds_both_sums(prepared):
    sums = json.loads((prepared / "cifar10" / "3.0.2" / "archive.json").read_text())
    assert set(sums) == {"archive", "records"}
