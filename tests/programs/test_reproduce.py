"""`train.trials` and `train.reproduce`: what is trained, what is skipped, and the table."""

import argparse
import json
import os
import signal
from pathlib import Path

import pytest

import train.loop
from configs import digits
from googlenet_jax.errors import ConfigError, DataError, UserError
from train import flags, reproduce, trials
from train.trials import SMALL, Trial, change

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def tiny(arm, seed=0, **changes):
    """A trial of 4 steps."""
    small = {"model.name": "preact_resnet", "model.depth": 11, "model.width_multiplier": 0.25}
    small |= {"data.max_train_examples": 32, "train.batch_size": 8, "train.epochs": 1}
    return Trial(arm, change(digits.get_config(), small | {"seed": seed} | changes))


def test_each_trial_is_trained_once_and_leaves_a_line(tmp_path, capsys, monkeypatch):
    path = tmp_path / "docs" / "trials.jsonl"
    first = [tiny("plain"), tiny("fast", **{"optimizer.learning_rate": 0.2})]
    trials.complete(first[:1], path, tmp_path)
    assert "0 of 1 trials are done; the others take about 00:" in capsys.readouterr().out

    trained = []
    original = trials.train_and_evaluate

    def count(config, workdir):
        trained.append(config.optimizer.learning_rate)
        return original(config, workdir)

    monkeypatch.setattr(trials, "train_and_evaluate", count)
    for _ in range(2):
        trials.complete(first, path, tmp_path)
    assert trained == [0.2]
    out = capsys.readouterr().out
    assert "1 of 2 trials are done" in out
    assert out.splitlines()[-1] == "all 2 trials are done"

    plain, fast = trials.read(path)
    assert (plain["arm"], plain["seed"], plain["step"]) == ("plain", 0, 4)
    summary = json.loads((tmp_path / "plain-1-epochs-seed-0" / "summary.json").read_text())
    assert plain["test_accuracy"] == {"none": summary["final"]["test_accuracy"]}
    assert plain["data"] == summary["data"]["sha256"]
    different = {n for n in fast["settings"] if fast["settings"][n] != plain["settings"].get(n)}
    assert different == {"optimizer.learning_rate"}


def test_many_trials_do_not_exhaust_the_maps_of_a_process(tmp_path):
    maps = Path("/proc/self/maps")
    path, counted = tmp_path / "trials.jsonl", []
    for rate in (0.1, 0.2, 0.3):
        trial = tiny("plain", **{"optimizer.learning_rate": rate})
        trials.complete([trial], path, tmp_path / str(rate))
        counted.append(len(maps.read_text().splitlines()))
    assert counted[2] - counted[1] < 100  # each left more than 1,000 of at most 65,530


def test_another_setting_or_seed_is_another_trial():
    lines = [tiny("plain").identity | {"test_accuracy": {"none": 0.5}}]
    assert tiny("plain").is_in(lines)
    assert tiny("plain", **{"data.path": "elsewhere"}).is_in(lines)
    others = [tiny("plain", 1), tiny("plan"), tiny("plain", **{"optimizer.momentum": 0.8})]
    assert not any(other.is_in(lines) for other in others)


def test_a_signal_in_the_last_evaluation_ends_the_experiment(tmp_path, monkeypatch):
    path, both = tmp_path / "trials.jsonl", [tiny("plain"), tiny("plain", 1)]
    draw_curves = train.loop.draw_curves

    def interrupted(*arguments):
        draw_curves(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "draw_curves", interrupted)
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            trials.complete(both, path, tmp_path)
    assert not (tmp_path / "plain-1-epochs-seed-1").exists()
    trials.complete(both, path, tmp_path)
    assert [line["seed"] for line in trials.read(path)] == [0, 1]


def test_a_batch_that_cannot_be_cut_is_told_before_its_speed_is_measured(tmp_path):
    odd = tiny("odd", **{"train.accumulate": 3})
    with pytest.raises(ConfigError, match=r"train.batch_size=8: must be a multiple of .* such as"):
        trials.complete([odd], tmp_path / "trials.jsonl", tmp_path)


def test_programs_are_not_kept_if_the_config_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "keep_programs", lambda: pytest.fail("they are kept"))
    monkeypatch.setattr(train.loop, "keep_programs", lambda: pytest.fail("they are kept"))
    plain = tiny("plain", **{"train.compilation_cache": False})
    trials.complete([plain], tmp_path / "trials.jsonl", tmp_path)


