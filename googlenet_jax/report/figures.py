"""The figures of a report as PNG files: charts for a light and for a dark page, and images.

Charts have a transparent background. Colours and markers tell groups of runs apart, line styles
tell splits; `style` has them all.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter
from PIL import Image

from googlenet_jax.errors import printable
from googlenet_jax.report.diagnostics import BINS, Calibration
from googlenet_jax.report.runs import Group
from googlenet_jax.report.style import GROUP_MARKERS, NEUTRAL, SPLIT_LINES, THEMES, Theme

DPI = 144
MAX_LABELLED = 20  # with more classes, the counts in a confusion matrix would be too small to read
MAX_NAMED = 200  # with more classes, so would their names
MAX_LETTERS = 40  # of a name


def chart(draw: Callable[[Figure], None], width: float, height: float) -> dict[str, bytes]:
    """A figure as PNG by theme.

    Args:
      draw: Draws into an empty figure.
      width: In inches.
      height: In inches.
    """
    pictures = {}
    for name, theme in THEMES.items():
        with matplotlib.rc_context(_settings(theme)):
            # Without pyplot, which would keep the figure in memory and may look for a display.
            figure = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=DPI)
            pictures[name] = file.getvalue()
    return pictures


def curves(groups: Sequence[Group], quantity: str) -> dict[str, bytes]:
    """The "loss" or "accuracy" of every split of every run, by epoch."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        splits = [s for s in SPLIT_LINES if any(_points(g, f"{s}_{quantity}") for g in groups)]
        for split in splits:
            _plot(axes, groups, f"{split}_{quantity}", SPLIT_LINES[split])
        if quantity == "loss":
            axes.set(yscale="log", ylabel="loss (nats)")
            for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        else:
            axes.set_ylabel("accuracy")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        lines = [Line2D([], [], color=NEUTRAL, ls=SPLIT_LINES[s], label=s) for s in splits]
        axes.add_artist(axes.legend(handles=lines, loc="best", handlelength=2.5))
        _legend(figure, groups)

    return chart(draw, 6.2, 4.2)


def series(groups: Sequence[Group], names: dict[str, str]) -> dict[str, bytes]:
    """Quantities by epoch, each in its own panel.

    Args:
      groups: The groups of runs.
      names: The label of the vertical axis for each field of metrics.jsonl.
    """

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(len(names), sharex=True))
        for axes, (name, label) in zip(panels, names.items(), strict=True):
            _plot(axes, groups, name, "-")
            axes.set(ylabel=label)
            axes.set_ylim(bottom=0)
            axes.label_outer()
        _legend(figure, groups)

    return chart(draw, 6.2, 2.2 + 1.6 * len(names))


def recalls(
    groups: Sequence[Group],
    class_names: Sequence[str],
    recall: Float[np.ndarray, "groups classes"],
) -> dict[str, bytes]:
    """Recall of the `MAX_LABELLED` hardest classes, the first group's lowest recall at the top."""
    worst = np.argsort(recall[0], kind="stable")[:MAX_LABELLED]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = np.arange(len(worst))
        for i in reversed(range(len(groups))):
            axes.plot(recall[i][worst], rows, color=f"C{i}", marker=_marker(i), ls="none", ms=8)
        axes.set_yticks(rows, [_short(class_names[c]) for c in worst])
        axes.set(xlim=(-0.02, 1.02), xlabel="recall")
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        _legend(figure, groups)

    return chart(draw, 6.2, 1.6 + 0.3 * len(worst))


