"""The page about runs: its numbers by hand and by scikit-learn, and the page in a browser."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from PIL import Image
from sklearn.calibration import calibration_curve

import train.evaluate
import train.report
from googlenet_jax import data
from googlenet_jax.data import DatasetInfo, Split
from googlenet_jax.errors import UserError
from googlenet_jax.report import diagnostics, figures, maps, page, published, runs
from googlenet_jax.report.diagnostics import BINS, Confusion, Diagnosis
from googlenet_jax.report.spread import Spread
from googlenet_jax.report.style import THEMES
from googlenet_jax.storage.loading import load_model
from googlenet_jax.storage.workdir import read_config
from train import console

pytestmark = pytest.mark.usefixtures("compiled_quickly")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NASTY = "<script>&lt;\x1b\u202e"  # the name of a folder


# Numbers from predictions


def test_expected_calibration_error_by_hand():
    """Bins of 1/15: two images in the last, one each in (8/15, 9/15] and (9/15, 10/15]."""
    confidences = np.array([0.95, 0.95, 0.55, 0.62])
    found = diagnostics.calibration(confidences, np.array([True, False, True, False]))
    assert found.count.tolist() == [0] * 8 + [1, 1, 0, 0, 0, 0, 2]
    assert found.accuracy[[8, 9, 14]].tolist() == [1.0, 0.0, 0.5]
    np.testing.assert_allclose(found.confidence[[8, 9, 14]], [0.55, 0.62, 0.95])
    assert np.isnan(found.accuracy[0])
    assert found.error == pytest.approx((2 * 0.45 + 0.45 + 0.62) / 4)


def test_a_perfectly_calibrated_guess_has_no_error():
    confidences = np.full(4, 0.75)
    is_right = np.array([True, True, True, False])
    assert diagnostics.calibration(confidences, is_right).error == pytest.approx(0)


def test_bins_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    # The edges of the bins are among them: each belongs to the bin below.
    confidences = np.concatenate([rng.uniform(0.1, 1, 300), np.linspace(0, 1, BINS + 1)])
    is_right = rng.uniform(size=len(confidences)) < confidences
    found = diagnostics.calibration(confidences, is_right)
    accuracy, confidence = calibration_curve(is_right, confidences, n_bins=BINS)
    occupied = found.count > 0
    np.testing.assert_allclose(found.accuracy[occupied], accuracy)
    np.testing.assert_allclose(found.confidence[occupied], confidence)
    assert found.count.sum() == len(confidences)


LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
GUESSES = np.array([0, 0, 1, 1, 1, 0, 0, 0])  # class 2 is never guessed
CONFIDENCES = np.array([0.5, 0.6, 0.9, 0.7, 0.8, 0.4, 0.95, 0.7])


def diagnose_by_hand():
    probabilities = (1 - CONFIDENCES)[:, None].repeat(3, axis=1) / 2
    probabilities[np.arange(8), GUESSES] = CONFIDENCES
    return Diagnosis.of(LABELS, probabilities)


def test_diagnosis_by_hand():
    found = diagnose_by_hand()
    assert found.accuracy == 3 / 8
    assert found.matrix.tolist() == [[2, 2, 0], [1, 1, 0], [2, 0, 0]]
    # Predicted as 0: five, two of them correctly; as 1: three, one of them; as 2: none.
    np.testing.assert_allclose(found.per_class.precision, [2 / 5, 1 / 3, 0])
    np.testing.assert_allclose(found.per_class.recall, [2 / 4, 1 / 2, 0])
    # Of eight images, wrong about being a 0: five; about being a 1: three; a 2: two.
    np.testing.assert_allclose(found.per_class.accuracy, [3 / 8, 5 / 8, 6 / 8])
    assert found.per_class.support.tolist() == [4, 2, 2]


def test_confusions_and_mistakes_come_in_order():
    found = diagnose_by_hand()
    assert found.confusions == [
        Confusion(0, 1, 2, 0.5),
        Confusion(2, 0, 2, 1.0),
        Confusion(1, 0, 1, 0.5),
    ]
    # 0.95, 0.9, then 0.7 twice in the order of the images, 0.4.
    assert found.mistakes.tolist() == [6, 2, 3, 7, 5]


def test_nothing_wrong():
    found = Diagnosis.of(np.array([0, 1]), np.eye(2))
    assert (found.accuracy, found.confusions, found.mistakes.tolist()) == (1, [], [])
    assert found.calibration.error == 0


# Runs and groups


def entry(epoch, test, valid=None):
    """A line of metrics.jsonl."""
    found = {"epoch": epoch, "step": 8 * epoch, "learning_rate": 0.1, "seconds": 30.0}
    found |= {"images_per_second": 100.0, "grad_norm": 1.0, "param_norm": 9.0, "update_norm": 0.1}
    found |= {"train_loss": 1 / epoch, "train_accuracy": 0.5, "test_loss": 1.0}
    found |= {"test_accuracy": test}
    return found if valid is None else {**found, "valid_accuracy": valid, "valid_loss": 1.0}


def set_history(workdir, history):
    tiny_run.change_records(workdir, lambda proven: proven["record"].update(history=history))


def write_run(source, target, history, **settings):
    """A copy of a run with other settings, GROUP__FIELD=VALUE, and another history."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    for name, value in settings.items():
        group, _, field = name.partition("__")
        (config[group] if field else config)[field or group] = value
    tiny_run.set_config(target, config)
    set_history(target, history)
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_run.make(tmp_path_factory)


