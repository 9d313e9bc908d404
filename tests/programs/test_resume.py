"""A run of every ingredient, killed repeatedly, ends with the result of an uninterrupted run."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import compiling
import jax
import numpy as np
import pytest
import recipe

from googlenet_jax.storage.checkpoint import Checkpoints
from googlenet_jax.storage.loading import abstract_state, load_model
from googlenet_jax.storage.workdir import read_config

# 3 epochs of 4 steps; checkpoints at steps 3, 4, 6, 8, 9 and 12. The network traces quickly, which
# each of the many processes has to do; the random keys of the steps affect the augmentation.
ARGUMENTS = [
    *("--config", "digits", "--config.train.batch_size=16", "--config.train.epochs=3"),
    *("--config.model.name=preact_resnet", "--config.model.depth=11"),
    *("--config.data.max_train_examples=64", "--config.model.width_multiplier=0.0625"),
    *("--config.data.valid_examples=20", "--config.checkpoint.every_steps=3"),
    *recipe.ARGUMENTS,
]
WALL_CLOCK = {"seconds", "images_per_second"}


def run(workdir, *command, timeout=300):
    """Waits for a run to end; returns its exit status, negative for a signal, and its output."""
    process = subprocess.Popen(
        [sys.executable, *command, *ARGUMENTS, "--workdir", str(workdir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=compiling.environment(),
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return process.returncode, output


def run_and_signal(workdir, signals, target, when, count):
    driver = Path(__file__).parents[1] / "helpers/kill_at.py"
    return run(workdir, str(driver), signals, target, when, str(count))


def result(workdir: Path):
    """Everything that must be equal to the bit: state, and history without wall-clock fields.

    And the step of the best checkpoint.
    """
    model = load_model(workdir, "latest")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    history = [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in lines]
    with Checkpoints(workdir / "checkpoints", writable=False) as checkpoints:
        like = abstract_state(read_config(workdir), model.info)
        saved, _ = checkpoints.restore(checkpoints.resolve("latest"), like)
        best = checkpoints.resolve("best")
    return [np.array(leaf) for leaf in jax.tree.leaves(saved)], history, best


def assert_same(workdir, expected):
    leaves, *others = result(workdir)
    assert others == [*expected[1:]]
    assert all(map(np.array_equal, leaves, expected[0]))
    assert len(leaves) == len(expected[0])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    status, output = run(workdir, "-m", "train.main")
    assert status == 0, output
    return result(workdir)


KILLS = [
    ("a step before any checkpoint", "train.epoch:check_finite", "after", 2),
    ("a save has begun", "googlenet_jax.storage.checkpoint:Checkpoints.save", "after", 1),
    ("committed, not yet sealed", "googlenet_jax.fileio:write_json", "before", 2),
    ("the clean-up has begun", "shutil:rmtree", "before", 1),
    ("the clean-up is half done", "os:rmdir", "before", 2),
    ("saved, not yet in metrics.jsonl", "train.loop:write_metrics", "before", 2),
    ("an evaluation", "googlenet_jax.training.step:evaluate", "before", 2),
    ("the summary", "train.loop:summarize", "before", 1),
]


def test_sigkill_at_every_kind_of_moment_changes_nothing(undisturbed, tmp_path):
    """One run, killed at each of these moments and resumed each time."""
    for moment, *where in KILLS:
        status, output = run_and_signal(tmp_path, "SIGKILL", *where)
        assert status == -signal.SIGKILL, (moment, output)
    status, output = run(tmp_path, "-m", "train.main")
    assert status == 0, output
    assert_same(tmp_path, undisturbed)


def test_after_sigterm_and_ctrl_c_the_run_resumes(undisturbed, tmp_path):
    after_step = ("train.epoch:check_finite", "after")
    status, output = run_and_signal(tmp_path, "SIGTERM", *after_step, 2)
    assert status == 128 + signal.SIGTERM, output
    assert "saving step" in output
    # At the end of an epoch, before its evaluation, which the resumed run does.
    status, output = run_and_signal(tmp_path, "SIGINT", "train.epoch:Progress.update", "after", 1)
    assert status == 128 + signal.SIGINT, output
    # In an evaluation, whose result the checkpoint keeps.
    evaluation = "googlenet_jax.training.step:evaluate"
    status, output = run_and_signal(tmp_path, "SIGTERM", evaluation, "before", 1)
    assert status == 128 + signal.SIGTERM, output
    with Checkpoints(tmp_path / "checkpoints", writable=False) as checkpoints:
        assert checkpoints.resolve("best") == 4
    status, output = run(tmp_path, "-m", "train.main")
    assert status == 0, output
    assert_same(tmp_path, undisturbed)


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    status, _ = run_and_signal(tmp_path, "SIGTERM,SIGTERM", "train.epoch:check_finite", "after", 1)
    assert status == -signal.SIGTERM
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
def test_sigkill_at_ten_random_moments_changes_nothing(undisturbed, tmp_path):
    rng, kills = random.Random(0), 0
    while kills < 10:
        status, output = run(tmp_path, "-m", "train.main", timeout=rng.uniform(6, 18))
        assert status in (0, -signal.SIGKILL), output
        kills += status != 0
        if status == 0:  # it finished before the kill: start another run
            assert_same(tmp_path, undisturbed)
            tmp_path = tmp_path.with_name(f"{tmp_path.name}-{kills}")
    status, output = run(tmp_path, "-m", "train.main")
    assert status == 0, output
    assert_same(tmp_path, undisturbed)
