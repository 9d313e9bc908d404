"""Predictions equal the evaluation, for pictures of every format and between unreadable files."""

import argparse
import csv
import dataclasses
import importlib.metadata
import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from PIL import Image

import googlenet_jax
import train.predict
from googlenet_jax import data, storage
from googlenet_jax.data import Arrays, decoding, preprocess
from googlenet_jax.errors import DataError, UserError
from googlenet_jax.storage import pretrained
from googlenet_jax.storage.model import Prediction, _logits
from googlenet_jax.training import step
from train import pictures, table

pytestmark = pytest.mark.usefixtures("compiled_quickly")
NO_PICTURE = f"is not a picture of these formats: {', '.join(decoding.FORMATS)}"
SAMPLES = pretrained.FOLDER / "digits" / "samples"
GRAY, RGB = (8, 8, 1), (6, 10, 3)
ORANGE = (200, 100, 50)


@pytest.fixture(scope="module")
def model():
    """The shipped network."""
    return googlenet_jax.load("digits")


@pytest.fixture(scope="module")
def test_split():
    return data.digits.load("", False).splits["test"]


@pytest.fixture
def predict(capfd):
    """Runs the program; returns the lines of stdout, the lines of stderr and the exit status."""

    def run(*arguments):
        capfd.readouterr()
        status = 0
        try:
            train.predict.main([*map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        out, err = capfd.readouterr()
        return out.splitlines(), err.splitlines(), status

    return run


def save(path, pixels):
    Image.fromarray(pixels.squeeze()).save(path)
    return path


def test_predictions_equal_evaluation(model, test_split, predict, tmp_path):
    """150 files make three batches, for which the network is compiled once."""
    split = test_split[:150]
    for index, pixels in enumerate(split.images):
        save(tmp_path / f"{index:03}.png", pixels)
    before = _logits._cache_size()
    lines, complaints, status = predict("--model=digits", "--json", "--top-k=10", tmp_path)
    assert (complaints, status) == ([], 0)
    assert _logits._cache_size() - before <= 1
    results = [json.loads(line) for line in lines]
    assert [Path(result["image"]).name for result in results] == [f"{i:03}.png" for i in range(150)]
    probabilities = np.zeros((150, 10))
    for row, result in zip(probabilities, results, strict=True):
        for prediction in result["predictions"]:
            row[prediction["label"]] = prediction["probability"]
            assert prediction["class"] == str(prediction["label"])
        ordered = [prediction["probability"] for prediction in result["predictions"]]
        assert ordered == sorted(ordered, reverse=True)
    expected = jax.nn.softmax(model.logits(split.images))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(probabilities.argmax(1), np.argmax(expected, 1))
    evaluated = step.evaluate(
        model.state,
        jax.device_put(Arrays(split.images, split.labels)),
        batch_size=50,
        preprocess=preprocess.for_evaluation(model.info),
    ).compute()
    assert (probabilities.argmax(1) == split.labels).mean() == evaluated["accuracy"]
    losses = -np.log(probabilities[np.arange(150), split.labels])
    assert losses.mean() == pytest.approx(evaluated["loss"], rel=1e-4)


def test_the_shipped_network_has_the_accuracy_on_its_card(model, test_split):
    (figures,) = model.record.history
    found = np.argmax(model.logits(test_split.images), 1) == test_split.labels
    assert found.mean() == figures["test_accuracy"]
    assert f"{found.mean():.2%}" in (pretrained.FOLDER / "digits" / "README.md").read_text()


@pytest.mark.parametrize("low_high", [(0.0, 255.0), (-1.0, 1.0), (0.0, 1.01), (0.0, np.nan)])
def test_floats_of_another_range_are_refused(model, test_split, low_high):
    """Floats from 0 to 255 would all be white."""
    images = test_split.images[:4].astype(np.float32) / 255
    expected = model.logits(test_split.images[:4])
    np.testing.assert_allclose(model.logits(images), expected, rtol=1e-4, atol=1e-4)
    images[0, 0, 0], images[1, 1, 1] = low_high
    with pytest.raises(UserError, match="floats must lie in 0 to 1; pixels of 0 to 255 must be"):
        model.logits(images)


def test_samples_are_classified(predict):
    lines, complaints, status = predict("--model", "digits", "--top-k=1", SAMPLES)
    assert (complaints, status) == ([], 0)
    assert len(lines) == 10
    for digit, line in enumerate(lines):
        assert re.fullmatch(rf"\S*samples/{digit}\.png: {digit} \d+\.\d\d%", line), line


def png_of(width, height):
    """A PNG that is cut off after a header with this size."""

    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))