@pytest.fixture(scope="module")
def workdirs(source, tmp_path_factory):
    """Two seeds of one config, and another config that is better on test and worse on valid."""
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(
            source,
            root / "slow",
            [entry(1, test=0.9, valid=0.4), entry(2, test=0.95, valid=0.5)],
            optimizer__learning_rate=0.05,
        ),
        write_run(source, root / "second", [entry(1, 0.5, 0.7), entry(2, 0.6, 0.6)], seed=7),
        write_run(
            source,
            root / NASTY,
            [entry(1, 0.6, 0.8), entry(2, 0.7, 0.9)],
            checkpoint__every_steps=3,  # does not change the results
            data__cache=False,
        ),
    ]


@pytest.fixture(scope="module")
def groups(workdirs):
    return runs.read_groups(workdirs)


def test_runs_that_differ_in_the_seed_are_grouped(groups, workdirs):
    assert [[run.workdir for run in group.runs] for group in groups] == [
        [workdirs[2], workdirs[1]],  # seeds 0 and 7
        [workdirs[0]],
    ]
    assert groups[0].representative.workdir == workdirs[2]
    assert runs.differing(groups) == ["optimizer.learning_rate"]
    assert runs.shared(groups)["model.width_multiplier"] == 0.25
    assert "optimizer.learning_rate" not in runs.shared(groups)
    assert "optimizer.momentum" not in runs.shared(groups)  # the default
    assert (
        groups[0].parameters == json.loads((workdirs[0] / "summary.json").read_text())["parameters"]
    )


def test_spread_by_hand(groups):
    """Best epochs are 2 (valid 0.9) and 1 (valid 0.7), with test 0.7 and 0.5; last: 0.7, 0.6."""
    valid, test = groups[0].best("valid_accuracy"), groups[0].best("test_accuracy")
    assert (valid.mean, valid.std) == pytest.approx((0.8, 0.02**0.5))
    assert (test.mean, test.std) == pytest.approx((0.6, 0.02**0.5))
    assert groups[0].final("test_accuracy").mean == pytest.approx(0.65)
    assert groups[1].best("test_accuracy") == Spread(0.95, None, 1)
    assert page.spread(valid).split() == ["80.00", "±", "14.14", "%"]
    assert page.spread(groups[1].best("valid_accuracy")).split() == ["50.00", "%"]
    half = 12.7062 * 14.1421 / 2**0.5  # Student's t for one degree of freedom
    low, _, high = page.interval(valid).split()
    assert (float(low), float(high)) == pytest.approx((80 - half, 80 + half), abs=0.01)
    assert page.interval(groups[1].best("valid_accuracy")) == ""


def test_plurals():
    found = [page.counted(number, "image") for number in (0, 1, 2000)]
    assert found == ["0 images", "1 image", "2,000 images"]


def test_validation_ranks_if_all_runs_have_it_else_test(groups, workdirs, source, tmp_path):
    assert runs.deciding_split(groups) == "valid"
    assert groups[0].name == workdirs[2].name
    without = write_run(source, tmp_path / "t", [entry(1, 0.8)], data__valid_examples=0)
    mixed = runs.read_groups([*workdirs, without])
    assert runs.deciding_split(mixed) == "test"
    assert [group.name for group in mixed] == ["slow", "t", workdirs[2].name]


