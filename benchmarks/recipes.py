"""What each ingredient of a recipe gains, at a scale that two CPU cores can measure.

    python -m benchmarks.recipes --data-path cifar-10-binary.tar.gz --out docs/recipes.jsonl

trains GoogLeNet at a quarter of its width on 10,000 of CIFAR-10's training images, averaged down to
16x16 pixels, with row 8's recipe and with one ingredient added to it, and tests the last epoch on
all 10,000 test images. Each finished run is one line of JSON. The same command skips what is
there; `--table` prints the lines as a table. Two commands may share a file: give them other seeds.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from scipy import stats

from configs import cifar10
from googlenet_jax import data
from googlenet_jax.config import TTA, Config
from googlenet_jax.data import Dataset, Split
from googlenet_jax.storage.summary import environment
from googlenet_jax.training import feeds, state
from googlenet_jax.training.state import Keys

Changes = dict[str, Any]
BASE: Changes = {}
ARMS: dict[str, Changes] = {
    "row 8": BASE,
    "Nesterov": {"optimizer.nesterov": True},
    "moving average 0.99": {"train.ema_decay": 0.99},
    "cutout 4": {"data.cutout": 4},
    "mixup 0.2": {"data.mixup": 0.2},
    "CutMix 1.0": {"data.cutmix": 1.0},
    "alternating mirror": {"data.alternate_flip": True},
    "decay of kernels only": {"optimizer.decay_kernels_only": True},
    "linear, warm-up 4": {
        "optimizer.schedule": "linear",
        "optimizer.schedule_per": "step",
        "optimizer.warmup_epochs": 4.0,
    },
    "one cycle": {"optimizer.schedule": "one_cycle", "optimizer.schedule_per": "step"},
    "rate x 8 for BatchNorm's biases": {"optimizer.norm_bias_factor": 8.0},
    "label smoothing 0.1": {"train.label_smoothing": 0.1},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: an arm, a number of epochs, a seed."""

    arm: str
    epochs: int
    seed: int


def config_of(run: Run, data_path: str) -> Config:
    """Row 8 at the small scale, with the changes of the arm."""
    config = cifar10.get_config()
    config.seed, config.train.epochs = run.seed, run.epochs
    config.model.width_multiplier = 0.25
    config.data.path, config.data.unofficial = data_path, True
    config.data.downscale, config.data.max_train_examples = 2, 10_000
    config.data.pad = 2  # 4 of 32 pixels
    for name, value in ARMS[run.arm].items():
        group, _, field = name.partition(".")
        setattr(getattr(config, group), field, value)
    return config.validate()


def train(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Trains to the last epoch; returns what it measured."""
    train_state = state.initialize(Keys.of(config.seed).init, config, dataset.info)
    with contextlib.closing(feeds.create(dataset, config)) as feed:
        feed.compile(train_state)
        started = time.monotonic()
        for _ in range(feed.plan.epochs):
            train_state = feed.train(train_state, feed.plan.steps_per_epoch)
        seen = train_state.metrics.compute()  # waits for the last step
        seconds = time.monotonic() - started
        found = {tta: feed.evaluate(train_state, Split.TEST, tta).compute() for tta in TTA}
    return {
        "test_accuracy": {tta: each["accuracy"] for tta, each in found.items()},
        "test_loss": found["none"]["loss"],
        "train_loss": seen["loss"],
        "train_accuracy": seen["accuracy"],
        "seconds": round(seconds, 1),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """One line per arm and length: its mean, and the mean difference to row 8 of the same seeds."""
    found: dict[tuple[int, str], dict[int, float]] = {}
    for line in lines:
        for tta, accuracy in line["test_accuracy"].items():
            if tta == "none" or line["arm"] == "row 8":
                arm = line["arm"] if tta == "none" else f"row 8, tested with {tta}"
                found.setdefault((line["epochs"], arm), {})[line["seed"]] = 100 * accuracy
    rows = ["| epochs | arm | seeds | mean accuracy | difference to row 8 | 95 % interval |"]
    rows.append("|---:|---|---:|---:|---:|---:|")
    for (epochs, arm), accuracies in sorted(found.items()):
        base = found.get((epochs, "row 8"), {})
        pairs = [accuracies[seed] - base[seed] for seed in sorted(accuracies.keys() & base.keys())]
        mean = statistics.mean(accuracies.values())
        difference = interval = ""
        if arm != "row 8" and len(pairs) > 1:
            gain = statistics.mean(pairs)
            half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs)
            half /= math.sqrt(len(pairs))
            difference, interval = f"{gain:+.2f}", f"{gain - half:+.2f} to {gain + half:+.2f}"
        rows.append(
            f"| {epochs} | {arm} | {len(accuracies)} | {mean:.2f} | {difference} | {interval} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Trains what is missing, or prints the table."""
    parser = argparse.ArgumentParser("benchmarks.recipes", description=__doc__.splitlines()[0])
    parser.add_argument("--data-path", default="", help="CIFAR-10, if it is not TFDS's")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], metavar="ARM")
    parser.add_argument("--epochs", nargs="+", type=int, default=[20])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        wanted = [
            Run(arm, epochs, seed)
            for epochs in arguments.epochs
            for seed in arguments.seeds
            for arm in arguments.arms
        ]
        dataset = data.load(config_of(wanted[0], arguments.data_path).data, seed=0)
        for run in wanted:
            if any(dataclasses.asdict(run).items() <= line.items() for line in read(arguments.out)):
                continue
            found = train(config_of(run, arguments.data_path), dataset)
            line = dataclasses.asdict(run) | found | {"data": dataset.provenance["sha256"]}
            with arguments.out.open("a") as file:
                file.write(json.dumps(line | {"versions": environment()["versions"]}) + "\n")
            print(f"{run}: {found['test_accuracy']}, {found['seconds']} s", flush=True)
    print(table(read(arguments.out)))


if __name__ == "__main__":
    main()
