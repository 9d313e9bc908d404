"""The lines that a run prints."""

import itertools
import time
from typing import Any

import jax
from tqdm import tqdm

from googlenet_jax.config import Config, OptimizerConfig
from googlenet_jax.data import Dataset, Split, Stream
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.training.plan import Plan


class StartUp:
    """How long each part of the start-up takes.

    Args:
      started: When the start-up began, by `time.monotonic`.
    """

    def __init__(self, started: float):
        self._started = self._last = started
        self._laps: list[str] = []

    def lap(self, name: str) -> None:
        """Ends a part; the next one begins now."""
        now = time.monotonic()
        self._laps.append(f"{name} {now - self._last:.1f} s")
        self._last = now

    def describe(self) -> str:
        """The parts and their sum in one line."""
        return f"started in {self._last - self._started:.1f} s: {', '.join(self._laps)}"


def describe_data(dataset: Dataset | Stream) -> str:
    """A data set's name, sizes and origin in one line."""
    sizes = [f"{s.num_examples(dataset):,} {s}" for s in Split if s in dataset.splits]
    found = dataset.provenance
    if "sha256_of" in found:
        return (
            f"{dataset.info.name}, {', '.join(sizes)} images: {found['source']}, sha256 of "
            f"{found['sha256_of']} {found['sha256'][:12]}..."
        )
    official = "official" if found["official"] else "NOT the official data"
    cache = f", decoded in {found['cache']}" if "cache" in found else ""
    return (
        f"{dataset.info.name}, {', '.join(sizes)} images, {official}: {found['source']}, sha256 "
        f"{found['sha256'][:12]}...{cache}"
    )


def describe_model(config: Config, parameters: int) -> str:
    """A network's name, size, precision and devices in one line."""
    devices = jax.devices()[0].device_kind
    if jax.device_count() > 1:
        devices = f"{jax.device_count()} x {devices}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    return (
        f"{config.model.name}, {parameters:,} parameters, {config.model.dtype} with "
        f"{config.model.matmul_precision} precision, on {devices}"
        + (f"; evaluated weights: {config.train.weights}" if config.train.ema_decay else "")
        + (f"; {_describe_trunk(config.optimizer)}" if config.optimizer.trunk else "")
    )


def _describe_trunk(config: OptimizerConfig) -> str:
    factor = config.trunk_factor
    what = f"with {factor:g} times the learning rate" if factor else "frozen"
    return f"trunk up to {config.trunk} {what}; BatchNorm statistics in it {config.trunk_stats}"


def long_run(seconds: float) -> str:
    """A warning that the training steps will take long at the pace of the first ones."""
    hours = seconds / 3600
    time_left = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.1f} days"
    return (
        f"at the pace of the first steps, training takes about {time_left}; it can be stopped and "
        "resumed at any time. Fewer --config.train.epochs, a smaller "
        "--config.model.width_multiplier or a GPU make it shorter"
    )


def epoch_line(history: list[dict[str, Any]], plan: Plan) -> str:
    """The figures of the last epoch, and the time left at the pace so far.

    Loss and accuracy of each split, the time, and what else finds room on a terminal of 80 columns.
    """
    entry = history[-1]
    pace = sum(epoch["seconds"] for epoch in history) / entry["step"]
    parts = [
        f"[{entry['epoch']}/{plan.epochs}]",
        *(
            f"{split} {entry[f'{split}_loss']:.3f} {entry[f'{split}_accuracy']:.2%}"
            for split in Split
            if f"{split}_loss" in entry
        ),
        f"left {tqdm.format_interval(pace * (plan.total_steps - entry['step']))}",
        f"lr {entry['learning_rate']:.3g}",
        f"img/s {entry['images_per_second']:.0f}",
    ]
    widths = itertools.accumulate(len(part) + 1 for part in parts)
    return " ".join(part for part, width in zip(parts, widths, strict=True) if width <= 81)


def describe_result(summary: dict[str, Any], workdir: WorkdirPath, seconds: float) -> str:
    """The final and the best test accuracy, each with its epoch.

    Args:
      summary: The content of summary.json.
      workdir: Of the run.
      seconds: Since the program's start.
    """
    final, best = summary["final"], summary["best"]
    training = tqdm.format_interval(summary["wall_seconds"])
    return (
        f"done in {tqdm.format_interval(seconds)}, with {training} of epochs: test accuracy "
        f"{final['test_accuracy']:.4f} at the end (epoch {final['epoch']}), "
        f"{best['test_accuracy']:.4f} at epoch {best['epoch']}, "
        f"the best on the {summary['best_chosen_on']} split; {workdir}/curves.png"
    )