def test_a_last_epoch_without_evaluation_has_no_accuracy(source, tmp_path):
    unfinished = {**entry(2, 0.0)}
    del unfinished["test_accuracy"]
    workdir = write_run(source, tmp_path / "r", [entry(1, 0.8), unfinished])
    (group,) = runs.read_groups([workdir])
    assert group.final("test_accuracy") is None
    assert group.best("test_accuracy").mean == 0.8


def test_lead_by_hand(groups):
    """0.8 and 0.5 on 20 images have errors 0.0894 and 0.1118, their difference 0.1432."""
    found = page.lead(groups, "valid", test_examples=355)
    assert (found.points, found.error) == pytest.approx((30.0, 14.3178), rel=1e-4)
    assert found.examples == 20
    assert found.is_clear
    assert (found.paired.mean, found.paired.n) == pytest.approx((0.7 - 0.95, 1))  # seed 0
    assert not page.Lead(points=10.0, error=6.0, examples=100, paired=None).is_clear


def test_published_results_are_those_of_the_documents():
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for row in published.ROWS:
        cells = re.search(rf"^\| {row.row} \|(.*)\|$", text, re.M)[1].split("|")
        assert cells[2].strip() == str(row.batch_size)
        accuracy = cells[3].strip(" *")
        assert accuracy == ("diverges" if row.test_accuracy is None else str(row.test_accuracy))


# Predictions


@pytest.mark.parametrize(
    "arguments", [tiny_run.ARGUMENTS, tiny_run.GOOGLENET], ids=["resnet", "googlenet"]
)
def test_predictions_are_those_of_evaluate(arguments, tmp_path_factory, tmp_path):
    workdir = shutil.copytree(tiny_run.make(tmp_path_factory, arguments), tmp_path / "run")
    found = diagnostics.predict(runs.read_run(workdir, "run"), "")
    expected = train.evaluate.evaluate(workdir, "best", "test", "")
    assert found.epoch == expected["epoch"]
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    diagnosis = Diagnosis.of(found.labels, found.probabilities)
    assert diagnosis.accuracy == pytest.approx(expected["accuracy"])
    assert [*found.mistakes] == diagnosis.mistakes[: diagnostics.MISTAKES].tolist()
    config = read_config(workdir)
    images = data.load(config.data, config.seed).splits[Split.TEST].images
    assert all(np.array_equal(images[index], image) for index, image in found.mistakes.items())
    _, maps = load_model(workdir, "best").explain(images[[*found.mistakes]])
    np.testing.assert_allclose([*found.maps.values()], maps, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        diagnosis.per_class.recall, list(expected["per_class_accuracy"].values())
    )
    assert found.filters.shape == (3, 3, 1, 4)


# Pictures


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_charts_are_transparent_and_have_the_colours_of_each_theme(groups):
    pictures = figures.curves(groups, "accuracy")
    light, dark = pixels(pictures["light"]), pixels(pictures["dark"])
    assert light.shape == dark.shape
    assert light[0, 0, 3] == dark[0, 0, 3] == 0
    opaque = light[..., 3] == 255
    assert light[opaque][:, :3].mean() < dark[dark[..., 3] == 255][:, :3].mean() - 30


def test_any_name_and_any_number_of_classes(groups):
    """A dollar sign starts no formula, an underscore hides no label; 1,000 names are left out."""
    names = ["$\\frac$", "_hidden", *map(str, range(98))]
    run = dataclasses.replace(groups[0].runs[0], name=names[0])
    groups = [runs.Group([run], 5), groups[1]]
    matrix = np.eye(100, dtype=int)
    assert figures.confusion(matrix, names).keys() == THEMES.keys()
    assert figures.recalls(groups, names, np.zeros((2, 100))).keys() == THEMES.keys()
    for hostile, shown in (("a\nb\x1b", r"a\nb\x1b"), ("x" * 10**4, "x" * figures.MAX_LETTERS)):
        drawn = [figures.confusion(np.eye(2, dtype=int), [each, "b"]) for each in (hostile, shown)]
        assert drawn[0] == drawn[1]
    thousand = np.eye(1000, dtype=int)
    assert figures.confusion(thousand, ["a"] * 1000) == figures.confusion(thousand, ["b"] * 1000)


