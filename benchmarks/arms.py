"""Arms of an experiment at the small scale: row 8, and row 8 with some settings changed.

`benchmarks.recipes` and `benchmarks.question` are such experiments. Each finished run is one line
of JSON (`train.trials`), and the same command skips it. Experiments may share the file of lines,
so that row 8 is trained once, and two commands may do so at once if they have different seeds.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import cifar10
from googlenet_jax import fileio
from googlenet_jax.config import Config
from googlenet_jax.errors import UserError
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


def accuracies(lines: Sequence[Line]) -> dict[tuple[int, str], dict[int, float]]:
    """Test accuracies in percent by seed, for each length in epochs and arm.

    An arm that was tested with test-time augmentation counts as another one. A run that diverged
    is left out.
    """
    found: dict[tuple[int, str], dict[int, float]] = {}
    for line in lines:
        for tta, accuracy in line.get("test_accuracy", {}).items():
            arm = line["arm"] if tta == "none" else f"{line['arm']}, tested with {tta}"
            found.setdefault((_epochs(line), arm), {})[line["seed"]] = 100 * accuracy
    return found


def _epochs(line: Line) -> int:
    epochs: int = line["settings"].get("train.epochs", Config().train.epochs)
    return epochs


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of an arm.

    Attributes:
      epochs: Its length.
      arm: Its name.
      accuracy: In percent, over its seeds.
      gain: The difference to row 8, seed by seed; None for row 8, and if no seed is shared.
    """

    epochs: int
    arm: str
    accuracy: Spread
    gain: Spread | None


def results(lines: Sequence[Line]) -> list[Result]:
    """Each arm at each length.

    The difference is to row 8 of as many epochs, but of 20 for a shorter run.
    """
    found = accuracies(lines)
    compared = []
    for (epochs, arm), by_seed in sorted(found.items()):
        base = found.get((max(epochs, SMALL["train.epochs"]), BASE), {})
        gain = paired(by_seed, base) if arm != BASE else None
        compared.append(Result(epochs, arm, Spread.of([*by_seed.values()]), gain))
    return compared


def table(lines: Sequence[Line]) -> list[str]:
    """A line of Markdown for each arm and length."""
    rows = ["| epochs | arm | seeds | mean accuracy | difference to row 8 | 95 % interval |"]
    rows.append("|---:|---|---:|---:|---:|---:|")
    for each in results(lines):
        gain = each.gain if each.gain and each.gain.interval else None
        cells = [str(each.epochs), each.arm, str(each.accuracy.n), f"{each.accuracy.mean:.2f}"]
        cells += [f"{gain.mean:+.2f}", show(gain.interval, "+.2f")] if gain else ["", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def gains(lines: Sequence[Line]) -> dict[str, Spread]:
    """Each arm's difference to row 8, by its name, length and number of seeds; largest first."""
    found = {
        f"{each.arm}, {each.epochs} epochs ({each.gain.n})": each.gain
        for each in results(lines)
        if each.gain
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].mean))


def draw(differences: Mapping[str, Spread], meaning: str, path: Path) -> None:
    """Draws differences with their 95 % intervals, the first at the top.

    Those of fewer than three seeds are left out: the interval of two pairs is 12.7 standard errors
    to each side.

    Args:
      differences: In points, by name.
      meaning: What they are.
      path: Of the figure.

    Raises:
      UserError: No difference is left.
      OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    shown = {name: spread for name, spread in differences.items() if spread.n > 2}
    if not shown:
        raise UserError(f"{path}: no difference has three seeds yet")
    figure = Figure(figsize=(9, 1 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, spread in enumerate(shown.values()):
        low, high = spread.interval or (math.nan, math.nan)
        axes.plot([low, high], [place, place], "|-", color="#0072b2")
        axes.plot(spread.mean, place, "o", color="#0072b2")
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    label = f"{meaning}, in points, with its 95 % interval (seeds)"
    figure.supxlabel(label, fontsize="medium")  # the axis may be shorter than that
    axes.grid(axis="x", alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    fileio.write(path, png.getvalue())


def main(
    argv: list[str],
    program: str,
    purpose: str,
    arms: Arms,
    tta: Mapping[str, Sequence[str]],
    differences: Callable[[Sequence[Line]], dict[str, Spread]] = gains,
    meaning: str = "difference to row 8 in test accuracy",
) -> list[Line]:
    """Trains what is missing, then prints the table and draws the figure.

    Args:
      argv: Command-line arguments.
      program: Name of the module.
      purpose: For --help.
      arms: By name; one of them is `BASE`, without changes.
      tta: Kinds of test-time augmentation that an arm's runs are tested with, besides none.
      differences: What the figure shows of the lines.
      meaning: What they are.

    Returns:
      The lines of these arms with these settings, of any length and seed.
    """
    epilog = "Settings of all runs: --config.FIELD=VALUE, such as --config.data.path=PATH."
    parser = console.Parser(program, description=purpose, epilog=epilog)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--runs", type=Path, default=Path("runs/arms"), help="folder of the runs")
    parser.add_argument("--arms", nargs="+", choices=arms, default=[*arms], metavar="ARM")
    parser.add_argument("--epochs", nargs="+", type=int, default=[20])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", type=Path, help="file for a plot of the differences")
    arguments, overrides = parser.parse_known_args(argv)
    if arguments.plot:
        console.check_file(arguments.plot, "--plot")
    trials = [  # for --table, too: they check the settings
        trial(arms, arm, epochs, seed, overrides, tta.get(arm, ()))
        for epochs in arguments.epochs
        for seed in arguments.seeds
        for arm in arguments.arms
    ]
    if not arguments.table:
        complete(trials, arguments.out, arguments.runs)
    lines = [
        line
        for line in read(arguments.out)
        if line["arm"] in arms
        and trial(arms, line["arm"], _epochs(line), line["seed"], overrides).is_in([line])
    ]
    for line in table(lines):
        console.say(line)
    if arguments.plot:
        draw(differences(lines), meaning, arguments.plot)
    return lines
