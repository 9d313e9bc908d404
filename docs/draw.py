"""Draws the pictures of docs/architecture.md from the code: `python docs/draw.py`.

rooms.png shows the rooms and what they import, read from the sources. batch.png shows the way of a
batch through one training step of configs/cifar10.py, with shapes from `models.layer_table`.
"""

import ast
import itertools
import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from configs import cifar10
from googlenet_jax import data
from googlenet_jax.models.layer_table import layer_table

ROOT = Path(__file__).parents[1]
INK, ROOM, PROGRAM, DEVICE = "#1f2937", "#dbeafe", "#fef3c7", "#dcfce7"


def modules() -> dict[str, Path]:
    """The path of each module by its dotted name; a package has the name of its folder.

    Without `__main__`, which starts the programs by their names.
    """
    tops = ("googlenet_jax", "train", "configs")
    paths = [path for top in tops for path in ROOT.glob(f"{top}/**/*.py")]
    paths = [path for path in paths if path.stem != "__main__"]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imports() -> dict[str, set[str]]:
    """The modules that each module imports: at its top, in functions, and for types."""
    known = modules()
    found: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                whole = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                found[name] |= whole or {node.module}
    return found


def room(name: str) -> str:
    """The folder of a module, or the module itself where it has none; "load" is the package's."""
    package, _, rest = name.partition(".")
    return package if package != "googlenet_jax" else rest.partition(".")[0] or "load"


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {}
    for user, names in imports().items():
        found.setdefault(room(user), set()).update({room(used) for used in names} - {room(user)})
    return found


def levels(uses: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms stand below each room at most: 0 for one that imports nothing."""

    def level(name: str) -> int:
        return max((1 + level(used) for used in uses[name]), default=0)

    return {name: level(name) for name in uses}


def canvas(size: tuple[float, float], top: float) -> tuple[plt.Figure, plt.Axes]:
    """A figure of that size in inches, with x from 0 to 1 and y from 0 to `top`."""
    figure, axes = plt.subplots(figsize=size)
    axes.set(xlim=(0, 1), ylim=(-0.6, top + 0.6))
    axes.axis("off")
    return figure, axes


def box(axes: plt.Axes, x: float, y: float, title: str, text: str, color: str) -> plt.Text:
    """A box with a bold title and a smaller text, centred at (x, y)."""
    title = title.replace("_", r"\_").replace(" ", "~")
    frame = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": INK}
    whole = f"$\\bf{{{title}}}$" + (f"\n{text}" if text else "")
    return axes.text(x, y, whole, ha="center", va="center", fontsize=8, color=INK, bbox=frame)


def arrow(axes: plt.Axes, start: plt.Text, end: plt.Text) -> None:
    """An arrow from the bottom of a box to the top of another."""
    upper, lower = (
        text.get_bbox_patch().get_window_extent().transformed(axes.transData.inverted())
        for text in (start, end)
    )
    tip, tail = (lower.x0 + lower.width / 2, lower.y1), (upper.x0 + upper.width / 2, upper.y0)
    style = {"arrowstyle": "-|>", "color": "#64748b", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", tip, tail, arrowprops=style, zorder=0)


def draw_rooms(path: Path) -> None:
    """Draws each room above those that it imports, without arrows that follow from others."""
    left_out = {"configs", "version"}
    uses = {name: used - left_out for name, used in rooms().items() if name not in left_out}
    level, boxes = levels(uses), {}
    figure, axes = canvas((9, 9), max(level.values()))
    for height in range(max(level.values()) + 1):
        row = sorted(name for name in uses if level[name] == height)
        for number, name in enumerate(row):
            inside = [each.rpartition(".")[2] for each in modules() if room(each) == name]
            inside = sorted({*inside} - {name, "googlenet_jax"})
            lines = [", ".join(inside[i : i + 4]) for i in range(0, len(inside), 4)]
            color = PROGRAM if name == "train" else ROOM
            x = (number + 0.5) / len(row)
            boxes[name] = box(axes, x, height, name, "\n".join(lines), color)
    figure.canvas.draw()  # gives the boxes their sizes
    for name, used in uses.items():
        for other in used:
            if not any(other in uses[between] for between in used):
                arrow(axes, boxes[name], boxes[other])
    save(figure, path)


def draw_batch(path: Path) -> None:
    """Draws the way from bytes on the device to a new state."""
    config = cifar10.get_config()
    info, size = data.describe(config.data), config.train.batch_size
    layers = layer_table(config.model, info.image_shape, info.num_classes)
    outputs = {row.name.partition(".")[0]: row.output_shape for row in layers}
    blocks = [name for name in outputs if name.startswith("inception")]
    features = layers[-1].input_shape

    def shape(*sizes: int) -> str:
        return " x ".join(map(str, (size, *sizes)))

    steps = [
        ("order", f"{size} positions in this epoch's permutation", DEVICE),
        ("images[chosen]", f"uint8, {shape(math.prod(info.image_shape))}", DEVICE),
        ("augment", f"pad {config.data.pad}, crop, mirror: {shape(*info.image_shape)}", ROOM),
        ("normalize", f"float32, {shape(*info.image_shape)}", ROOM),
        *[(name, shape(*outputs[name]), PROGRAM) for name in outputs if name.startswith("conv")],
        (f"{blocks[0]} ... {blocks[-1]}", shape(*outputs[blocks[-1]][:2], *features), PROGRAM),
        ("mean over positions, dropout", shape(*features), PROGRAM),
        ("fc", f"logits, {shape(info.num_classes)}", PROGRAM),
        ("training_loss", f"{size} cross-entropies, and their mean", DEVICE),
        ("value_and_grad", "the gradient of the mean, for every parameter", DEVICE),
        ("optimizer", "weight decay, momentum, learning rate: the updates", DEVICE),
        ("TrainState", "step + 1, parameters, BatchNorm statistics, momentum, metrics", DEVICE),
    ]
    figure, axes = canvas((6, 10), len(steps) - 1)
    boxes = [box(axes, 0.5, len(steps) - y, *step) for y, step in enumerate(steps, 1)]
    figure.canvas.draw()
    for pair in itertools.pairwise(boxes):
        arrow(axes, *pair)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Writes a figure."""
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw_rooms(ROOT / "docs" / "rooms.png")
    draw_batch(ROOT / "docs" / "batch.png")
