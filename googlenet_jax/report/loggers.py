"""The scalars of metrics.jsonl in Weights & Biases, MLflow or Trackio, beside TensorBoard's events.

Each package takes its server, account, project and offline mode from its own environment variables.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any, Self, TypeAlias

from googlenet_jax import fileio, parallel
from googlenet_jax.config import Config
from googlenet_jax.errors import UserError, one_line
from googlenet_jax.fileio import WorkdirPath

PROJECT = "googlenet_jax"
FILE = "logger.json"

Opened: TypeAlias = tuple[str, Callable[[dict[str, float], int], Any], Callable[[bool], Any]]
"""A package's name of the run, a function to log an epoch, and one to end, given success."""


class Logger:
    """Sends a run's scalars to the package that `train.logger` names, each epoch once.

    The file logger.json in the working directory keeps which of the package's runs it is and the
    last epoch that was sent, so a resumed run goes on with it. Use it as a context manager. The
    first process of a run logs; the others do nothing, nor does any with "none".

    Args:
      config: Of the run.
      workdir: Of the run.

    Raises:
      UserError: The package is not installed, or cannot start.
    """

    def __init__(self, config: Config, workdir: WorkdirPath):
        self._kind, self._file = config.train.logger, workdir / FILE
        self._run, self._epoch = "", 0
        self._log: Callable[[dict[str, float], int], Any] | None = None
        if self._kind == "none" or not parallel.is_first_process():
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = fileio.read_json(self._file)
            if saved["logger"] == self._kind:  # with another one, all epochs are sent anew
                self._run, self._epoch = str(saved["run"]), int(saved["epoch"])
        settings = {name: value for name, _, value in config.options()}
        opening = {"wandb": _open_wandb, "mlflow": _open_mlflow, "trackio": _open_trackio}
        try:
            opened = opening[self._kind](self._run, workdir.name, settings)
        except ImportError as error:
            raise UserError(
                f"train.logger={self._kind!r}: needs pip install {self._kind}: {error}"
            ) from error
        except Exception as error:  # each package has its own errors
            raise UserError(f"train.logger={self._kind!r}: cannot start: {error}") from error
        self._run, self._log, self._end = opened
        self._save()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if self._log:
            self._end(kind is None)

    def write(self, history: list[dict[str, Any]]) -> None:
        """Sends the epochs of a run that have not been sent yet.

        What cannot be sent is sent with the next epoch, or by the next start; a warning says so.
        """
        try:
            for entry in history[self._epoch :] if self._log else []:
                values = {k: v for k, v in entry.items() if k not in ("epoch", "step")}
                self._log(values, entry["epoch"])  # type: ignore[misc]
                self._epoch = entry["epoch"]
                self._save()
        except Exception as error:  # a server that is away must not end a run
            logging.getLogger(__name__).warning(
                "train.logger=%r: epoch %d is not sent yet: %s",
                *(self._kind, self._epoch + 1, one_line(error)),
            )

    def _save(self) -> None:
        sent = {"logger": self._kind, "run": self._run, "epoch": self._epoch}
        fileio.write_json(self._file, sent)


def _open_wandb(run: str, name: str, settings: dict[str, Any]) -> Opened:
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    opened = wandb.init(project=project, id=run or None, name=name, config=settings, resume="allow")
    return (
        opened.id,
        lambda values, epoch: opened.log(values, step=epoch),
        lambda is_done: opened.finish(exit_code=int(not is_done)),
    )


def _open_mlflow(run: str, name: str, settings: dict[str, Any]) -> Opened:
    import mlflow

    opened = mlflow.start_run(run_id=run or None, run_name=None if run else name)
    if not run:  # they cannot be changed later, and a resumed run may have more epochs
        mlflow.log_params(settings)
    return (
        opened.info.run_id,
        lambda values, epoch: mlflow.log_metrics(values, step=epoch),
        lambda is_done: mlflow.end_run("FINISHED" if is_done else "FAILED"),
    )


def _open_trackio(run: str, name: str, settings: dict[str, Any]) -> Opened:
    import trackio

    run = run or f"{name}-{secrets.token_hex(4)}"  # trackio knows runs by their names
    opened = trackio.init(project=PROJECT, name=run, config=settings, resume="allow")
    return (
        run,
        lambda values, epoch: opened.log(values, step=epoch),
        lambda is_done: opened.finish(),
    )