def test_unreadable_files_get_one_line_each_and_the_others_are_classified(
    predict, test_split, tmp_path
):
    good = save(tmp_path / "good.png", test_split.images[0])
    whole = good.read_bytes()
    bad = {
        "text.jpg": (b"no picture", "is not a picture of these formats: BMP, "),
        "empty.png": (b"", "is not a picture"),
        "torn.png": (whole[: len(whole) // 2], "cannot be read: "),
        "bomb.png": (png_of(50_000, 50_000), "is too large: .*exceeds limit"),
        "big.png": (png_of(10_000, 10_000), "is too large: 10000x10000 pixels are more than 67,"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    others = {"absent.png": "cannot be read: No such file", "folder": "holds no files"}
    names = [*bad, *others]
    mixed = list(itertools.chain.from_iterable((tmp_path / name, good) for name in names))
    lines, complaints, status = predict("--model=digits", "--top-k=1", *mixed)
    assert status == 2
    assert len(lines) == len(names)
    assert {line.partition(": ")[0] for line in lines} == {str(good)}
    reasons = [reason for _, reason in bad.values()] + [*others.values()]
    for name, complaint, reason in zip(names, complaints, reasons, strict=True):
        assert re.match(f"error: {re.escape(str(tmp_path / name))}: {reason}", complaint), complaint


def test_postscript_under_a_picture_s_name_runs_nothing(predict, tmp_path, monkeypatch):
    """Pillow would pass it to Ghostscript."""
    noted = tmp_path / "called"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {noted}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "a.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    lines, (complaint,), status = predict("--model=digits", tmp_path / "a.jpg")
    assert (lines, status) == ([], 2)
    assert "is not a picture of these formats" in complaint
    assert not noted.exists()


def test_pictures_are_opened_in_one_place():
    """It has the list of formats and the size limits."""
    root = Path(googlenet_jax.__file__).parents[1]
    sources = [*root.glob("googlenet_jax/**/*.py"), *root.glob("train/*.py")]
    opening = [
        (path.name, len(re.findall(r"\bImage\.open\b", path.read_text()))) for path in sources
    ]
    assert [(name, count) for name, count in opening if count] == [("decoding.py", 1)]


def test_special_and_huge_files_are_not_read(predict, tmp_path):
    """A pipe without a writer, an endless device, a file larger than memory."""
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(60 * 2**30)
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = {
        tmp_path / "pipe.png": "is not a regular file",
        "/dev/zero": "is not a regular file",
        tmp_path / "huge.png": "is larger than",
        tmp_path / "loop.png": "Too many levels of symbolic links",
    }
    lines, complaints, status = predict("--model=digits", *names)
    assert (lines, status) == ([], 2)
    for complaint, (name, reason) in zip(complaints, names.items(), strict=True):
        assert complaint.startswith(f"error: {name}: cannot be read: {reason}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no files"),
        (b"\n\r\n", "names no files"),
        (b"a.png\0b.png", "holds a NUL; it mu"),
    ],
)
def test_lists_without_names(predict, tmp_path, content, message):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError, match=f"--files-from={tmp_path}/list: {message}"):
        predict("--model=digits", f"--files-from={tmp_path}/list")


def test_a_pattern_means_files(tmp_path):
    """Also where the name of a file looks like one."""
    for name in ("b/[1].png", "b/1.png", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list").write_text(f"{tmp_path}/b\n-\n")  # here - is a file like any other
    for pattern, expected in (
        ("**", ["a.png", "b/1.png", "b/[1].png", "list"]),
        ("b/[1].png", ["b/[1].png"]),
        ("*/[0-9].*", ["b/1.png"]),
        ("*.jpg", ["*.jpg"]),  # which cannot be read
    ):
        arguments = argparse.Namespace(images=[f"{tmp_path}/{pattern}"], files_from=None)
        names = [f"{tmp_path}/{name}" for name in expected]
        assert pictures.find(arguments) == [(name, name) for name in names]
    arguments = argparse.Namespace(images=["x"], files_from=f"{tmp_path}/list")
    names = ["x", f"{tmp_path}/b/1.png", f"{tmp_path}/b/[1].png", "-"]
    assert pictures.find(arguments) == [(name, name) for name in names]


def test_closed_stdin_is_reported(predict, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # Python's value after `<&-`
    assert predict("--model=digits", "-") == ([], ["error: -: standard input is closed"], 2)


def test_an_empty_folder(predict, tmp_path):
    assert predict("--model=digits", tmp_path) == ([], [f"error: {tmp_path}: holds no files"], 2)


def test_folders_are_read_recursively_and_sorted(predict, test_split, tmp_path):
    for name in ("b/2.png", "b/10.png", "a.png", "c/d/e.png"):
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, test_split.images[0])
    first = save(tmp_path / "z.png", test_split.images[0])
    lines, _, _ = predict("--model=digits", first, tmp_path / "all")
    found = [str(Path(line.partition(": ")[0]).relative_to(tmp_path)) for line in lines]
    assert found == ["z.png", "all/a.png", "all/b/10.png", "all/b/2.png", "all/c/d/e.png"]


class Stdin:
    def __init__(self, content):
        self.buffer = io.BytesIO(content)


def test_stdin_is_a_picture(predict, monkeypatch):
    content = (SAMPLES / "7.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    lines, _, status = predict("--model=digits", "--top-k=1", SAMPLES / "3.png", "-")
    assert status == 0
    assert lines[1].startswith("-: 7 ")
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    monkeypatch.setattr(decoding, "MAX_BYTES", len(content) - 1)
    assert predict("--model=digits", "-")[1:] == (
        [f"error: -: is too large: more than {len(content) - 1} bytes"],
        2,
    )


def test_results_come_batch_by_batch(model, monkeypatch):
    """The first of a thousand results do not wait for all pictures to be read."""
    read = []
    monkeypatch.setattr(storage.model, "BATCH_SIZE", 4)
    monkeypatch.setattr(
        decoding, "read", lambda file, shape, crop: read.append(0) or np.zeros(shape, "u1")
    )
    results = model.map(model.probabilities, ["x"] * 1000)
    assert [shares.shape for _, shares in itertools.islice(results, 2)] == [(10,), (10,)]
    results.close()
    assert len(read) <= 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "one of the arguments --workdir --model is required"),
        (["--model=digits", "--workdir=x", "x.png"], "not allowed with"),
        (["--model=digits"], "arguments are required: IMAGE"),
        (["--model=digits", "--files-from=no/list"], "--files-from=no/list: cannot be read: No s"),
        (["--model=digits", "--files-from=/dev/null"], "null: cannot be read: is not a regular f"),
        (["--model=digits", "--files-from=-", "-"], "cannot be both a list and a picture"),
        (["--model=digits", "--format=xml", SAMPLES], "--format: invalid choice: 'xml'"),
        (["--model=digits", "--json", "--format=csv", SAMPLES], "not allowed with"),
        (["--model=digits", "--out=x.txt", SAMPLES], "--out=x.txt: use --format csv or jsonl"),
        (["--model=digits", "--json", "--out=x.csv", SAMPLES], "--out=x.csv: use --format csv or"),
        (["--model=digits", "--out=x.csv", "-"], "--out: needs pictures with names"),
        (["--model=digits", "--out=no/x.csv", SAMPLES], "the folder no does not exist"),
        (["--model=digits", "--out=/dev/null", "--format=csv", SAMPLES], "is not a regular file"),
        (["--model=digits", "--explain=x", "--tta=mirror", SAMPLES], "leave out --tta"),
        (["--model=digits", "--top-k=0", SAMPLES], "--top-k=0: must be 1 to 10"),
        (["--model=digits", "--top-k=-3", SAMPLES], "--top-k=-3: must be 1 to 10"),
        (["--model=digits", "--top-k=11", SAMPLES], "--top-k=11: must be 1 to 10"),
        (["--model=digits", "--top-k=x", SAMPLES], "--top-k: invalid int"),
        (["--model=digits", "--checkpoint=latest", SAMPLES], "--checkpoint: an export holds one"),
        (["--model=no/such", SAMPLES], "no/such: holds no run and no export"),
        (["--workdir=no/such", SAMPLES], "no/such: holds no run"),
    ],
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, list) else "",
)
def test_what_is_refused(predict, arguments, message):
    with pytest.raises(UserError, match=message):
        predict(*arguments)


