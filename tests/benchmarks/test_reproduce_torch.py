"""`benchmarks.reproduce_torch`: its recipe against this project's, and a run on few images."""

import argparse
import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

from benchmarks import reproduce_torch  # noqa: E402
from googlenet_jax import models  # noqa: E402
from googlenet_jax.data import Arrays, Dataset, Split  # noqa: E402
from googlenet_jax.data.cifar import CIFAR10  # noqa: E402
from googlenet_jax.errors import UserError  # noqa: E402
from googlenet_jax.training.plan import Plan  # noqa: E402
from train.reproduce import plan  # noqa: E402


def config(row):
    arguments = argparse.Namespace(rows=[str(row)], seeds=[0], scale="small")
    (trial,) = plan(arguments, [])
    return trial.config


@pytest.mark.parametrize("init", ["fan_out", "fan_in"])
def test_initial_weights_are_as_large_as_this_projects(init):
    model = dataclasses.replace(config(8).model, init=init)
    ours = nnx.state(models.create(model, (16, 16, 3), 10, rngs=nnx.Rngs(0)), nnx.Param)
    theirs = reproduce_torch.create_network(8, model).requires_grad_(False).parameters()
    bounds = [
        # Of a uniform distribution: a layer's largest weight comes close to it.
        sorted(float(abs(each).max()) for each in parameters if each.ndim > 1)
        for parameters in (jax.tree.leaves(ours), theirs)
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=0.05)


def test_a_setting_that_only_one_side_follows_is_refused(tmp_path):
    wrong = "--config.optimizer.nesterov=True"
    with pytest.raises(UserError, match=r"optimizer\.nesterov: the PyTorch side does not follow"):
        reproduce_torch.main(["--out", str(tmp_path), "--rows", "8", "--seeds", "0", wrong])


@pytest.mark.parametrize("row", reproduce_torch.ROWS)
def test_learning_rates_are_this_projects(row):
    ours = Plan.of(config(row), 10_000)
    for epoch in range(20):
        expected = float(ours.schedule(epoch * ours.steps_per_epoch))
        found = reproduce_torch.learning_rate(config(row).optimizer, epoch, 20)
        # Ours is in float32, where 1 + cos(x) has the accuracy of a number near 1.
        assert found == pytest.approx(expected, abs=1e-7 * config(row).optimizer.learning_rate)


def test_crops_are_windows_of_the_padded_image_or_of_its_mirror():
    torch.manual_seed(0)
    image = np.arange(3 * 6 * 6, dtype=np.float32).reshape(3, 6, 6)
    for mode, numpys in (("reflect", "reflect"), ("zeros", "constant")):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), numpys)
        windows = [padded[:, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
        possible = {w.tobytes() for w in windows} | {w[:, :, ::-1].tobytes() for w in windows}
        found = reproduce_torch.augment(torch.from_numpy(np.stack([image] * 400)), 2, mode)
        seen = {np.ascontiguousarray(each).tobytes() for each in found.numpy()}
        assert seen <= possible
        assert len(seen) > len(possible) / 2


def test_a_run_leaves_a_line_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    examples = Arrays(
        rng.integers(0, 256, (300, 16, 16, 3), np.uint8), rng.integers(0, 10, 300, np.int32)
    )
    splits = {Split.TRAIN: examples, Split.TEST: examples}
    dataset = Dataset(CIFAR10.info, splits, {"sha256": "random"})
    monkeypatch.setattr(reproduce_torch.data, "load", lambda config, seed: dataset)
    overrides = ["--config.train.epochs=1", "--config.model.width_multiplier=0.0625"]
    for _ in range(2):
        reproduce_torch.main(
            ["--out", str(tmp_path), "--rows", "3", "10", "--seeds", "4", *overrides]
        )
    lines = [json.loads(each) for each in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["row 3, PyTorch", "row 10, PyTorch"]
    assert all(0 <= line["test_accuracy"]["none"] <= 1 and line["seed"] == 4 for line in lines)


def test_runs_of_another_scale_are_not_compared(tmp_path, capsys):
    lines = []
    for scale, ours, theirs in (("small", 0.7, 0.6), ("full", 0.9, 0.8)):
        arguments = argparse.Namespace(rows=["8"], seeds=[0], scale=scale)
        (trial,) = plan(arguments, [])
        for arm, accuracy in (("row 8", ours), ("row 8, PyTorch", theirs)):
            found = {"arm": arm, "test_accuracy": {"none": accuracy}}
            lines.append(json.dumps(trial.identity | found) + "\n")
    (tmp_path / "trials.jsonl").write_text("".join(lines))
    reproduce_torch.main(["--out", str(tmp_path), "--rows", "8", "--seeds", "0"])
    assert "| 8 | 70.00 | 1 | 60.00 | 1 | +10.00 |" in capsys.readouterr().out


def test_the_table_by_hand():
    lines = [
        {"arm": arm, "seed": seed, "settings": {}, "test_accuracy": {"none": accuracy}}
        for arm, accuracies in (
            ("row 8", (0.70, 0.72, 0.74)),
            ("row 8, PyTorch", (0.69, 0.71, 0.73)),
            ("row 3", (0.5,)),
        )
        for seed, accuracy in enumerate(accuracies)
    ]
    (row,) = reproduce_torch.table(lines).splitlines()[2:]
    half = 2.776445 * (2 * 2**2 / 3) ** 0.5  # t for 4 degrees of freedom
    expected = f"{1 - half:+.2f} to {1 + half:+.2f}"
    assert row == f"| 8 | 72.00 | 3 | 71.00 | 3 | +1.00 | {expected} |"