def test_filters_by_hand():
    """The largest weight is white or black by its sign, zero is gray; gaps are transparent."""
    kernel = np.array([[[[2.0, 0.0]]], [[[-1.0, 0.0]]]])  # 2 rows, 1 column, 1 channel, 2 filters
    found = pixels(figures.filters(kernel))
    assert found.shape == (2 * 21 + 4, 2 * (21 + 4), 4)
    assert found[0, 0, 3] == 0
    assert found[2, 2].tolist() == [255, 255, 255, 255]
    assert found[2 + 21, 2].tolist() == [64, 64, 64, 255]  # 127.5 (1 - 1/2)
    assert found[2, 2 + 25].tolist() == [128, 128, 128, 255]


def test_a_map_is_orange_where_it_is_high():
    """A small picture is enlarged; where nothing speaks for the class, it stays gray."""
    picture = np.full((8, 16, 1), 100, np.uint8)
    found = maps.overlay(picture, np.array([[0.0, -3.0, 0.0, 6.0]], np.float32))
    assert found.shape == (224, 448, 3)
    assert found[0, 0].tolist() == [100, 100, 100]
    # At the right edge, a fifth of it and four fifths of the orange.
    assert found[-1, -1].tolist() == [190, 95, 20]
    assert (np.diff(found[0, :, 0].astype(int)) >= 0).all()
    none = maps.overlay(picture, np.full((2, 2), -1, np.float32))
    assert (none == 100).all()


# The program