def rows_of(text, form):
    """The rows of a table: file, rank, class, probability."""
    if form == "jsonl":
        return [tuple(json.loads(line).values()) for line in text.splitlines()]
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["file", "rank", "class", "probability"]
    return [(file, int(rank), name, float(share)) for file, rank, name, share in rows]


def assert_same_rows(found, expected):
    """Probabilities depend a little on the size of the batch."""
    for row, wanted in zip(found, expected, strict=True):
        assert row[:3] == wanted[:3]
        assert row[3] == pytest.approx(wanted[3], rel=1e-4)


def test_tables_hold_what_model_predict_finds(model, predict, tmp_path, monkeypatch):
    """The list names pictures twice, a folder and a pattern."""
    odd = tmp_path / 'a, "b"\n\udcff' / "3.png"
    odd.parent.mkdir()
    odd.write_bytes((SAMPLES / "3.png").read_bytes())
    first = [SAMPLES / "7.png", SAMPLES / "1.png"]
    files = dict.fromkeys([*first, odd, *sorted(SAMPLES.glob("*.png"))])
    expected = [
        (str(file), rank, each.class_name, each.probability)
        for file, ranked in zip(files, model.predict([*files], top_k=3), strict=True)
        for rank, each in enumerate(ranked, 1)
    ]
    lines, *_ = predict("--model=digits", "--top-k=3", "--format=csv", first[0])
    assert_same_rows(rows_of("\n".join(lines), "csv"), expected[:3])
    names = [*first, "", odd.parent.parent / "a*" / "*", SAMPLES]
    for form in table.FORMATS:
        monkeypatch.setattr(sys, "stdin", Stdin(os.fsencode("\r\n".join(map(str, names)))))
        out = tmp_path / f"table.{form}"
        (line,), complaints, status = predict(
            "--model=digits", "--top-k=3", f"--out={out}", "--files-from=-"
        )
        assert (complaints, status) == ([], 0)
        assert re.fullmatch(rf"{out}: 11 pictures, 11 of them new, \d+ images/s", line)
        assert_same_rows(rows_of(out.read_text("utf-8", "surrogateescape"), form), expected)


