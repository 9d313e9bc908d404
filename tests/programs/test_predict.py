"""Predictions equal the evaluation, for pictures of every format and between unreadable files."""

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
from googlenet_jax import data
from googlenet_jax.data import Arrays, decoding, preprocess
from googlenet_jax.errors import UserError
from googlenet_jax.storage import pretrained
from googlenet_jax.storage.model import _logits
from googlenet_jax.training import step

pytestmark = pytest.mark.usefixtures("compiled_quickly")
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
    monkeypatch.setattr(train.predict, "BATCH_SIZE", 4)
    monkeypatch.setattr(
        decoding, "read", lambda file, shape, crop: read.append(0) or np.zeros(shape, "u1")
    )
    results = train.predict.classify(model, [(str(i), Path("x")) for i in range(1000)])
    assert [name for name, _ in itertools.islice(results, 2)] == ["0", "1"]
    results.close()
    assert len(read) <= 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "one of the arguments --workdir --model is required"),
        (["--model=digits", "--workdir=x", "x.png"], "not allowed with"),
        (["--model=digits"], "arguments are required: IMAGE"),
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
