"""Arms of an experiment at the small scale: row 8, and row 8 with some settings changed.

`benchmarks.recipes` and `benchmarks.question` are such experiments. Each finished run is one line
of JSON (`train.trials`), and the same command skips it. Experiments may share the file of lines,
so that row 8 is trained once, and two commands may do so at once if they have different seeds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import cifar10
from googlenet_jax.report.spread import Spread, paired, show
from train import console, flags
from train.trials import SMALL, Line, Trial, change, complete, read

Arms = Mapping[str, Mapping[str, Any]]
"""What each arm changes of row 8, by its name."""
BASE = "row 8"


def trial(
    arms: Arms,
    arm: str,
    epochs: int,
    seed: int,
    overrides: Sequence[str] = (),
    tta: Sequence[str] = (),
) -> Trial:
    """A run of an arm; `overrides` are arguments such as --config.data.path=PATH."""
    length = {"train.epochs": epochs, "eval.every_epochs": epochs}
    config = change(cifar10.get_config(), {**SMALL, **length, "seed": seed, **arms[arm]})
    return Trial(arm, flags.apply(config, [*overrides])[0], tuple(tta))


def table(lines: Sequence[Line]) -> list[str]:
    """A line for each arm and length: its mean, and the mean difference to row 8, seed by seed.

    The difference is to row 8 of as many epochs, but of 20 for a shorter run.
    """
    found: dict[tuple[int, str], dict[int, float]] = {}
    for line in lines:
        for tta, accuracy in line.get("test_accuracy", {}).items():
            arm = line["arm"] if tta == "none" else f"{line['arm']}, tested with {tta}"
            key = line["settings"]["train.epochs"], arm
            found.setdefault(key, {})[line["seed"]] = 100 * accuracy
    rows = ["| epochs | arm | seeds | mean accuracy | difference to row 8 | 95 % interval |"]
    rows.append("|---:|---|---:|---:|---:|---:|")
    for (epochs, arm), accuracies in sorted(found.items()):
        base = found.get((max(epochs, SMALL["train.epochs"]), BASE), {})
        gain = paired(accuracies, base) if arm != BASE else None
        difference = interval = ""
        if gain and gain.interval:
            difference = f"{gain.mean:+.2f}"
            interval = show(gain.interval, "+.2f")
        mean = Spread.of([*accuracies.values()]).mean
        rows.append(
            f"| {epochs} | {arm} | {len(accuracies)} | {mean:.2f} | {difference} | {interval} |"
        )
    return rows


def main(
    argv: list[str],
    program: str,
    purpose: str,
    arms: Arms,
    tta: Mapping[str, Sequence[str]],
) -> None:
    """Trains what is missing, then prints the table.

    Args:
      argv: Command-line arguments.
      program: Name of the module.
      purpose: For --help.
      arms: By name; one of them is `BASE`, without changes.
      tta: Kinds of test-time augmentation that an arm's runs are tested with, besides none.
    """
    epilog = "Settings of all runs: --config.FIELD=VALUE, such as --config.data.path=PATH."
    parser = console.Parser(program, description=purpose, epilog=epilog)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--runs", type=Path, default=Path("runs/arms"), help="folder of the runs")
    parser.add_argument("--arms", nargs="+", choices=arms, default=[*arms], metavar="ARM")
    parser.add_argument("--epochs", nargs="+", type=int, default=[20])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments, overrides = parser.parse_known_args(argv)
    if not arguments.table:
        trials = [
            trial(arms, arm, epochs, seed, overrides, tta.get(arm, ()))
            for epochs in arguments.epochs
            for seed in arguments.seeds
            for arm in arguments.arms
        ]
        complete(trials, arguments.out, arguments.runs)
    for line in table([line for line in read(arguments.out) if line["arm"] in arms]):
        console.say(line)