def test_an_interrupted_command_goes_on(predict, tmp_path, monkeypatch):
    """Finished pictures keep their rows; the others are done, a torn one that is mended too."""
    out, torn = tmp_path / "table.csv", tmp_path / "torn.png"
    torn.write_bytes(b"")
    command = ["--model=digits", "--top-k=2", f"--out={out}", torn, SAMPLES]
    (line,), complaints, status = predict(*command)
    assert complaints == [f"error: {torn}: {NO_PICTURE}"]
    assert (line.rpartition(", ")[0], status) == (f"{out}: 10 pictures, 10 of them new", 2)
    marked = out.read_bytes().replace(b"0.9", b"0.8", 1)  # in a row that stays
    out.write_bytes(b"".join(marked.splitlines(keepends=True)[:-3]))  # a picture and a half
    torn.write_bytes((SAMPLES / "3.png").read_bytes())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (line,), progress, status = predict(*command)
    assert (line.rpartition(", ")[0], status) == (f"{out}: 11 pictures, 3 of them new", 0)
    assert re.search(r" 0/3 \[.* images/s\]", "\n".join(progress))
    found, expected = rows_of(out.read_text(), "csv"), rows_of(marked.decode(), "csv")
    assert found[:16] == expected[:16]
    assert {row[0] for row in found[16:]} == {str(torn), f"{SAMPLES}/8.png", f"{SAMPLES}/9.png"}
    with pytest.raises(UserError, match="was written with top_k 2, now 3; choose another file"):
        predict(*command, "--top-k=3")


