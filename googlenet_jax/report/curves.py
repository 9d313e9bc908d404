"""The training curves as a picture."""

import io
from typing import Any

from googlenet_jax import fileio
from googlenet_jax.errors import printable
from googlenet_jax.fileio import WorkdirPath

SPLITS = ("train", "valid", "test")


def draw_curves(history: list[dict[str, Any]], path: WorkdirPath, title: str) -> None:
    """Draws loss, accuracy and learning rate by epoch into a PNG file.

    Args:
      history: lines of metrics.jsonl; fields that an epoch lacks leave a gap.
      path: of the picture.
      title: above it.
    """
    # Imported here because it takes longer than the picture, and no run needs it before its end;
    # the figure is made without pyplot, which would keep it and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title), parse_math=False)  # a dollar starts no formula
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        for split in SPLITS:
            points = [
                (entry["epoch"], entry[f"{split}_{quantity}"])
                for entry in history
                if f"{split}_{quantity}" in entry
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=split)
        axes.legend()
    rate.plot([e["epoch"] for e in history], [e["learning_rate"] for e in history], color="gray")
    loss.set(title="loss (nats)", yscale="log")
    accuracy.set_title("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    rate.set_title("learning rate of the epoch's last step")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    fileio.write(path, picture.getvalue())
