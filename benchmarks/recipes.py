"""What each ingredient of a recipe gains, at a scale that two CPU cores can measure.

    python -m benchmarks.recipes --data-path cifar-10-binary.tar.gz --out docs/recipes.jsonl

trains GoogLeNet at a quarter of its width on 10,000 of CIFAR-10's training images, averaged down to
16x16 pixels, with row 8's recipe and with one ingredient added to it, and tests the last epoch on
all 10,000 test images. Each finished run is one line of JSON (`train.trials`), and the same command
skips it; `--table` prints the lines as a table. Two commands may share a file: give them other
seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import cifar10
from googlenet_jax.config import TTA
from googlenet_jax.report.spread import Spread, paired
from train import allocator, console
from train.trials import SMALL, Line, Trial, change, complete, read

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


def trial(arm: str, epochs: int, seed: int, data_path: str) -> Trial:
    """Row 8 at the small scale, with the changes of the arm."""
    length = {"train.epochs": epochs, "eval.every_epochs": epochs}
    changes = SMALL | length | {"seed": seed, "data.path": data_path} | ARMS[arm]
    return Trial(arm, change(cifar10.get_config(), changes), TTA[1:])


def table(lines: Sequence[Line]) -> str:
    """One line per arm and length: its mean, and the mean difference to row 8 of the same seeds."""
    found: dict[tuple[int, str], dict[int, float]] = {}
    for line in lines:
        for tta, accuracy in line["test_accuracy"].items():
            if tta == "none" or line["arm"] == "row 8":
                arm = line["arm"] if tta == "none" else f"row 8, tested with {tta}"
                key = line["settings"]["train.epochs"], arm
                found.setdefault(key, {})[line["seed"]] = 100 * accuracy
    rows = ["| epochs | arm | seeds | mean accuracy | difference to row 8 | 95 % interval |"]
    rows.append("|---:|---|---:|---:|---:|---:|")
    for (epochs, arm), accuracies in sorted(found.items()):
        gain = paired(accuracies, found.get((epochs, "row 8"), {})) if arm != "row 8" else None
        difference = interval = ""
        if gain and gain.interval:
            difference = f"{gain.mean:+.2f}"
            interval = f"{gain.interval[0]:+.2f} to {gain.interval[1]:+.2f}"
        mean = Spread.of([*accuracies.values()]).mean
        rows.append(
            f"| {epochs} | {arm} | {len(accuracies)} | {mean:.2f} | {difference} | {interval} |"
        )
    return "\n".join(rows)


def main(argv: list[str]) -> None:
    """Trains what is missing, or prints the table."""
    parser = console.Parser("benchmarks.recipes", description=__doc__.splitlines()[0])
    parser.add_argument("--data-path", default="", help="CIFAR-10, if it is not TFDS's")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="their folder")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], metavar="ARM")
    parser.add_argument("--epochs", nargs="+", type=int, default=[20])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args(argv)
    if not arguments.table:
        trials = [
            trial(arm, epochs, seed, arguments.data_path)
            for epochs in arguments.epochs
            for seed in arguments.seeds
            for arm in arguments.arms
        ]
        complete(trials, arguments.out, arguments.runs)
    for line in table(read(arguments.out)).splitlines():
        console.say(line)


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