def test_complaints_stand_on_lines_of_their_own(predict, tmp_path, monkeypatch):
    """The bar, which a terminal shows, makes room for them."""
    (tmp_path / "torn.png").write_bytes(b"")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, shown, _ = predict("--model=digits", tmp_path / "torn.png", SAMPLES)
    assert f"error: {tmp_path}/torn.png: {NO_PICTURE}" in shown
    assert any(line.endswith(" images/s]") for line in shown)


def made_table(path, form, **others):
    return table.Table(path, {"format": form, "top_k": 2, "network": "a", **others})


@pytest.mark.parametrize("form", table.FORMATS)
def test_a_table_that_is_cut_anywhere(tmp_path, form):
    """Only whole pictures count, and what is added fits."""
    ranked = [Prediction(0, 'a "c,\nd"', 0.75), Prediction(1, "é", 0.25)]
    names = ["a", 'b"\n,\udcff', "c d"]
    path = tmp_path / "table"
    with made_table(path, form) as rows:
        for name in names:
            rows.write(table.lines(name, ranked, form))
    whole = path.read_bytes()
    expected = rows_of(whole.decode("utf-8", "surrogateescape"), form)
    assert [row[:2] for row in expected] == [(name, rank) for name in names for rank in (1, 2)]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with made_table(path, form) as rows:
            assert rows.done == set(names[: len(rows.done)])
            for name in names[len(rows.done) :]:
                rows.write(table.lines(name, ranked, form))
        assert path.read_bytes() == whole
    path.write_bytes(whole + bytes(100) + b"\n")  # as a power cut may leave it
    with made_table(path, form) as rows:
        assert rows.done == set(names)
    assert path.read_bytes() == whole


def test_a_table_of_another_command_is_refused(tmp_path):
    path = tmp_path / "table"
    with made_table(path, "csv") as rows:
        rows.write(["a,1,b,0.5", "a,2,c,0.5"])
        with pytest.raises(UserError, match="another process is writing it"):
            made_table(path, "csv")
    content = path.read_bytes()
    for form, others, message in (
        ("jsonl", {}, "was written with format 'csv', now 'jsonl'; choose another file"),
        ("csv", {"network": "b"}, "was written with network 'a', now 'b'; choose another file"),
        ("csv", {"tta": "none"}, r"table\.json does not say which command wrote it; choose"),
    ):
        with pytest.raises(UserError, match=f"--out={path}: .*{message}"):
            made_table(path, form, **others)
    (tmp_path / "table.json").unlink()
    with pytest.raises(UserError, match=r"table\.json does not say which command wrote it"):
        made_table(path, "csv")
    assert path.read_bytes() == content


def test_a_fingerprint_tells_networks_apart(model):
    found = train.predict.fingerprint(model)
    assert found == train.predict.fingerprint(googlenet_jax.load("digits"))
    params = {
        **model.state.params,
        "fc": jax.tree.map(lambda p: p + 1e-3, model.state.params["fc"]),
    }
    info = dataclasses.replace(model.info, mean=(0.5,))
    for change in ({"state": model.state.replace(params=params)}, {"info": info}):
        assert train.predict.fingerprint(dataclasses.replace(model, **change)) != found


