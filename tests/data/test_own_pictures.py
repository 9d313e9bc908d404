"""Pictures as users have them: archives, CSV and parquet files, unbalanced classes."""

import contextlib
import csv
import itertools
import json
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zipfile

import jax
import numpy as np
import picture_files
import pytest
from picture_files import numbers, plain_folder

from googlenet_jax import data
from googlenet_jax.config import Config, DataConfig
from googlenet_jax.data import Split, archives, decoding, epoch_order, parquet
from googlenet_jax.data.dataset import balanced_weights
from googlenet_jax.errors import DataError, UserError
from googlenet_jax.training import feeds

SIZES = {"cat": 9, "dog": 6, "eel": 8}


def load(path, seed=0, **fields):
    return data.load(DataConfig(name="folder", path=str(path), crop_size=8, **fields), seed)


def content(stream):
    """Label and number of every picture, by split and in order."""
    return {split: list(zip(*read(stream, split), strict=True)) for split in sorted(stream.splits)}


def read(stream, split):
    (batch,) = stream.batches(Split(split), 100)
    return batch.labels.tolist(), numbers(batch.images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return plain_folder(tmp_path_factory.mktemp("plain"), SIZES)


def pack_zip(folder, path, top="", method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{top}{file.relative_to(folder)}")
    return path


def pack_tar(folder, path, top="", mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, top or ".")
    return path


@pytest.mark.parametrize(
    "pack",
    [
        lambda folder, to: pack_zip(folder, to / "x.zip"),
        lambda folder, to: pack_zip(folder, to / "x.ZIP", "photos/2026/", zipfile.ZIP_STORED),
        lambda folder, to: pack_tar(folder, to / "x.tar"),
        lambda folder, to: pack_tar(folder, to / "no suffix", "photos"),
    ],
    ids=["zip", "zip of a folder", "tar of .", "tar of a folder"],
)
def test_an_archive_is_read_like_its_folder(folder, tmp_path, pack):
    """Also in a worker process, to which it is sent; nothing is written."""
    path = pack(folder, tmp_path)
    stream = load(path)
    assert stream.info.class_names == tuple(SIZES)
    assert content(stream) == content(load(folder))
    sent = pickle.loads(pickle.dumps(stream.splits[Split.TEST]))
    assert [sent[i] for i in range(9)] == [stream.splits[Split.TEST][i] for i in range(9)]
    assert [*tmp_path.iterdir()] == [path]


def test_names_in_an_archive_are_no_paths(folder, tmp_path):
    """They may lead anywhere; only their folders' names count."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(("cat", "dog")):
            archive.writestr(f"../../{name}/{number}.png", picture_files.plain(number))
            archive.writestr(f"../../{name}/{number + 2}.png", picture_files.plain(number + 2))
    assert content(load(path, test_share=0.5)) == {
        "test": [(0, 0), (1, 1)],
        "train": [(0, 2), (1, 3)],
    }


def test_a_file_without_a_name_is_left_out(folder, tmp_path):
    """Python's zip reader takes a name that begins with a zero byte for an empty one."""
    pack_zip(folder, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("Z.txt", b"")
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes().replace(b"Z.", b"\0."))
    assert content(load(tmp_path / "x.zip")) == content(load(folder))


def damaged_zip(path):
    path.write_bytes(b"PK" + bytes(100))


def lzma_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("train/cat/1.png", picture_files.plain(1))
        archive.writestr("test/cat/1.png", picture_files.plain(1))


def damaged_content(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/cat/1.png", picture_files.plain(1))
        archive.writestr("test/cat/1.png", picture_files.plain(1))
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"iDAT"))


def gzipped_tar(path):
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cat/1.png"))


def huge_header(path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 2**33
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.zip", damaged_zip, "x.zip: is not a zip archive"),
        ("x.zip", lzma_zip, "test/cat/1.png: cannot be read: is compressed, but not by deflate"),
        ("x.zip", damaged_content, "1.png: cannot be read: Bad CRC-32"),
        ("x.tar.gz", gzipped_tar, r"x.tar.gz: is not .* uncompressed tar .*gunzip"),
        ("x.tar", huge_header, "a header is larger than 1,048,576 bytes"),
        ("x.tar", lambda path: path.write_bytes(b""), "is not a zip or an uncompressed tar"),
    ],
)
def test_archives_that_cannot_be_used(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name).splits[Split.TEST][0]


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_a_large_file_in_an_archive_is_not_read(folder, tmp_path, monkeypatch, pack):
    stream = load(pack(folder, tmp_path / f"x.{pack.__name__[-3:]}"))
    monkeypatch.setattr(decoding, "MAX_BYTES", 20)
    monkeypatch.delattr(archives.tarfile, "open")
    with pytest.raises(DataError, match="png: cannot be read: is larger than 20 bytes"):
        stream.splits[Split.TEST][0]


