"""Runs in the real packages of Weights & Biases, MLflow and Trackio, without a network."""

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import types
from pathlib import Path

import pytest
import tiny_run

import train.main
from googlenet_jax.config import Config
from googlenet_jax.errors import UserError
from googlenet_jax.report.loggers import Logger

pytestmark = pytest.mark.usefixtures("compiled_quickly")
HISTORY = [
    {"epoch": n, "step": 8 * n, "train_loss": 1 / n, "train_accuracy": 0.5} for n in (1, 2, 3, 4)
]


# Each returns the epochs and training losses that a package has stored of a run.


def stored_by_wandb(run):
    """Reads the file's chunks: a header, then a sum, a length and a kind before each record."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # finish() may return before the package's own process has written the file
    found = []
    for path in sorted(Path("wandb").glob(f"offline-run-*-{run}/run-{run}.wandb")):
        content, at = path.read_bytes(), 7
        while at < len(content):
            size = int.from_bytes(content[at + 4 : at + 6], "little")
            items = Record.FromString(content[at + 7 : at + 7 + size]).history.item
            values = {"".join(item.nested_key): json.loads(item.value_json) for item in items}
            if values:
                found.append((values["_step"], values["train_loss"]))
            at += 7 + size
    return found


def stored_by_mlflow(run):
    import mlflow

    found = mlflow.MlflowClient().get_metric_history(run, "train_loss")
    return [(metric.step, metric.value) for metric in found]


def stored_by_trackio(run):
    with sqlite3.connect(Path(os.environ["TRACKIO_DIR"], "googlenet_jax.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ?", (run,))
        return [(step, json.loads(values)["train_loss"]) for step, values in rows.fetchall()]


STORED = {"wandb": stored_by_wandb, "mlflow": stored_by_mlflow, "trackio": stored_by_trackio}


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory):
    """The packages' files are kept here; Trackio asks for its folder when it is imported."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {
            **{
                "WANDB_MODE": "offline",
                "WANDB_ERROR_REPORTING": "false",
                "TRACKIO_DIR": str(folder),
                "HF_HUB_OFFLINE": "1",
            },
            **{"MLFLOW_TRACKING_URI": str(folder / "mlruns"), "MLFLOW_ALLOW_FILE_STORE": "true"},
        }.items():
            patch.setenv(name, value)
        yield


def config_with(kind):
    config = Config()
    config.train.logger = kind
    return config.validate()


@pytest.mark.parametrize("package", STORED)
def test_a_resumed_run_goes_on_in_the_same_one_and_no_epoch_is_sent_twice(package, tmp_path):
    pytest.importorskip(package)
    for sizes in ((1, 2), (2, 3, 4), (4,)):  # of the history as the run goes on, in three starts
        with Logger(config_with(package), tmp_path) as logger:
            for size in sizes:
                logger.write(HISTORY[:size])
    saved = json.loads((tmp_path / "logger.json").read_text())
    assert (saved["logger"], saved["epoch"]) == (package, 4)
    expected = [(entry["epoch"], pytest.approx(entry["train_loss"])) for entry in HISTORY]
    assert STORED[package](saved["run"]) == expected


def test_a_run_that_gets_a_logger_later_sends_all_of_its_epochs(tmp_path, tmp_path_factory):
    pytest.importorskip("wandb")
    workdir = shutil.copytree(tiny_run.make(tmp_path_factory), tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "9")
    arguments = [*tiny_run.ARGUMENTS, "--config.train.logger=wandb"]
    train.main.main([*arguments, "--workdir", str(workdir)])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    run = json.loads((workdir / "logger.json").read_text())["run"]
    sent = [(line["epoch"], pytest.approx(line["train_loss"])) for line in lines]
    assert stored_by_wandb(run) == sent
    assert len(lines) == 2


def stand_in(monkeypatch, **functions):
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(**functions))


def test_a_server_that_is_away_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    """What it missed is sent later."""
    seen, is_away = [], True

    def log(values, step):
        if is_away:
            raise ConnectionError("no route to host")
        seen.append(step)

    run = types.SimpleNamespace(id="7", log=log, finish=lambda exit_code: seen.append(exit_code))
    stand_in(monkeypatch, init=lambda **options: run)
    with Logger(config_with("wandb"), tmp_path) as logger:
        logger.write(HISTORY[:1])
        is_away = False
        logger.write(HISTORY[:2])
    assert seen == [1, 2, 0]
    with contextlib.suppress(KeyboardInterrupt), Logger(config_with("wandb"), tmp_path):
        raise KeyboardInterrupt
    assert seen[-1] == 1  # the exit code
    (record,) = caplog.records
    assert "train.logger='wandb': epoch 1 is not sent yet: no route" in record.getMessage()


def test_a_package_that_is_missing_or_cannot_start(tmp_path, monkeypatch):
    def init(**options):
        raise RuntimeError("api_key not configured")

    stand_in(monkeypatch, init=init)
    with pytest.raises(UserError, match=r"train\.logger='wandb': cannot start: api_key not"):
        Logger(config_with("wandb"), tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"train\.logger='wandb': needs pip install wandb"):
        Logger(config_with("wandb"), tmp_path)
    with pytest.raises(UserError, match=r"train\.logger='csv': must be one of none, wandb"):
        config_with("csv")
    assert not [*tmp_path.iterdir()]