def test_explained_pictures(predict, tmp_path, monkeypatch):
    """A figure for each, in the folder even if the name leads out of it; the same classes."""
    (tmp_path / "1.png").write_bytes((SAMPLES / "1.png").read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = ["--model=digits", "--top-k=1", tmp_path / "1.png", "../1.png"]
    (lines, *_) = predict(*command, "--explain=maps")
    assert [line.partition(": 1 ")[0] for line in lines] == [f"{tmp_path}/1.png", "../1.png"]
    figures = {Path(f"maps{tmp_path}/1.png.png").absolute(), Path("maps/1.png.png").absolute()}
    assert {*tmp_path.rglob("*.png")} == {tmp_path / "1.png", *figures}
    for path in figures:
        with Image.open(path) as figure:
            assert np.asarray(figure).std() > 30
    with pytest.raises(UserError, match=r"--explain=\.\./1\.png: cannot be written: "):
        predict(*command, "--explain=../1.png")


def test_python_gives_names_and_probabilities(model, test_split):
    """Of one file, of several, and of arrays, in more than one batch."""
    images = test_split.images[:70]
    expected = np.asarray(jax.nn.softmax(model.logits(images)))
    for given in (images, list(images), jax.numpy.asarray(images), images / np.float32(255)):
        found = model.predict(given, top_k=10)
        shares = np.zeros_like(expected)
        for row, ranked in zip(shares, found, strict=True):
            assert [each.class_name for each in ranked] == [str(each.label) for each in ranked]
            row[[each.label for each in ranked]] = [each.probability for each in ranked]
        np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-6)
        assert all(r[0].label == label for r, label in zip(found, expected.argmax(1), strict=True))
    content = (SAMPLES / "7.png").read_bytes()
    several = model.predict([SAMPLES / "7.png", content], top_k=1)
    assert several == 2 * model.predict(str(SAMPLES / "7.png"), top_k=1)
    assert several[0][0].class_name == "7"
    assert len(model.predict(content)[0]) == 5
    assert model.predict([]) == []