def confusion(
    matrix: Int[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> dict[str, bytes]:
    """The confusion matrix: colours show shares of the true class, numbers count images.

    The numbers need at most `MAX_LABELLED` classes, the names of the classes `MAX_NAMED`.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    is_small = len(matrix) <= MAX_LABELLED

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        colors = matplotlib.colormaps[matplotlib.rcParams["image.cmap"]]
        axes.imshow(shares, cmap=colors, vmin=0, vmax=1)
        axes.grid(visible=False)
        if len(matrix) <= MAX_NAMED:
            axes.set(xlabel="predicted class", ylabel="true class")
            ticks = np.arange(len(matrix))
            size = 10 if is_small else 500 / len(matrix) / 1.1
            names = [_short(name) for name in class_names]
            axes.set_xticks(ticks, names, rotation=90, fontsize=size)
            axes.set_yticks(ticks, names, fontsize=size)
        else:
            axes.set(xlabel="index of the predicted class", ylabel="index of the true class")
        for truth, guess in np.argwhere(matrix) if is_small else ():
            red, green, blue, _ = colors(shares[truth, guess])
            is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
            text = str(matrix[truth, guess])
            color = "black" if is_bright else "white"
            axes.text(guess, truth, text, ha="center", va="center", color=color, fontsize=9)

    side = 6.2 if is_small else 9.0
    return chart(draw, side, side)


def reliability(calibration: Calibration) -> dict[str, bytes]:
    """The reliability diagram: accuracy by confidence, above the number of images by confidence."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        left = np.arange(BINS) / BINS
        bar: dict[str, Any] = {"width": 1 / BINS, "align": "edge", "edgecolor": NEUTRAL}
        above.bar(left, np.nan_to_num(calibration.accuracy), color="C0", **bar)
        above.plot([0, 1], [0, 1], color="C1", ls="--", label="perfectly calibrated")
        above.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
        above.yaxis.set_major_formatter(PercentFormatter(1.0))
        above.legend(loc="upper left")
        below.bar(left, calibration.count, color=NEUTRAL, **bar)
        below.set(ylabel="images", xlabel="confidence")
        below.xaxis.set_major_formatter(PercentFormatter(1.0))

    return chart(draw, 6.2, 5.2)


def image(pixels: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """An image as PNG: gray, RGB or RGBA, by its channels."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "png")
    return file.getvalue()


def filters(kernel: Float[np.ndarray, "rows columns channels filters"]) -> bytes:
    """A kernel's filters in a grid, each divided by its largest absolute weight; gray is zero."""
    rows, columns, channels, count = kernel.shape
    scaled = kernel / np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), np.finfo(np.float64).tiny)
    colors = np.rint(127.5 * (1 + scaled)).astype(np.uint8).transpose(3, 0, 1, 2)
    colors = np.broadcast_to(colors, (count, rows, columns, 3)) if channels == 1 else colors
    opaque = np.full((count, rows, columns, 1), 255, np.uint8)
    scale = max(1, 42 // rows)
    cells = np.concatenate([colors, opaque], axis=3).repeat(scale, 1).repeat(scale, 2)
    cells = np.pad(cells, ((0, 0), (2, 2), (2, 2), (0, 0)))
    across = min(8, count)
    blank = np.zeros((-count % across, *cells.shape[1:]), np.uint8)
    grid = np.concatenate([cells, blank]).reshape(-1, across, *cells.shape[1:])
    down, _, height, width, _ = grid.shape
    return image(grid.transpose(0, 2, 1, 3, 4).reshape(down * height, across * width, 4))


def _settings(theme: Theme) -> Any:
    """Matplotlib's settings for a theme; color="C0" is then the first group's colour."""
    return {
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.prop_cycle": cycler(color=theme.groups),
        "figure.facecolor": "none",
        "font.size": 11,
        "grid.color": theme.line,
        "image.cmap": theme.colormap,
        "legend.frameon": False,
        "text.parse_math": False,  # a dollar sign in a name starts no formula
    }


def _plot(axes: Axes, groups: Sequence[Group], name: str, style: str) -> None:
    """Draws a line for each run; an epoch without the quantity has no point."""
    # In reverse, so that the best group is drawn over the others.
    for i in reversed(range(len(groups))):
        for points in _points(groups[i], name):
            axes.plot(*points, color=f"C{i}", marker=_marker(i), ms=4, ls=style, lw=1.6, alpha=0.85)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(group: Group, name: str) -> list[tuple[list[int], list[float]]]:
    """Epochs and values of each run that has the quantity."""
    found = []
    for run in group.runs:
        entries = [entry for entry in run.history if name in entry]
        if entries:
            found.append(([e["epoch"] for e in entries], [e[name] for e in entries]))
    return found


def _short(name: str) -> str:
    """A name on one line, short enough to leave room for the figure."""
    return printable(name)[:MAX_LETTERS]


def _marker(index: int) -> str:
    return GROUP_MARKERS[index % len(GROUP_MARKERS)]


def _legend(figure: Figure, groups: Sequence[Group]) -> None:
    handles = []
    for i, group in enumerate(groups):
        seeds = f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else ""
        # The number comes first: matplotlib hides a label that begins with an underscore.
        label = f"{i + 1} {_short(group.name)}{seeds}"
        handles.append(Line2D([], [], color=f"C{i}", marker=_marker(i), label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(2, len(groups)))
