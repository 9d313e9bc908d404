"""Whole runs on folders of pictures: resuming, and the other programs on such runs."""

import contextlib
import dataclasses
import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import compiling
import jax
import numpy as np
import picture_files
import pytest
from PIL import Image

import googlenet_jax
import train.contact_sheet
import train.epoch
import train.evaluate
import train.export
import train.main
import train.predict
import train.summarize
from googlenet_jax.data import Split, decoding
from googlenet_jax.errors import DataError, TrainingError
from googlenet_jax.report import diagnostics, runs
from googlenet_jax.storage.loading import load_model
from googlenet_jax.storage.workdir import read_config

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# 4 steps per epoch; a checkpoint at the end of each epoch, and one within the second, at step 6.
ARGUMENTS = [
    *("--config", "cifar10", "--config.model.name=preact_resnet", "--config.model.depth=11"),
    *("--config.data.name=folder", "--config.data.crop_size=8", "--config.data.pad=0"),
    *("--config.train.batch_size=16", "--config.train.epochs=3"),
    *("--config.checkpoint.every_steps=6", "--config.eval.batch_size=9"),
    "--config.train.steps_per_call=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_files.digits_folder(tmp_path_factory.mktemp("digits"), 70, 40)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """An uninterrupted run, with pictures decoded in threads."""
    path = tmp_path_factory.mktemp("run")
    train.main.main([*ARGUMENTS, f"--config.data.path={folder}", "--workdir", str(path)])
    return path


def history(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def test_a_run_killed_within_an_epoch_resumes_to_the_bit(folder, workdir, tmp_path):
    """It decodes in worker processes, which end with it; the resumed run decodes in threads."""
    arguments = [*ARGUMENTS, f"--config.data.path={folder}", "--workdir", str(tmp_path)]
    driver = str(Path(__file__).parents[1] / "helpers/kill_at.py")
    # At step 7.
    kill = [driver, "SIGKILL", "train.epoch:check_finite", "after", "7"]
    killed = subprocess.Popen(
        [sys.executable, *kill, *arguments, "--config.data.workers=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=compiling.environment(),
    )
    # Workers inherit the pipe, so this also waits for them to end.
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, output.decode()
    train.main.main(arguments)
    assert history(tmp_path) == history(workdir)
    states = [jax.tree.leaves(load_model(path, "latest").state) for path in (tmp_path, workdir)]
    assert all(map(np.array_equal, *states))


def test_evaluate_agrees_with_the_run(workdir, capfd):
    train.evaluate.main(["--workdir", str(workdir), "--checkpoint", "latest"])
    assert "test split, 40 images" in capfd.readouterr().out
    found = json.loads((workdir / "evaluation_test_12.json").read_text())
    last = history(workdir)[-1]
    assert (found["accuracy"], found["loss"]) == (last["test_accuracy"], last["test_loss"])
    assert found["data"]["sha256_of"] == "names, sizes and classes"


def test_predict_crops_pictures_as_evaluation_does(workdir, tmp_path, capfd):
    """Its share of correct classes is the accuracy, also with an export of the network."""
    wide = picture_files.wide_folder(tmp_path / "wide", 40)
    train.evaluate.main(
        ["--workdir", str(workdir), "--checkpoint", "latest", f"--data-path={wide}"]
    )
    (written,) = workdir.glob("evaluation_test_12_*.json")  # of other data than the run's
    expected = json.loads(written.read_text())["accuracy"]
    assert 0 < expected < 1
    train.export.main(
        ["--workdir", str(workdir), "--checkpoint", "latest", "--out", str(tmp_path / "export")]
    )
    for network in (
        ["--workdir", str(workdir), "--checkpoint=latest"],
        ["--model", str(tmp_path / "export")],
    ):
        capfd.readouterr()
        train.predict.main([*network, "--json", "--top-k=1", str(wide / "test")])
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        guesses = [line["predictions"][0]["class"] for line in lines]
        right = [
            Path(line["image"]).parent.name == guess
            for line, guess in zip(lines, guesses, strict=True)
        ]
        assert np.mean(right) == pytest.approx(expected)
        model = googlenet_jax.load(network[1], "latest" if network[0] == "--workdir" else "best")
        images = model.read(*(line["image"] for line in lines))
        found = np.argmax(model.logits(images), axis=1)
        assert [model.info.class_names[label] for label in found] == guesses


def test_all_readers_crop_the_same_square(workdir, tmp_path, monkeypatch):
    """Evaluation, `train.predict` and `load` see the same crop, not the whole picture."""
    wide = picture_files.wide_folder(tmp_path / "wide", 8)
    model, config = load_model(workdir, "latest"), read_config(workdir)
    stream = googlenet_jax.data.load(dataclasses.replace(config.data, path=str(wide)), 0)
    with contextlib.closing(stream.evaluation_batches(Split.TEST, 8, np.arange(8))) as batches:
        evaluated = next(batches).images
    files = [wide / "test" / stream.splits[Split.TEST].names[i] for i in range(8)]
    seen = []
    monkeypatch.setattr(
        type(model), "logits", lambda self, images, tta: seen.append(images) or np.zeros((8, 10))
    )
    model.predict(files)
    for images in (*seen, model.read(*files), model.read(*(file.read_bytes() for file in files))):
        np.testing.assert_array_equal(images, evaluated)
    whole = np.stack([decoding.read(file, (8, 8, 3), 0) for file in files])
    assert (whole != evaluated).mean() > 0.5


def test_the_report_uses_every_test_image(workdir):
    found = diagnostics.predict(runs.read_run(workdir, "run"), "")
    assert len(found.labels) == 40
    best = runs.read_run(workdir, "run").best
    accuracy = np.mean(found.probabilities.argmax(axis=1) == found.labels)
    assert accuracy == pytest.approx(best["test_accuracy"])


def test_a_contact_sheet_of_crops(folder, tmp_path):
    from PIL import Image

    train.contact_sheet.main([*ARGUMENTS, f"--config.data.path={folder}", f"--workdir={tmp_path}"])
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        gap = 2 * train.contact_sheet.GAP
        assert sheet.size == ((train.contact_sheet.COLUMNS + 1) * (8 + gap), 10 * (8 + gap))


def test_resuming_with_other_pictures_is_refused(folder, workdir, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    next((changed / "train" / "3").iterdir()).unlink()
    run = shutil.copytree(workdir, tmp_path / "run")
    with pytest.raises(DataError, match="sha256"):
        train.main.main([*ARGUMENTS, f"--config.data.path={changed}", f"--workdir={run}"])


@pytest.mark.parametrize(("split", "steps_per_call"), [("train", 1), ("train", 3), ("test", 1)])
def test_a_damaged_picture_costs_no_step(folder, workdir, tmp_path, capfd, split, steps_per_call):
    """The run saves and names the picture; once it is repaired, the run resumes."""
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    file = next((damaged / split / "3").iterdir())
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    run = tmp_path / "run"
    arguments = [*ARGUMENTS[:-1], f"--config.data.path={damaged}", f"--workdir={run}"]
    arguments.append(f"--config.train.steps_per_call={steps_per_call}")
    with pytest.raises(DataError, match=f"{file.name}: is not a picture.*data.corrupt=skip"):
        train.main.main(arguments)
    (saved,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert saved % 4 if split == "train" else saved == 4
    file.write_bytes(content)
    train.main.main(arguments)
    assert f"at step {saved} of 12" in capfd.readouterr().out
    assert history(run) == history(workdir)


def test_a_worker_is_as_quiet_as_the_program(folder, tmp_path, capfd, caplog):
    """Pillow warns of a picture of so many pixels, which our own line names too."""
    copy = shutil.copytree(folder, tmp_path / "pictures")
    file = sorted((copy / "train").rglob("*.*"))[0]
    Image.new("1", (10_000, 10_000)).save(file, "png")
    arguments = [*ARGUMENTS, f"--config.data.path={copy}", "--workdir", str(tmp_path / "run")]
    arguments += ["--config.data.workers=1", "--config.data.corrupt=skip"]
    train.main.main([*arguments, "--config.train.steps=4"])
    assert "Warning" not in capfd.readouterr().err
    assert any(file.name in record.getMessage() for record in caplog.records)


def test_a_worker_that_is_killed_costs_no_step(folder, workdir, tmp_path, monkeypatch, capfd):
    """The system does so when memory runs out."""
    arguments = [*ARGUMENTS, f"--config.data.path={folder}", "--workdir", str(tmp_path)]
    check = train.epoch.check_finite

    def check_and_kill(run, state):
        check(run, state)
        if int(state.step) == 2:
            (worker,) = multiprocessing.active_children()
            worker.kill()

    with monkeypatch.context() as patch:
        patch.setattr(train.epoch, "check_finite", check_and_kill)
        with pytest.raises(TrainingError, match=r"a worker that decodes pictures.*data\.workers"):
            train.main.main([*arguments, "--config.data.workers=1"])
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert 2 <= saved < 12
    train.main.main(arguments)
    assert f"at step {saved} of 12" in capfd.readouterr().out
    assert history(tmp_path) == history(workdir)


def test_a_run_on_a_csv_file_and_the_other_programs_on_it(tmp_path, capsys):
    """Unbalanced classes in one folder, weighted and sampled."""
    pictures = picture_files.digits_folder(tmp_path / "digits", 60, 0)
    files = sorted(pictures.rglob("*.jpg"))
    rows = [f"{file.relative_to(tmp_path)},{int(int(file.parent.name) < 3)}" for file in files]
    table = tmp_path / "train.csv"
    table.write_text("\n".join(["picture,is_small", *rows]))
    arguments = [*ARGUMENTS[:-1], f"--config.data.path={table}", "--config.data.test_share=0.2"]
    arguments += ["--config.data.sampling=balanced", "--config.train.class_weights=balanced"]
    workdir = f"--workdir={tmp_path / 'run'}"
    train.main.main([*arguments, workdir, "--config.train.steps=3"])  # an epoch
    assert 0 < history(tmp_path / "run")[0]["train_loss"] < 9
    train.evaluate.main([workdir])
    train.contact_sheet.main([*arguments, workdir])
    train.summarize.main(arguments)
    shown = capsys.readouterr().out
    assert "test split, 12 images" in shown
    assert f"written to {tmp_path}/run/contact_sheet.png" in shown
    assert re.search(r"^fc +\d+ +2 ", shown, re.M)  # two outputs