def test_python_refuses_in_plain_words(model, tmp_path):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    for wrong, message in (
        ([images[0], images[1, :4]], r"images of different shapes: \(8, 8, 1\), \(4, 8, 1\)"),
        (
            np.zeros((2, 28, 28, 1), np.uint8),
            r"shape \(2, 28, 28, 1\): must be \(batch, 8, 8, 1\)$",
        ),
        (images.astype(np.float32) - 1, "floats must lie in 0 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(wrong)
    with pytest.raises(UserError, match="top_k=11: must be 1 to 10, the number of classes"):
        model.predict(images, top_k=11)
    good = SAMPLES / "7.png"
    for wrong, message in (
        (tmp_path / "absent.png", f"{tmp_path}/absent.png: cannot be read: No such file"),
        ([good, str(tmp_path)], f"{tmp_path}: cannot be read: is not a regular file"),
        ([good, b""], f"picture 1: {NO_PICTURE}"),
    ):
        with pytest.raises(DataError, match=message):
            model.predict(wrong)


def picture(mode, value, size=(10, 6)):
    return Image.new(mode, size, value)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def palette(transparency=None):
    image = picture("P", 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


PICTURES = {
    "L": (lambda: encoded(picture("L", 77), "PNG"), (77, 77, 77)),
    "1": (lambda: encoded(picture("1", 1), "PNG"), (255, 255, 255)),
    "BMP": (lambda: encoded(picture("RGB", ORANGE), "BMP"), ORANGE),
    "WEBP": (lambda: encoded(picture("RGB", ORANGE), "WEBP", lossless=True), ORANGE),
    "transparent": (lambda: encoded(picture("RGBA", (*ORANGE, 0)), "PNG"), (255, 255, 255)),
    "translucent": (lambda: encoded(picture("RGBA", (*ORANGE, 51)), "PNG"), (244, 224, 214)),
    "LA": (lambda: encoded(picture("LA", (100, 51)), "PNG"), (224, 224, 224)),
    "palette": (palette, ORANGE),
    "transparent palette": (lambda: palette(transparency=1), (255, 255, 255)),
    "16-bit": (lambda: encoded(picture("I;16", 51400), "PNG"), (200, 200, 200)),
    "32-bit": (lambda: encoded(picture("I", 51400), "TIFF"), (200, 200, 200)),
    "float": (lambda: encoded(picture("F", 0.2), "TIFF"), (51, 51, 51)),
    "CMYK": (lambda: encoded(picture("CMYK", (0, 51, 255, 0)), "TIFF"), (255, 204, 0)),
    "animated": (
        lambda: encoded(picture("L", 9), "GIF", save_all=True, append_images=[picture("L", 200)]),
        (9, 9, 9),
    ),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_modes(kind):
    """Colours computed by hand; an alpha of 1/5 on white gives 255 - (255 - c) / 5."""
    file, expected = PICTURES[kind]
    for shape in (RGB, (3, 5, 3)):
        np.testing.assert_array_equal(decoding.read(file(), shape, 0), np.full(shape, expected))


def test_colour_becomes_gray(tmp_path):
    """By ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    file = encoded(picture("RGB", (200, 100, 50)), "PNG")
    np.testing.assert_array_equal(decoding.read(file, GRAY, 0), np.full(GRAY, 124))


def test_exif_turns():
    """Orientation 6: the stored left column is the top row."""
    pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decoding.read(encoded(Image.fromarray(pixels), "PNG", exif=exif), (10, 6, 1), 0)
    np.testing.assert_array_equal(found[:, :, 0], np.rot90(pixels, -1))


def test_a_picture_of_the_right_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, RGB, np.uint8)
    np.testing.assert_array_equal(
        decoding.read(encoded(Image.fromarray(pixels), "PNG"), RGB, 0), pixels
    )


def test_the_whole_picture_is_shrunk_and_averaged():
    """Fine stripes become gray, and the left half stays darker than the right."""
    pixels = np.zeros((80, 160), np.uint8)
    pixels[:, ::2] = 100
    pixels[:, 80:] += 100
    found = decoding.read(encoded(Image.fromarray(pixels), "PNG"), GRAY, 0)[:, :, 0]
    np.testing.assert_allclose(found[:, :3], 50, atol=3)
    np.testing.assert_allclose(found[:, 5:], 150, atol=3)


CLEAN = """
import importlib.abc, sys

allowed = set(sys.argv.pop().split(","))

class Core(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}: no core dependency", name=name)

import importlib.metadata
blocked = set(importlib.metadata.packages_distributions()) - allowed
sys.meta_path.insert(0, Core())
workdir, out, samples = sys.argv[1:]
import googlenet_jax, train.export, train.predict
train.export.main(["--workdir", workdir, "--out", out])
print(googlenet_jax.load(out).info.name)
train.predict.main(["--model", out, "--top-k=1", samples])
train.predict.main(["--model", "digits", "--top-k=1", samples])
"""


def core_modules():
    """The modules of all distributions that an install without extras includes."""
    wanted, waiting = set(), ["googlenet-jax"]
    while waiting:
        name = waiting.pop()
        name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name).group()).lower()
        if name in wanted:
            continue
        wanted.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
        waiting += [line for line in requires if "extra ==" not in line]
    return [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if any(re.sub(r"[-_.]+", "-", name).lower() in wanted for name in distributions)
    ]


def test_export_load_predict_need_only_core_dependencies(tmp_path, tmp_path_factory):
    """In a process that cannot import other modules, outside the clone."""
    modules = core_modules()
    assert "flatbuffers" in modules
    assert not {"pytest", "beartype", "hypothesis", "torch"} & set(modules)
    run = tiny_run.make(tmp_path_factory, tiny_run.GOOGLENET)
    command = [sys.executable, "-c", CLEAN, run, tmp_path / "out", SAMPLES, ",".join(modules)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "digits" in ended.stdout.splitlines()
    assert len(ended.stdout.splitlines()) == 1 + 1 + 10 + 10


def test_nan_pixels_are_black_without_a_warning():
    pixels = np.array([[np.nan, -np.inf], [1, 3.4e38]], np.float32)
    found = decoding.read(encoded(Image.fromarray(pixels), "TIFF"), (2, 2, 1), 0)
    assert found[:, :, 0].tolist() == [[0, 0], [255, 255]]