def test_a_run_that_diverges_is_a_result(tmp_path):
    path = tmp_path / "trials.jsonl"
    rate = {"optimizer.learning_rate": 1e30}
    wild = tiny(
        "wild", **rate | {"model.name": "googlenet", "model.batch_norm": False, "model.depth": 164}
    )
    trials.complete([wild], path, tmp_path)
    (line,) = trials.read(path)
    assert line["diverged"].startswith("not finite at step ")
    assert wild.is_in([line])


def test_test_time_augmentation_is_measured_too(tmp_path):
    trial = Trial("plain", tiny("plain").config, tta=("mirror",))
    line = trials.run(trial, tmp_path)
    assert line["test_accuracy"].keys() == {"none", "mirror"}
    assert trial.is_in([line])
    del line["test_accuracy"]["mirror"]  # as of an experiment that does not ask for it
    assert not trial.is_in([line])
    assert tiny("plain").is_in([line])


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "trials.jsonl"
    whole = tiny("plain").identity | {"test_accuracy": {"none": 0.5}}
    for damaged in ({}, [], whole | {"test_accuracy": {}}, whole | {"settings": 3}):
        path.write_text(json.dumps(whole) + "\n" + json.dumps(damaged) + "\n")
        with pytest.raises(DataError, match=r"trials.jsonl: line 2 is not a trial's"):
            trials.read(path)


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, make):
    make(tmp_path / "trials [1].jsonl")
    with pytest.raises(DataError, match=r"trials \[1\].jsonl: cannot be read: "):
        trials.read(tmp_path / "trials [1].jsonl")


def planned(*rows, seeds=(0,), scale="small", overrides=()):
    arguments = argparse.Namespace(rows=[*rows], seeds=seeds, scale=scale)
    return reproduce.plan(arguments, [*overrides])


def test_the_whole_table_comes_before_the_second_seed():
    found = planned("all", seeds=(0, 1))
    assert [trial.config.seed for trial in found] == [0] * 10 + [1] * 10
    assert {trial.arm for trial in found[:10]} == {f"row {row}" for row in range(1, 11)}


@pytest.mark.parametrize("row", range(1, 11))
def test_a_row_is_its_config_at_either_scale(row):
    shipped, _ = flags.parse([f"--config=cifar10_row{row}"])
    (full,) = planned(str(row), scale="full", overrides=["--config.data.path=x"])
    assert full.config == change(shipped, {"data.path": "x"})
    (small,) = planned(str(row))
    values = {name: value for name, _, value in small.config.options()}
    apart = {name for name, _, value in shipped.options() if values[name] != value}
    assert {name: values[name] for name in SMALL} == SMALL
    assert apart - {"data.path"} <= {*SMALL, *["optimizer.warmup_epochs"] * (row == 9)}


def test_row_9_warms_up_for_the_same_share_of_its_steps():
    (small,) = planned("9")
    assert small.config.optimizer.warmup_epochs / 20 == pytest.approx(400 / 64_000)


def test_wrong_rows_are_refused():
    with pytest.raises(UserError, match="--rows: 11: must be 1 to 10, or all"):
        planned("11")


def line(arm, seed, accuracy):
    return {"arm": arm, "seed": seed, "settings": {}, "test_accuracy": {"none": accuracy}}


LINES = [
    *(line("row 8", seed, accuracy) for seed, accuracy in ((0, 0.70), (2, 0.74), (1, 0.72))),
    line("row 3", 0, 0.5),
    {"arm": "row 4", "seed": 0, "settings": {}, "diverged": "not finite at step 5"},
]


def test_the_table_by_hand():
    rows = reproduce.table(LINES).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 3", "| 4", "| 8"]
    assert rows[0].endswith("| 91.18 | 1 | 50.00 |  |  | 0: 50.00 |")
    assert rows[1].endswith("| diverges | 0 |  |  |  | 0: diverged |")
    half = 4.302653 * 2 / 3**0.5
    assert rows[2].endswith(
        f"| 95.16 | 3 | 72.00 | 2.00 | {72 - half:.2f} to {72 + half:.2f} | "
        "0: 70.00, 1: 72.00, 2: 74.00 |"
    )


def test_table_and_figure_are_written(tmp_path, capsys):
    (trial,) = planned("8")
    lines = [trial.identity | {"test_accuracy": {"none": 0.7}}, line("row 3", 0, 0.5)]
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    reproduce.main(["--out", str(tmp_path), "--rows", "8", "--seeds", "0", "--table"])
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    assert "70.00" in (tmp_path / "table.md").read_text()
    with pytest.raises(UserError, match="holds none of these trials yet"):
        reproduce.main(["--out", str(tmp_path), "--rows", "7", "--table"])
