"""The training program on a small version of the digits config."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_run

from configs import digits
from googlenet_jax.errors import ConfigError
from googlenet_jax.storage.checkpoint import Checkpoints
from googlenet_jax.storage.loading import load_model
from googlenet_jax.training import feeds
from train import console, epoch, main
from train.loop import train_and_evaluate

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def small_config():
    """8 steps per epoch, and a network that traces and compiles quickly."""
    config = digits.get_config()
    config.model.name, config.model.depth = "preact_resnet", 11
    config.data.max_train_examples = 70
    config.data.valid_examples = 20
    config.train.batch_size = 8
    config.train.epochs = 3
    config.eval.every_epochs = 2
    return config


def test_a_run_writes_all_its_files(tmp_path, capfd, monkeypatch):
    config = small_config()
    monkeypatch.setattr(epoch, "LONG_SECONDS", 0.0)
    summary = train_and_evaluate(config, tmp_path)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    every_epoch = {"epoch", "step", "train_loss", "train_accuracy"}
    every_epoch |= {"learning_rate", "images_per_second", "seconds"}
    every_epoch |= {"grad_norm", "param_norm", "update_norm"}
    evaluated = {"valid_loss", "valid_accuracy", "test_loss", "test_accuracy"}
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [8, 16, 24]
    # The second epoch is evaluated because of every_epochs, the third because it is the last.
    assert [set(line) for line in lines] == [every_epoch, *2 * [every_epoch | evaluated]]

    assert json.loads((tmp_path / "config.json").read_text()) == config.to_dict()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["final"] == lines[-1]
    assert summary["best"] == max(
        lines[1:], key=lambda e: (e["valid_accuracy"], -e["valid_loss"], e["epoch"])
    )
    assert summary["best_chosen_on"] == "valid"
    assert summary["data"]["official"] is True
    assert (summary["dtype"], summary["matmul_precision"]) == ("float32", "default")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))) == 1
    with Checkpoints(tmp_path / "checkpoints", writable=False) as checkpoints:
        assert {16, 24} <= set(checkpoints.steps)
        assert checkpoints.best == summary["best"]["step"]

    output = capfd.readouterr().out
    assert re.search(
        r"^\[3/3\] train \S+ \S+% valid \S+ \S+% test \S+ \S+% left 00:00", output, re.M
    )
    assert "best on the valid split" in output
    assert output.count("at the pace of the first steps, training takes about 0 hours;") == 1
    # Of the whole command, and the part that the epochs took.
    assert re.search(r"^done in \d\d:\d\d, with \d\d:\d\d of epochs: test accuracy", output, re.M)

    # Running the same command again changes nothing.
    before = load_model(tmp_path, "latest")
    again = train_and_evaluate(config, tmp_path)
    assert again == summary
    assert "compil" not in capfd.readouterr().out
    assert same_bits(before, load_model(tmp_path, "latest"))


def same_bits(first, second):
    leaves = [jax.tree.leaves(model.state) for model in (first, second)]
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_steps_per_call(tmp_path, monkeypatch):
    """Calls of 3 steps give the same bits as calls of adapted length."""
    asked = []

    def watched(feed, state, num_steps):
        asked.append(num_steps)
        return train(feed, state, num_steps)

    train = feeds.InMemory.train
    monkeypatch.setattr(feeds.InMemory, "train", watched)
    config = small_config()
    config.train.epochs = 1
    train_and_evaluate(config, tmp_path / "adapted")
    assert (asked[0], sum(asked)) == (1, 8)
    asked.clear()
    config.train.steps_per_call = 3
    train_and_evaluate(config, tmp_path / "told")
    assert asked == [3, 3, 2]
    assert same_bits(*(load_model(tmp_path / name, "latest") for name in ("adapted", "told")))


@pytest.mark.parametrize(
    ("argument", "cache", "is_kept"),
    [
        ("--config.train.compilation_cache=True", "cache", True),
        ("--config.train.compilation_cache=False", "cache", False),
        ("--config.train.compilation_cache=True", "a file/cache", False),
    ],
)
def test_compiled_programs_are_kept_for_the_next_run(tmp_path, argument, cache, is_kept):
    """If the cache folder cannot be created, the run works without it, silently."""
    (tmp_path / "a file").touch()
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / cache)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    arguments = [*tiny_run.ARGUMENTS, "--config.train.steps=1", argument]
    # The second run has other numbers but the same compiled program: they are its arguments.
    others = ["--config.optimizer.learning_rate=0.02", "--config.seed=7", "--config.train.steps=2"]
    for number, changes in enumerate([[], others]):
        # Matplotlib's font has no such letters.
        workdir = ["--workdir", str(tmp_path / f"運行{number}")]
        run = subprocess.run(
            [sys.executable, "-m", "train.main", *arguments, *changes, *workdir],
            env=environment | {"MPLCONFIGDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = (line for line in run.stdout.splitlines() if line.startswith("started in "))
        compiled = r"compile \(from the cache\)" if number and is_kept else "compile"
        laps = f"started in .* s: import .* s, data .* s, state .* s, {compiled} .* s"
        assert re.fullmatch(laps, line)
        assert not {"compil", "Glyph"} & set(re.findall("compil|Glyph", run.stderr))
    kept = list((tmp_path / "cache").glob("googlenet_jax/compiled/jit_train_steps-*"))
    assert bool(kept) == is_kept


def test_a_constant_schedule_allows_a_longer_run(tmp_path, capfd):
    """Even if the shorter run ended within an epoch."""
    config = small_config()
    config.optimizer.schedule = "constant"
    config.train.steps = 12
    train_and_evaluate(config, tmp_path / "whole")
    config.train.steps = 5
    train_and_evaluate(config, tmp_path / "extended")
    (cut,) = load_model(tmp_path / "extended", "latest").record.history
    assert cut["step"] == 5
    config.train.steps = 12
    train_and_evaluate(config, tmp_path / "extended")
    whole, extended = (load_model(tmp_path / name, "latest") for name in ("whole", "extended"))
    assert same_bits(whole, extended)
    assert [line["step"] for line in extended.record.history] == [8, 12]
    # The epoch's time includes that of its steps before.
    assert 8 / extended.record.history[0]["images_per_second"] > 5 / cut["images_per_second"]

    # The older checkpoint is damaged. It is not resumed, but it might have been the best.
    (tmp_path / "extended" / "checkpoints" / "8" / "seal.json").write_text("{")
    config.train.steps = 13
    train_and_evaluate(config, tmp_path / "extended")
    assert re.search(
        r"warning: checkpoint 8 .* is damaged: .*; the run goes on without it, and will delete it",
        capfd.readouterr().out,
    )

    config.train.steps = 4
    with pytest.raises(ConfigError, match="already taken 13 steps"):
        train_and_evaluate(config, tmp_path / "extended")


def test_a_diverging_run_names_the_step_and_keeps_the_last_checkpoint(tmp_path, capfd, monkeypatch):
    arguments = [
        *("--config", "digits", "--workdir", str(tmp_path), "--config.train.batch_size=8"),
        *("--config.model.name=preact_resnet", "--config.model.depth=11"),
        "--config.data.max_train_examples=70",
        *("--config.optimizer.learning_rate=1e30", "--config.checkpoint.every_steps=1"),
    ]
    monkeypatch.setattr(sys, "argv", ["train.main", *arguments])
    with pytest.raises(SystemExit) as exit_:
        console.run(main.main)
    assert exit_.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: not finite at step ")
    for word in ("loss", "gradient norm", "learning rate", "the last good checkpoint is step"):
        assert word in line
    with Checkpoints(tmp_path / "checkpoints", writable=False) as checkpoints:
        assert f"checkpoint is step {max(checkpoints.steps)}" in line
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(load_model(tmp_path, "latest").state.params)
    )
