"""Trains the article's table with several seeds: python -m train.reproduce --out runs/article.

`train.trials` does the work: what is finished is not repeated, and what was stopped continues.
"""

import argparse
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from googlenet_jax.report import published
from googlenet_jax.report.spread import Spread, show
from train import allocator, console, flags

if TYPE_CHECKING:
    from train.trials import Line, Trial

RESULTS, TABLE, FIGURE, RUNS = "trials.jsonl", "table.md", "table.png", "runs"
# Cheap rows and those that are compared first, the deepest network last.
ORDER = (8, 3, 5, 7, 10, 1, 2, 6, 4, 9)


def main(argv: list[str]) -> None:
    """Trains what is missing, then writes the table and its figure."""
    parser = console.Parser(
        "train.reproduce",
        usage="%(prog)s --out DIR [--rows N [N ...] | all] [--seeds N [N ...]] "
        "[--scale small|full] [--table] [--config.FIELD=VALUE ...]",
        description="Trains the article's rows, each with several seeds, and writes a table and a "
        "figure: mean, deviation and 95 %% interval of the test accuracy at the last epoch. Give "
        "the same command again to continue.",
    )
    parser.add_argument("--out", type=console.local_path, required=True, help="folder")
    parser.add_argument("--rows", nargs="+", default=["all"], help="1 to 10, or all (default)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--scale",
        choices=["small", "full"],
        default="small",
        help="full: the article's. small (default): a quarter of the width, 16x16 pixels, 10,000 "
        "training images, 20 epochs; for two CPU cores",
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments, overrides = parser.parse_known_args(argv)
    trials = plan(arguments, overrides)

    from train.trials import complete, lines_of

    results = arguments.out / RESULTS
    if not arguments.table:
        complete(trials, results, arguments.out / RUNS)
    lines = lines_of(trials, results)
    if not lines:
        raise UserError(f"{results}: holds none of these trials yet")
    text = table(lines)
    fileio.write(arguments.out / TABLE, text.encode())
    fileio.write(arguments.out / FIGURE, figure(lines))
    for line in text.splitlines():
        console.say(line)
    console.say(f"written to {arguments.out / TABLE} and {arguments.out / FIGURE}")


def plan(arguments: argparse.Namespace, overrides: list[str]) -> "list[Trial]":
    """The trials, seed by seed, so that every row has a figure soon.

    Raises:
      UserError: A row or a setting is not allowed.
    """
    rows = [*ORDER] if arguments.rows == ["all"] else arguments.rows
    known = {str(row): row for row in ORDER}
    for row in rows:
        if str(row) not in known:
            raise UserError(f"--rows: {row}: must be 1 to 10, or all")
    # Loads JAX: a mistake on the command line has been reported before.
    from train.trials import SMALL, Trial, change

    found = []
    for seed in arguments.seeds:
        for row in (row for row in ORDER if str(row) in map(str, rows)):
            config, _ = flags.parse([f"--config=cifar10_row{row}"])
            if arguments.scale == "small":
                if config.train.steps:  # row 9 counts in steps
                    share = SMALL["train.epochs"] * 390 / config.train.steps
                    config.optimizer.warmup_epochs *= share
                change(config, SMALL)
            config, _ = flags.apply(change(config, {"seed": seed}), overrides)
            found.append(Trial(f"row {row}", config))
    return found


def accuracies(lines: "Sequence[Line]", arm: str) -> dict[int, float]:
    """Test accuracy in percent by seed; a run that diverged has none."""
    return {
        line["seed"]: 100 * line["test_accuracy"]["none"]
        for line in lines
        if line["arm"] == arm and "diverged" not in line
    }


def table(lines: "Sequence[Line]") -> str:
    """The finished rows as Markdown, with the article's figures beside them."""
    found = [
        "| row | network | optimizer | published | n | mean | deviation | 95 % interval | seeds |",
        "|---:|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in published.ROWS:
        mine = [line for line in lines if line["arm"] == f"row {row.row}"]
        if not mine:
            continue
        values = accuracies(mine, f"row {row.row}")
        cells = [str(row.row), row.network, row.optimizer, f"{row.test_accuracy or 'diverges'}"]
        cells.append(str(len(values)))
        if values:
            spread = Spread.of([*values.values()])
            cells += [f"{spread.mean:.2f}", "" if spread.std is None else f"{spread.std:.2f}"]
            cells.append(show(spread.interval))
        else:
            cells += ["", "", ""]
        each = [f"{seed}: {values[seed]:.2f}" for seed in sorted(values)]
        each += [f"{line['seed']}: diverged" for line in mine if "diverged" in line]
        found.append(f"| {' | '.join(cells)} | {', '.join(each)} |")
    return "\n".join(found) + "\n"


def figure(lines: "Sequence[Line]") -> bytes:
    """Each row's seeds, mean and interval beside the article's figure, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    done = {line["arm"] for line in lines}
    rows = [row for row in published.ROWS if f"row {row.row}" in done]
    for place, row in enumerate(rows):
        values = [*accuracies(lines, f"row {row.row}").values()]
        if values:
            spread = Spread.of(values)
            low, high = spread.interval or (spread.mean, spread.mean)
            axes.plot([place] * len(values), values, "o", color="#56b4e9", label="a seed")
            axes.errorbar(
                place,
                spread.mean,
                [[spread.mean - low], [high - spread.mean]],
                marker="_",
                markersize=16,
                capsize=4,
                color="#0072b2",
                label="mean and its 95 % interval",
            )
        if row.test_accuracy:
            axes.plot(
                place, row.test_accuracy, "D", color="#d55e00", label="published (best epoch)"
            )
    names = [f"row {row.row}\n{row.optimizer}" for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=8)
    axes.set_ylabel("test accuracy at the last epoch, %")
    axes.grid(axis="y", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys())
    png = io.BytesIO()
    drawing.savefig(png, format="png", dpi=110)
    return png.getvalue()


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
