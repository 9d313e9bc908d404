"""Trials: runs that are compared with each other, trained one after another.

Each finished trial is a line of JSON, and is not repeated. Its working directory is kept, so a
trial that was stopped continues where it was.
"""

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
from tqdm import tqdm

from googlenet_jax import data, parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Split
from googlenet_jax.errors import DataError, DivergedError, UserError, one_line
from googlenet_jax.models import layer_table
from googlenet_jax.storage.summary import environment
from googlenet_jax.training import feeds, memory, state
from googlenet_jax.training.plan import Plan
from googlenet_jax.training.state import Keys
from train import allocator, console
from train.evaluate import evaluate
from train.loop import keep_programs, train_and_evaluate

Line = dict[str, Any]
PLACE = {"seed", "data.path", "train.compilation_cache", "train.steps_per_call"}
"""Settings that are not part of what a trial measures; the seed has a field of its own."""

SMALL = {
    "model.width_multiplier": 0.25,
    "data.downscale": 2,
    "data.pad": 2,
    "data.max_train_examples": 10_000,
    "data.unofficial": True,
    "train.steps": 0,
    "train.epochs": 20,
    "eval.every_epochs": 20,
}
"""The scale that two CPU cores can train: a run takes a quarter of an hour on one of them."""


def change(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns the config itself after setting the fields with these dotted names.

    Raises:
      ConfigError: A value is not allowed.
    """
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        setattr(getattr(config, group) if group else config, field, value)
    return config.validate()


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
      arm: What is tried; the trials of an arm differ in their seed and their length.
      config: Of the run.
      tta: Kinds of test-time augmentation to test with, besides none.
    """

    arm: str
    config: Config
    tta: tuple[str, ...] = ()

    @property
    def identity(self) -> Line:
        """What tells a trial from others: its arm, its seed, its settings."""
        defaults = {name: value for name, _, value in Config().options()}
        settings = {
            name: value
            for name, _, value in self.config.options()
            if value != defaults[name] and name not in PLACE
        }
        return {"arm": self.arm, "seed": self.config.seed, "settings": settings}

    @property
    def name(self) -> str:
        """For lines and for the working directory."""
        length = self.config.train.steps or self.config.train.epochs
        unit = "steps" if self.config.train.steps else "epochs"
        return f"{self.arm}, {length} {unit}, seed {self.config.seed}"

    def is_in(self, lines: Sequence[Line]) -> bool:
        """Whether one of the lines is this trial's, with all that it is tested with."""
        identity = self.identity.items()
        return any(
            identity <= line.items()
            and ("diverged" in line or {*self.tta} <= line["test_accuracy"].keys())
            for line in lines
        )


def read(path: Path) -> list[Line]:
    """The lines of finished trials.

    Raises:
      DataError: The file cannot be read, or a line is no trial's.
    """
    if not path.exists():
        return []
    try:
        texts = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            _ = line["arm"], line["seed"], dict(line["settings"])
            _ = "diverged" in line or float(line["test_accuracy"]["none"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not a trial's") from error
        lines.append(line)
    return lines


def lines_of(trials: Sequence[Trial], path: Path) -> list[Line]:
    """The lines that are one of these trials'; see `read`."""
    return [line for line in read(path) if any(trial.is_in([line]) for trial in trials)]


def append(path: Path, line: Line) -> None:
    """Adds the line of a finished trial.

    Raises:
      UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error


def complete(trials: Sequence[Trial], path: Path, folder: Path) -> None:
    """Trains the trials that have no line yet, in their order.

    Args:
      trials: All that are wanted.
      path: File of JSON lines; each finished trial adds one.
      folder: For the working directories.

    Raises:
      UserError: A config, the data or a file cannot be used.
      SystemExit: A signal came, and the run was saved.
    """
    allocator.keep_memory()
    if all(trial.config.train.compilation_cache for trial in trials):
        keep_programs()
    missing = [trial for trial in trials if not trial.is_in(read(path))]
    if missing:
        pace = _Pace.measure(missing[0].config)
    while missing:
        trial = missing[0]
        left = tqdm.format_interval(sum(pace.seconds(each.config) for each in missing))
        console.say(
            f"{len(trials) - len(missing)} of {len(trials)} trials are done; the others take about "
            f"{left} of training, by the speed of the first steps"
        )
        console.say(f"== {trial.name}")
        line = run(trial, folder / re.sub(r"[^\w.]+", "-", trial.name))
        append(path, line)
        # Programs of a CPU take thousands of memory maps, of which Linux gives a process 65,530.
        jax.clear_caches()
        lines = read(path)  # another process may have added some
        missing = [each for each in missing if not each.is_in(lines)]
    console.say(f"all {len(trials)} trials are done")


def run(trial: Trial, workdir: Path) -> Line:
    """Trains a trial, or continues it; returns its line."""
    try:
        summary = train_and_evaluate(trial.config, workdir)
    except DivergedError as error:
        return trial.identity | {"diverged": one_line(error)} | environment()
    final = summary["final"]
    tested = {"none": final["test_accuracy"]} | {
        tta: evaluate(workdir, "latest", Split.TEST, "", tta)["accuracy"] for tta in trial.tta
    }
    return trial.identity | {
        "test_accuracy": tested,
        **{name: final[name] for name in ("test_loss", "train_loss", "train_accuracy", "step")},
        "seconds": round(summary["wall_seconds"], 1),
        "data": summary["data"]["sha256"],
        **environment(),
    }


@dataclasses.dataclass(frozen=True)
class _Pace:
    """How fast this machine trains.

    Attributes:
      seconds_per_mac: Time of a multiply-accumulate of the forward pass, all else included.
      num_examples: Training images.
      macs: Of each network that was asked for, for one image: tracing one takes seconds, and many
        trials share one.
    """

    seconds_per_mac: float
    num_examples: int
    macs: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def measure(cls, config: Config) -> Self:
        """Takes a few steps of a run."""
        mesh = parallel.create_mesh()
        parallel.check_batch_size(config.train.batch_size, mesh, config.train.accumulate)
        dataset = data.load(config.data, config.seed)
        key = parallel.replicate(Keys.of(config.seed).init, mesh)
        train_state = state.initialize(key, config, dataset.info)
        with (
            contextlib.closing(feeds.create(dataset, config, mesh)) as feed,
            memory.told(feed, config),
        ):
            feed.compile(train_state)
            train_state = jax.block_until_ready(feed.train(train_state, 1))  # allocates memory
            started = time.monotonic()
            jax.block_until_ready(feed.train(train_state, 3))
            seconds = (time.monotonic() - started) / 3
        unit = cls(1.0, Split.TRAIN.num_examples(dataset))
        return dataclasses.replace(unit, seconds_per_mac=seconds / unit.macs_per_step(config))

    def macs_per_step(self, config: Config) -> int:
        """Multiply-accumulates of a step's forward pass."""
        info = data.describe(config.data)
        network = config.model, info.image_shape, info.num_classes
        if repr(network) not in self.macs:
            self.macs[repr(network)] = sum(row.macs for row in layer_table.layer_table(*network))
        return self.macs[repr(network)] * config.train.batch_size

    def seconds(self, config: Config) -> float:
        """What a whole run takes, evaluation apart, as if all networks multiplied equally fast."""
        steps = Plan.of(config, self.num_examples).total_steps
        return self.seconds_per_mac * self.macs_per_step(config) * steps