def test_a_file_that_unpacks_to_more_than_it_says_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for split in ("train", "test"):
            archive.writestr(f"{split}/cat/1.png", bytes(2**26))
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(struct.pack("<I", 2**26), b"\x64\0\0\0"))
    stream = load(tmp_path / "x.zip")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        stream.splits[Split.TEST][0]
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_hidden_files_and_other_kinds_are_left_out_and_said_once(folder, tmp_path, caplog):
    path = shutil.copytree(folder, tmp_path / "copy")
    cat = path / "train" / "cat"
    for name in (".DS_Store", "._00001.png", "Thumbs.db", ".cache/1.png"):
        (cat / name).parent.mkdir(exist_ok=True)
        (cat / name).write_bytes(b"?")
    (path / "__MACOSX" / "train" / "cat").mkdir(parents=True)
    (path / "train" / "@eaDir").mkdir()
    found = load(path)
    assert content(found) == content(load(folder))
    assert found.provenance["sha256"] == load(folder).provenance["sha256"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "left out 6 hidden files and files that are no pictures, such as __MACOSX" in line
    assert content(load(pack_zip(path, tmp_path / "x.zip"))) == content(found)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".WEBP", "WEBP"), (".bmp", "BMP"), (".tif", "TIFF"), (".TIFF", "TIFF"), (".JPEG", "JPEG")],
)
def test_kinds_of_files(tmp_path, suffix, kind):
    pixels = np.full((8, 8, 3), 80, np.uint8)
    for split in ("Train", "VALID"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / f"1{suffix}").write_bytes(picture_files.encoded(pixels, kind))
    stream = load(tmp_path)
    (batch,) = stream.batches(Split.TEST, 2)
    assert np.abs(batch.images.astype(int) - 80).max() < 3


def test_a_picture_s_suffix_starts_no_other_program(tmp_path):
    """Ghostscript would run a PostScript file; what decides is its content."""
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "1.tif").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert "is not a picture of these formats" in load(tmp_path).describe_corrupt(Split.TEST, 0)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_names_of_the_validation_split(folder, tmp_path, name):
    path = shutil.copytree(folder, tmp_path / "copy")
    shutil.copytree(path / "test", path / name)
    assert set(load(path).splits) == {"train", "valid", "test"}


def test_a_share_of_each_class_is_set_apart(folder):
    """Rounded, and at least one picture; the test images do not depend on the seed."""
    streams = [load(folder / "train", seed, test_share=0.25, valid_share=0.1) for seed in range(3)]
    for stream in streams:
        counts = {s: np.bincount(p.labels).tolist() for s, p in stream.splits.items()}
        assert counts == {"train": [6, 3, 5], "valid": [1, 1, 1], "test": [2, 2, 2]}
        together = [name for pictures in stream.splits.values() for name in pictures.names]
        assert len({*together}) == len(together) == 23
    chosen = [[stream.splits[split].names for stream in streams] for split in ("test", "valid")]
    assert [len({*map(tuple, names)}) > 1 for names in chosen] == [False, True]
    with pytest.raises(DataError, match=r"test_share=0\.95: takes 9 images of class 'cat', which"):
        load(folder / "train", test_share=0.95)
    with pytest.raises(
        UserError, match=r"test_share=0\.2: must be 0\.0, .* data\.test_examples=0 and"
    ):
        Config(data=DataConfig(name="folder", test_examples=3, test_share=0.2)).validate()
    digits = data.load(DataConfig(name="digits", valid_share=0.1), 0)
    train = data.load(DataConfig(name="digits"), 0).splits[Split.TRAIN]
    expected = [round(0.1 * n) for n in np.bincount(train.labels)]
    assert np.bincount(digits.splits[Split.VALID].labels).tolist() == expected


