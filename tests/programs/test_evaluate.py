"""`train.evaluate`, `load` and `train.init_from` use exactly the trained network."""

import dataclasses
import inspect
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

import googlenet_jax
import train.evaluate
from googlenet_jax import data
from googlenet_jax.config import Config
from googlenet_jax.data import digits
from googlenet_jax.errors import CheckpointError, DataError, UserError
from googlenet_jax.storage import loading
from googlenet_jax.storage.checkpoint import Checkpoints
from googlenet_jax.storage.loading import Model, start_from
from googlenet_jax.storage.workdir import lock, read_config
from googlenet_jax.training import state

pytestmark = pytest.mark.usefixtures("compiled_quickly")
# Without the type checks of conftest.py, which would raise first; users do not have them.
UNCHECKED_LOGITS = inspect.unwrap(Model.logits)
COUNTS = {"train": 64, "valid": 20, "test": 355}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A copy, because evaluate writes into it."""
    copy = tmp_path_factory.mktemp("evaluate") / "run"
    return shutil.copytree(tiny_run.make(tmp_path_factory), copy)


@pytest.fixture(scope="module")
def model(workdir):
    return googlenet_jax.load(str(workdir))


@pytest.fixture(scope="module")
def history(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def best(history):
    """By validation accuracy, then loss, then the later step; from metrics.jsonl alone."""
    return max(
        history,
        key=lambda step: (history[step]["valid_accuracy"], -history[step]["valid_loss"], step),
    )


@pytest.fixture(scope="module")
def arrays(workdir):
    config = read_config(workdir)
    return data.load(config.data, config.seed).splits


@pytest.fixture(scope="module")
def logits(model, arrays):
    """The logits of every split, from one call, which compiles once."""
    images = np.concatenate([arrays[split].images for split in COUNTS])
    ends = np.cumsum(list(COUNTS.values()))
    return dict(
        zip(COUNTS, np.split(np.asarray(model.logits(jnp.asarray(images))), ends[:-1]), strict=True)
    )


def evaluate(workdir, *arguments):
    before = set(workdir.glob("evaluation_*"))
    for path in before:
        path.unlink()
    train.evaluate.main(["--workdir", str(workdir), *arguments])
    (path,) = workdir.glob("evaluation_*")
    return path, json.loads(path.read_text())


@pytest.mark.parametrize(
    ("checkpoint", "split"), [("best", "valid"), ("latest", "test"), ("8", "test"), ("9", "valid")]
)
def test_agrees_with_the_run(workdir, history, best, capsys, checkpoint, split):
    step = {"best": best, "latest": tiny_run.STEPS[-1]}.get(checkpoint) or int(checkpoint)
    path, result = evaluate(workdir, "--checkpoint", checkpoint, "--split", split)
    assert path.name == f"evaluation_{split}_{step}.json"
    assert (result["step"], result["epoch"]) == (step, 1 + tiny_run.STEPS.index(step))
    assert (result["split"], result["examples"]) == (split, COUNTS[split])
    assert result["loss"] == pytest.approx(history[step][f"{split}_loss"], rel=1e-5)
    # A ratio of two counts, so it must be equal.
    assert result["accuracy"] == history[step][f"{split}_accuracy"]
    assert result["accuracy"] <= result["top5_accuracy"] <= 1
    assert result["data"]["official"]

    printed = capsys.readouterr().out
    for text in (
        f"{split} split, {COUNTS[split]} images, checkpoint of step {step} ",
        f"loss {result['loss']:.4f}, top-1 {result['accuracy']:.4f}, ",
        f"top-5 {result['top5_accuracy']:.4f}\n",
        str(path),
        *(f"  {name:12} {value:.4f}\n" for name, value in result["per_class_accuracy"].items()),
    ):
        assert text in printed
    assert list(result["per_class_accuracy"]) == list("0123456789")


def test_two_checkpoints_differ(history):
    """Otherwise the test above could not distinguish them."""
    first, second = (history[step] for step in tiny_run.STEPS)
    assert first["test_loss"] != pytest.approx(second["test_loss"], rel=1e-3)


def other_data(monkeypatch, **changes):
    """Makes `data.load` return the digits as if they were another data set."""
    load = data.load

    def changed(*arguments):
        found = load(*arguments)
        info = dataclasses.replace(found.info, **changes)
        origin = {**found.provenance, "sha256": "f" * 64, "official": False, "source": "zoo"}
        return dataclasses.replace(found, info=info, provenance=origin)

    monkeypatch.setattr(data, "load", changed)


def test_results_on_other_data_get_another_file(workdir, monkeypatch, capsys):
    path, result = evaluate(workdir, "--checkpoint", "9")
    assert not result["other_data"]
    before = path.read_bytes()
    other_data(monkeypatch)
    train.evaluate.main(["--workdir", str(workdir), "--checkpoint", "9"])
    assert path.read_bytes() == before
    other = json.loads((workdir / f"evaluation_test_9_{'f' * 12}.json").read_text())
    assert other["other_data"]
    assert "on other data than the run used: zoo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"class_names": ("0", "zebra", *"23456789")}, "class 1 is 'zebra'; the network has '1'"),
        ({"class_names": tuple("012345678")}, "9 classes; the network has 10"),
        ({"image_shape": (8, 8, 3)}, r"shape \(8, 8, 3\); the network takes \(8, 8, 1\)"),
    ],
)
def test_data_of_other_classes_or_shape_are_refused(workdir, monkeypatch, changes, culprit):
    other_data(monkeypatch, **changes)
    before = set(workdir.iterdir())
    with pytest.raises(DataError, match=f"zoo: .*{culprit}"):
        train.evaluate.main(["--workdir", str(workdir)])
    assert set(workdir.iterdir()) == before


def test_defaults_are_best_and_test(workdir, best):
    path, result = evaluate(workdir)
    assert path.name == f"evaluation_test_{best}.json"
    assert result["checkpoint"] == "best"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_image_counts_once(workdir, arrays, logits, split):
    """Recomputes all metrics in NumPy from the logits of one call."""
    _, result = evaluate(workdir, "--split", split)
    labels, values = np.asarray(arrays[split].labels), logits[split].astype(np.float64)
    hits = values.argmax(axis=1) == labels
    top5 = [label in row.argsort()[-5:] for row, label in zip(values, labels, strict=True)]
    shifted = values - values.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]

    assert result["examples"] == COUNTS[split] == len(labels)
    assert result["accuracy"] == pytest.approx(hits.mean())
    assert result["top5_accuracy"] == pytest.approx(np.mean(top5))
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    for name, accuracy in result["per_class_accuracy"].items():
        assert accuracy == pytest.approx(hits[labels == int(name)].mean())


def test_float_images_are_uint8_images_scaled(model, arrays, logits):
    floats = np.asarray(arrays["test"].images, np.float32) / 255
    assert logits["test"].shape == (COUNTS["test"], 10)
    np.testing.assert_allclose(model.logits(floats), logits["test"], rtol=1e-3, atol=1e-3)


def test_a_model_is_described_in_one_line(model):
    """A notebook shows it; all of its arrays were 16,306 characters."""
    assert re.fullmatch(
        r"<Model of digits: 10 classes, images of 8x8x1, [\d,]+ parameters, step \d+>", repr(model)
    )


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (2, 8, 8), (2, 8, 8, 3), (2, 32, 32, 1), (2, 1, 8, 8)]
)
def test_wrong_shape_is_refused(model, shape):
    with pytest.raises(UserError, match=r"images of shape .*must be \(batch, 8, 8, 1\)"):
        UNCHECKED_LOGITS(model, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int32, np.int8, bool])
def test_wrong_type_is_refused(model, dtype):
    """Their range, 0 to 1 or 0 to 255, would be unknown."""
    with pytest.raises(UserError, match=f"images of type {np.dtype(dtype)}: must be uint8"):
        UNCHECKED_LOGITS(model, np.zeros((2, 8, 8, 1), dtype))


def test_a_checkpoint_that_a_run_deletes_during_loading(workdir, tmp_path, monkeypatch):
    """The run has saved the next one, which is loaded instead."""
    copy = shutil.copytree(workdir, tmp_path / "run")
    folder = copy / "checkpoints"
    (folder / "9").rename(copy / "9")
    restore = Checkpoints.restore

    def too_late(checkpoints, step, like):
        if step == 8:
            shutil.rmtree(folder / "8" / "state")
            (copy / "9").rename(folder / "9")
        return restore(checkpoints, step, like)

    monkeypatch.setattr(Checkpoints, "restore", too_late)
    assert int(googlenet_jax.load(str(copy), "latest").state.step) == 9


def test_a_half_deleted_checkpoint(workdir, tmp_path, monkeypatch):
    copy = shutil.copytree(workdir, tmp_path / "run")
    folder = copy / "checkpoints"
    (folder / "9").rename(copy / "9")
    shutil.rmtree(folder / "8" / "state")
    with pytest.raises(CheckpointError, match=r"checkpoint 8 .* is damaged"):
        googlenet_jax.load(str(copy), "latest")
    monkeypatch.setattr(loading.time, "sleep", lambda _: (copy / "9").rename(folder / "9"))
    with lock(copy):
        assert int(googlenet_jax.load(str(copy), "latest").state.step) == 9


NAMES = tuple(map(str, range(10)))


def start(workdir, names=NAMES, image_shape=(8, 8, 1), **changes):
    """A fresh state, and what `start_from` makes of it."""
    config = read_config(workdir)
    config.model = dataclasses.replace(config.model, **changes)
    info = dataclasses.replace(digits.INFO, class_names=names, image_shape=image_shape)
    fresh = state.initialize(jax.random.key(99), config, info)
    return fresh, *start_from(fresh, str(workdir), info, config.model)


def assert_equal(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_start_from_takes_the_best_weights(workdir, model):
    fresh, started, taken = start(workdir)
    source = model.state
    assert taken.endswith("with their classifier: the classes are the same")
    assert_equal(started.params, source.params)
    assert_equal(started.batch_stats, source.batch_stats)
    assert_equal((started.step, started.opt_state), (fresh.step, fresh.opt_state))
    assert int(started.step) == 0


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (NAMES[:7], "a new classifier for 7 classes: the weights are for 10; drawn anew: fc"),
        (tuple("abcdefghij"), "a new classifier for 10 classes: their names or order differ"),
        (NAMES[::-1], "a new classifier for 10 classes: their names or order differ"),
    ],
)
def test_start_from_keeps_a_fresh_head_for_other_classes(workdir, model, names, says):
    fresh, started, taken = start(workdir, names)
    assert says in taken
    assert_equal(started.params["fc"], fresh.params["fc"])
    assert_equal({**started.params, "fc": model.state.params["fc"]}, model.state.params)


def test_data_that_have_moved_hint_at_the_flag(tmp_path):
    config = Config()
    config.data.path = str(tmp_path / "gone")
    with pytest.raises(DataError, match=r"gone.*if the data have moved, .*--data-path"):
        loading.load_data(config, "")
    with pytest.raises(DataError, match=r"data\.path='nowhere'") as caught:
        loading.load_data(config, "nowhere")
    assert "--data-path" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width_multiplier": 0.125}, "model.width_multiplier 0.125 here, 0.25 there"),
        (
            {"depth": 20, "conv_bias": False, "image_shape": (8, 8, 3)},
            "model.depth 20 here, 11 there; model.conv_bias False here, True there; images of 3 "
            "channels here, 1 there",
        ),
    ],
)
def test_start_from_another_network_names_the_settings_that_differ(workdir, changes, says):
    message = rf"^train\.init_from=.*: is another network: {re.escape(says)}; use the config"
    with pytest.raises(CheckpointError, match=message):
        start(workdir, **changes)
