"""Averaged weights and test-time augmentation, from a run to a prediction."""

import contextlib
import io
import json

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from PIL import Image

import googlenet_jax
import train.evaluate
import train.export
import train.main
import train.predict
from googlenet_jax import data
from googlenet_jax.data import Split
from googlenet_jax.storage.checkpoint import Checkpoints
from googlenet_jax.storage.loading import abstract_state, load_model, start_from
from googlenet_jax.storage.workdir import read_config

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ARGUMENTS = [*tiny_run.ARGUMENTS, "--config.train.ema_decay=0.5"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("averaged") / "run"
    with compiling.quickly(), contextlib.redirect_stdout(io.StringIO()) as output:
        train.main.main([*ARGUMENTS, "--workdir", str(path)])
    assert "evaluated weights: moving average, decay 0.5" in output.getvalue()
    return path


@pytest.fixture(scope="module")
def saved(workdir):
    """The newest checkpoint as it is."""
    with Checkpoints(workdir / "checkpoints", writable=False) as checkpoints:
        like = abstract_state(read_config(workdir), data.describe(read_config(workdir).data))
        return checkpoints.restore(max(checkpoints.steps), like)[0]


def test_a_model_has_the_average(workdir, saved):
    model = load_model(workdir, "latest")
    for one, other in zip(
        *map(jax.tree.leaves, (model.state.params, saved.average.params)), strict=True
    ):
        assert np.array_equal(one, other)
    kernels = (tree["fc"]["kernel"] for tree in (saved.params, saved.average.params))
    assert not np.array_equal(*kernels)


def test_the_history_and_the_summary_are_of_the_average(workdir, capsys):
    """train.evaluate, which loads the average, finds the figures that the run wrote."""
    train.evaluate.main(["--workdir", str(workdir), "--checkpoint", "latest"])
    assert (
        "weights: moving average, decay 0.5; test-time augmentation: none"
        in capsys.readouterr().out
    )
    found = json.loads((workdir / "evaluation_test_9.json").read_text())
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["accuracy"] == last["test_accuracy"]
    assert found["loss"] == pytest.approx(last["test_loss"], rel=1e-6)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["weights"] == found["weights"] == "moving average, decay 0.5"


@pytest.mark.parametrize("tta", ["mirror", "shifts"])
def test_evaluation_with_test_time_augmentation(workdir, tta):
    train.evaluate.main(["--workdir", str(workdir), "--checkpoint", "latest", "--tta", tta])
    found = json.loads((workdir / f"evaluation_test_9_{tta}.json").read_text())
    assert found["tta"] == tta
    config = read_config(workdir)
    test = data.load(config.data, config.seed).splits[Split.TEST]
    model = load_model(workdir, "latest")
    guesses = model.logits(test.images, tta).argmax(axis=1)
    assert found["accuracy"] == pytest.approx(float((guesses == test.labels).mean()))
    assert not np.allclose(model.logits(test.images, tta), model.logits(test.images))


def test_an_export_has_the_average_and_says_so(workdir, tmp_path, capsys):
    folder = tmp_path / "export"
    train.export.main([f"--workdir={workdir}", f"--out={folder}", "--checkpoint=latest"])
    assert "| weights used | moving average, decay 0.5 |" in (folder / "README.md").read_text()
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    exported, model = googlenet_jax.load(folder), load_model(workdir, "latest")
    assert np.array_equal(exported.logits(images), model.logits(images))
    Image.fromarray(images[0, :, :, 0]).save(tmp_path / "a.png")
    capsys.readouterr()
    arguments = ["--json", "--tta=mirror", str(tmp_path / "a.png")]
    train.predict.main([f"--model={folder}", *arguments])
    printed = capsys.readouterr()
    assert printed.err == "weights: moving average, decay 0.5\n"
    (best, *_) = json.loads(printed.out)["predictions"]
    expected = jax.nn.softmax(model.logits(images[:1], "mirror"))[0]
    assert best["probability"] == pytest.approx(float(jnp.max(expected)), rel=1e-5)


def test_a_run_that_starts_from_other_weights_averages_those(workdir, saved):
    started, _ = start_from(saved, str(workdir), data.digits.INFO, read_config(workdir).model)
    for one, other in zip(
        *map(jax.tree.leaves, (started.average.params, started.params)), strict=True
    ):
        assert np.array_equal(one, other)
        assert one is not other  # a step donates both