def flat_folder(root, count):
    root.mkdir()
    for number in range(count):
        (root / f"{number:x}.png").write_bytes(picture_files.plain(number))
    return root


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (["image_id", "Label"], {}),
        (["id", "breed"], {}),
        (["", "id", "filename", "w", "class"], {}),
        (["who", "what", "why"], {"columns": "who,why"}),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_a_csv_file_lists_pictures(tmp_path, header, fields, suffix):
    flat_folder(tmp_path / "images", 24)
    rows = []
    for number in range(24):
        name, label = f"{number:x}{suffix}", f"{9 + number % 3}"
        rows.append([*["7"] * (len(header) - 1), label])
        rows[-1][header.index("filename") if "filename" in header else 0] = name
    path = write_csv(tmp_path / "train.csv", header, rows)
    stream = load(path, pictures=str(tmp_path / "images"), test_share=0.25, **fields)
    assert stream.info.class_names == ("9", "10", "11")
    for split, size in (("train", 18), ("test", 6)):
        labels, found = read(stream, split)
        assert len(found) == size
        assert labels == [number % 3 for number in found]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns ; --config.data.columns=PICTURE,LABEL"),
        ("a,b,c\n0,1,2\n", "has the columns a, b, c; --config.data.columns=PICTURE,LABEL"),
        ("id,label\n0\n", "row 1 has 1 columns, not 2"),
        ("id,label\n0,\n", "row 1 gives '0' no label, or a second one"),
        ("id,label\n0,a\n0,b\n", "row 2 gives '0' no label, or a second one"),
        ("id,label\n0,a\n77,a\n", r"row 2 names '77', which is not in .*--config.data.pictures="),
        ("id,label\n../secret.png,a\n", r"row 1 names '../secret.png', which is not in"),
        ("id,label\n\0,a\n", "row 1 names|cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_csv_files_that_cannot_be_used(tmp_path, text, message):
    images = flat_folder(tmp_path / "images", 2)
    (tmp_path / "secret.png").write_bytes(picture_files.plain(9))
    path = images / "train.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        load(path, test_share=0.5)
    assert str(path) in str(caught.value)


def write_hub(folder, splits, image="image", label="label", names=(), as_struct=True):
    """Writes a set as `datasets` writes it to the hub; a split is a list of (number, label)."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    for split, rows in splits.items():
        pictures = [picture_files.plain(number) for number, _ in rows]
        if as_struct:
            pictures = [{"bytes": each, "path": "x.png"} for each in pictures]
        table = pyarrow.table({image: pictures, label: [label for _, label in rows]})
        if names:
            features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
            known = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": known})
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    "form", [{}, {"image": "img", "label": "fine_label"}, {"label": "labels", "as_struct": False}]
)
def test_a_folder_of_parquet_files(tmp_path, form):
    splits = {
        "train": [(number, number % 3) for number in range(10)],
        "validation": [(10, 0), (11, 1), (12, 2)],
        "test": [(13, -1)],
    }
    hub = write_hub(tmp_path / "hub" / "data", splits, names=["eel", "cat", "dog"], **form)
    for path in (hub, hub.parent):
        stream = load(path)
        assert stream.info.class_names == ("eel", "cat", "dog")
        found = content(stream)
        assert sorted(found["train"]) == sorted((label, n) for n, label in splits["train"])
        assert found["test"] == [(0, 10), (1, 11), (2, 12)]
    assert data.describe(DataConfig(name="folder", path=str(hub))).num_classes == 3


def test_parquet_files_without_names_of_classes_and_splits(tmp_path):
    rows = [(number, ["10", "9"][number % 2]) for number in range(8)]
    hub = write_hub(tmp_path / "hub", {"0000": rows})
    classes = tmp_path / "classes.txt"
    classes.write_text("10 ten\n9 nine\n")
    assert load(hub, test_share=0.25).info.class_names == ("9", "10")
    stream = load(hub, test_share=0.25, classes=str(classes))
    assert stream.info.class_names == ("ten", "nine")
    assert sorted(itertools.chain(*content(stream).values())) == sorted((n % 2, n) for n, _ in rows)


def test_parquet_files_that_cannot_be_used(tmp_path, monkeypatch):
    rows = [(0, 0), (1, 1)]
    hub = write_hub(tmp_path / "a", {"train": rows, "test": rows}, image="x", label="z")
    (hub / "train-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="train files cannot be read"):
        load(hub)
    (hub / "train-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"has the columns x, z; --config\.data\.columns"):
        load(hub, columns="image,label")
    assert load(hub).info.class_names == ("0", "1")
    with pytest.raises(DataError, match=r"data\.workers=2: must be 0 for parquet files"):
        load(hub, workers=2)
    with pytest.raises(DataError, match="image 1: label 1 is none of 1"):
        load(write_hub(tmp_path / "b", {"train": rows, "test": rows}, names=["cat"]))
    with pytest.raises(DataError, match="have rows without an image or a label"):
        load(write_hub(tmp_path / "c", {"train": [(0, None)], "test": rows}))
    monkeypatch.setattr(parquet, "MAX_STORED_BYTES", 200)
    with pytest.raises(DataError, match="the images are more than 200 bytes"):
        load(hub)


def take(stream, weights, first_step, rows):
    with contextlib.closing(stream.training_batches(10, rows, first_step, weights)) as batches:
        return [batch.labels.tolist() for batch in itertools.islice(batches, 24)]


def test_balanced_sampling(tmp_path):
    """All classes come equally often; a stream may begin at any step, with any rows."""
    stream = load(plain_folder(tmp_path, {"cat": 30, "dog": 3, "eel": 7}))
    labels = stream.splits[Split.TRAIN].labels
    weights = balanced_weights(labels, 3)[labels]
    drawn = take(stream, weights, 0, np.arange(10))
    assert np.bincount(np.ravel(drawn)) == pytest.approx([80] * 3, abs=20)
    assert drawn[0] != drawn[4]  # the same step of two epochs
    assert take(stream, weights, 7, np.arange(3, 8))[:17] == [batch[3:8] for batch in drawn[7:]]

    key = jax.random.key(0)
    orders = [np.asarray(epoch_order(key, epoch, 40, weights)) for epoch in (0, 0, *range(1, 8))]
    assert np.array_equal(orders[0], orders[1])
    assert np.bincount(labels[np.ravel(orders[1:])]) == pytest.approx([107] * 3, abs=30)


def test_weights_that_do_not_fit_the_data(tmp_path):
    config = Config(data=DataConfig(name="digits"))
    config.train.class_weights = "1,2,.5"
    config.validate()
    with pytest.raises(UserError, match=r"class_weights='1,2,\.5': has 3 numbers; digits has 10"):
        feeds.create(data.load(config.data, 0), config)
    config.train.class_weights = "1,0"
    with pytest.raises(UserError, match="must be balanced or a number above 0 for each class"):
        config.validate()
    splits = {s: [(picture_files.plain(n), n % 2) for n in range(4)] for s in ("train", "test")}
    path = picture_files.prepare(tmp_path, "zoo", splits, ["cat", "dog"])
    for group, field in (("train", "class_weights"), ("data", "sampling")):
        config = Config(data=DataConfig(name="tfds:zoo", stream=True, path=str(path)))
        setattr(getattr(config, group), field, "balanced")
        with pytest.raises(DataError, match=f"{field}='balanced': needs all labels in advance"):
            feeds.create(data.load(config.data, 0), config)
