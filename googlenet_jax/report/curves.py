"""The training curves of a run as a PNG file."""

import io
from typing import Any

from googlenet_jax import fileio
from googlenet_jax.errors import printable
from googlenet_jax.fileio import WorkdirPath


def draw_curves(history: list[dict[str, Any]], path: WorkdirPath, title: str) -> None:
    """Draws loss, accuracy and learning rate by epoch into a PNG file.

    Args:
      history: The lines of metrics.jsonl. An epoch that was not evaluated leaves a gap.
      path: The PNG file.
      title: Printed above the curves.
    """
    # Imported here because it is slow, and a run needs it only at its end. Without pyplot, which
    # would keep the figure in memory and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title), parse_math=False)  # a dollar sign starts no formula
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        for split in ("train", "valid", "test"):
            name = f"{split}_{quantity}"
            points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=split)
        axes.legend()
    rate.plot([e["epoch"] for e in history], [e["learning_rate"] for e in history], color="gray")
    loss.set(title="loss (nats)", yscale="log")
    accuracy.set_title("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    rate.set_title("learning rate at the epoch's last step")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    fileio.write(path, png.getvalue())