@pytest.fixture(scope="module")
def out(workdirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    train.report.main([*map(str, workdirs), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def text(out):
    return (out / "index.html").read_text()


def test_every_picture_is_in_the_page_and_beside_it(out, text):
    files = {path.name: path.read_bytes() for path in out.glob("*.png")}
    embedded = [
        base64.b64decode(data) for data in re.findall(r'"data:image/png;base64,([^"]+)"', text)
    ]
    assert sorted(embedded) == sorted(files.values())
    assert all(page.PICTURES.fullmatch(name) for name in files)
    stems = {name.rpartition("-")[0] for name in files if name.endswith("-dark.png")}
    assert stems == {
        *("accuracy", "loss", "learning-rate", "norms", "throughput", "recall"),
        *("1-confusion", "1-reliability", "2-confusion", "2-reliability"),
    }
    assert {"1-filters.png", "2-filters.png", "1-mistake-01.png", "2-mistake-24-map.png"} < {*files}


def test_the_page_says_what_is_best_and_on_what_terms(text):
    plain = " ".join(re.sub("<[^>]*>", " ", text).split())
    assert "is best: 80.00 ± 14.14 % validation accuracy" in plain
    assert (
        "Test accuracy at that epoch 60.00 ± 14.14 % Best epochs 2 of 2 and 1 of 2, chosen on the "
        "validation split, mean of 2 seeds. The test images had no part in the choice."
    ) in plain
    assert "3 runs in 2 groups;" in plain
    assert "30.00 percentage points" in plain
    assert "optimizer.learning_rate=0.05" in plain
    assert "Published results" not in plain  # they are for CIFAR-10
    assert "Warnings" not in plain


def test_names_are_text(text):
    assert "<script" not in text
    assert "&lt;script&gt;&amp;lt;\\x1b\\u202e" in text
    assert not set("\x1b\u202e") & set(text)
    assert "http://" not in text
    assert "https://" not in text


def test_prints_the_verdict(workdirs, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    for name in ("9-mistake-01.png", "9-confusion-dark.png", "1-mine.png", "accuracy.png"):
        (tmp_path / "one" / name).touch()
    train.report.main([str(workdirs[0]), f"--out={tmp_path / 'one'}"])
    # Of an earlier report, unlike the other two.
    assert not (tmp_path / "one" / "9-mistake-01.png").exists()
    assert not (tmp_path / "one" / "9-confusion-dark.png").exists()
    assert (tmp_path / "one" / "1-mine.png").exists()
    assert (tmp_path / "one" / "accuracy.png").exists()
    assert capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ") == (
        "best: slow, validation accuracy 50.00 %, best epoch 2 of 2, chosen on the validation "
        f"split, one seed\nwritten to {tmp_path / 'one' / 'index.html'}\n"
    )


def test_runs_of_other_lengths_are_named(workdirs):
    run = runs.read_run(workdirs[0], "run")
    assert page.lengths([runs.Group([run, run], 5)]) == ""
    longer = dataclasses.replace(run, history=[*run.history, entry(7, 0.5)])
    groups = [runs.Group([longer], 5), runs.Group([run], 5)]
    assert page.lengths(groups) == "the runs differ in length: 2 to 7 epochs"


def test_a_folder_without_a_run_among_others_is_left_out(workdirs, tmp_path, capsys):
    """As `runs/*` may have one."""
    (tmp_path / "notes").mkdir()
    train.report.main([str(tmp_path / "notes"), str(workdirs[0]), f"--out={tmp_path / 'out'}"])
    assert f"{tmp_path / 'notes'}: holds no run; left out\nbest: slow" in capsys.readouterr().out


def test_cifar10_gets_the_published_results(workdirs, monkeypatch):
    """The page asks only for the data set's name, so the classes may be the digits."""
    run = runs.read_run(workdirs[0], "run")
    info = DatasetInfo.from_dict({**run.info.to_dict(), "name": "cifar10"})
    fake = dataclasses.replace(run, info=info, warnings=("spike <b>",))
    monkeypatch.setattr(page, "read_groups", lambda _: [runs.Group([fake], 5)])
    found = page.build([workdirs[0]], "").files["index.html"].decode()
    assert "Published results" in found
    assert "95.16 %" in found
    assert "<li><strong>run</strong>: spike &lt;b&gt;</li>" in found


# Wrong input


@pytest.fixture
def refused(capfd, monkeypatch):
    """Runs the program and returns its one-line error without "error: "."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            console.run(train.report.main)
        assert exit_info.value.code == 2
        (line,) = capfd.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return run


def remove_steps(workdir):
    for step in (workdir / "checkpoints").glob("[0-9]*"):
        shutil.rmtree(step)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "holds no run"),
        (lambda workdir: shutil.rmtree(workdir / "checkpoints"), "holds no checkpoints"),
        (remove_steps, "there are: none"),
        (lambda workdir: set_history(workdir, []), "no epoch has been evaluated yet"),
        (lambda workdir: set_history(workdir, [{"test_accuracy": 1}]), "no history of a run"),
    ],
    ids=["no folder", "no checkpoints", "empty checkpoints", "no evaluation", "foreign history"],
)
def test_a_useless_workdir_is_refused(damage, said, source, workdirs, tmp_path, refused):
    workdir = shutil.copytree(source, tmp_path / "useless")
    damage(workdir)
    message = refused(workdirs[0], workdir, "--out", tmp_path / "out")
    assert said in message
    assert "useless" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]\n", b"\xff", b"[" * 100_000])
def test_the_history_is_the_checkpoints(content, source, tmp_path):
    """Whatever is in metrics.jsonl, which has no checksum, and in summary.json."""
    expected = runs.read_run(source, "run").history
    workdir = shutil.copytree(source, tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_text()
    for name in ("metrics.jsonl", "summary.json"):
        (workdir / name).unlink()
        if content is not None:
            (workdir / name).write_bytes(content)
    assert runs.read_run(workdir, "run").history == expected
    (workdir / "metrics.jsonl").write_text(re.sub(r'(accuracy": )[^,]+', r"\g<1>0.9999", lines))
    assert runs.read_run(workdir, "run").history == expected


def test_a_run_given_twice_is_refused(source, workdirs, tmp_path, refused):
    out = tmp_path / "out"
    assert "given twice" in refused(workdirs[0], f"{workdirs[0]}/", "--out", out)
    copy = shutil.copytree(workdirs[0], tmp_path / "copy")
    assert "the same run twice (same config, seed 0)" in refused(workdirs[0], copy, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("data sets", {"name": "other"}),
        ("classes", {"class_names": tuple("abcdefghij")}),
    ],
)
def test_other_classes_are_not_comparable(what, changes, workdirs):
    run = runs.read_run(workdirs[0], "run")
    info = DatasetInfo.from_dict({**run.info.to_dict(), **changes})
    other = dataclasses.replace(run, workdir=Path("other"), info=info)
    with pytest.raises(UserError, match=f"slow and other: cannot be compared, different {what}"):
        runs.check_comparable(run, other)


def test_other_images_are_not_comparable(workdirs):
    run = runs.read_run(workdirs[0], "run")
    one, same, copy = (
        dataclasses.replace(run, provenance=provenance)
        for provenance in (
            {"sha256": "a", "official": True},  # an archive
            {"sha256": "b", "official": True},  # another archive
            {"sha256": "c", "official": False},
        )
    )
    runs.check_comparable(one, same)
    with pytest.raises(UserError, match=r"different sha256 of the data \(official and c\);"):
        runs.check_comparable(one, copy)


def test_missing_data_are_refused(source, tmp_path, refused):
    workdir = write_run(source, tmp_path / "run", [entry(1, 0.5)])
    message = refused(workdir, "--out", tmp_path / "out", "--data-path", tmp_path / "nowhere")
    assert "data.path" in message
    assert "nowhere" in message
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(workdirs, tmp_path, refused):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        assert "is a file, not a folder" in refused(workdirs[0], "--out", out)
    assert file.read_text() == "mine"


def test_a_folder_in_the_page_s_place_is_refused_before_the_work(workdirs, tmp_path, refused):
    (tmp_path / "out" / "index.html").mkdir(parents=True)
    assert "index.html: is not a regular file; move it" in refused(
        tmp_path / "no run", "--out", tmp_path / "out"
    )


def test_arguments_are_required(refused, tmp_path):
    assert "WORKDIR" in refused("--out", tmp_path / "out")
    assert "--out" in refused(tmp_path)


def test_without_jinja_the_error_says_how_to_install_it(monkeypatch, workdirs, tmp_path, refused):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    message = refused(workdirs[0], "--out", tmp_path / "out")
    assert message == "the report needs jinja2: pip install jinja2"
    assert not (tmp_path / "out").exists()


# In a browser


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0
        )
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def scheme(request):
    return request.param


@pytest.fixture(params=[1280, 390])
def opened(request, browser, scheme, out):
    """The page in one theme at one width, with its requests and its console messages."""
    tab = browser.new_page(
        viewport={"width": request.param, "height": 800}, color_scheme=scheme, offline=True
    )
    asked, said = [], []
    tab.on("request", lambda each: asked.append(each.url))
    tab.on("console", lambda each: said.append(each.text))
    tab.on("pageerror", lambda each: said.append(str(each)))
    tab.goto((out / "index.html").as_uri())
    yield tab, asked, said
    tab.close()


def test_opens_in_chromium(opened, out, scheme):
    tab, asked, said = opened
    assert [url for url in asked if not url.startswith("data:")] == [(out / "index.html").as_uri()]
    assert said == []
    # Every picture is shown, has the theme's colours and an alternative text.
    images = tab.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth, i.currentSrc, i.alt])"
    )
    assert all(width > 0 for width, _, _ in images)
    assert all(alt.strip() for _, _, alt in images)
    shown = {base64.b64decode(source.partition(",")[2]) for _, source, _ in images}
    charts = {path.read_bytes() for path in out.glob(f"*-{scheme}.png")}
    others = {path.read_bytes() for path in out.glob("*-*.png")} - charts
    assert charts <= shown
    assert not shown & {png for png in others if pixels(png).shape[0] > 200}
    # The page is no wider than the screen, and the keyboard reaches the tables that scroll.
    assert tab.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    regions = tab.get_by_role("region").all()
    assert regions
    assert all(each.get_attribute("tabindex") == "0" for each in regions)
    assert all(each.get_attribute("aria-label") for each in regions)


def test_the_verdict_is_on_the_first_screen(opened):
    tab, _, _ = opened
    heading = tab.get_by_role("heading", level=1)
    assert heading.count() == 1
    assert "80.00 ± 14.14 % validation accuracy" in heading.inner_text().replace("\xa0", " ")
    box = heading.bounding_box()
    assert box["y"] + box["height"] < 800
    failing = tab.get_by_role("heading", name="Hardest class").bounding_box()
    assert failing["y"] < 1600  # on the second screen at the latest


def test_text_has_enough_contrast(opened, scheme):
    """WCAG 2 asks for 4.5, here for the body, captions and tile headings."""
    tab, _, _ = opened

    def luminance(color):
        channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    ground, *texts = tab.evaluate(
        """[getComputedStyle(document.body).backgroundColor,
        ...['body', 'figcaption', '.tile h2'].map(
            s => getComputedStyle(document.querySelector(s)).color)]"""
    )
    assert (luminance(ground) > 0.5) == (scheme == "light")
    for text in texts:
        low, high = sorted([luminance(text), luminance(ground)])
        assert (high + 0.05) / (low + 0.05) > 4.5
