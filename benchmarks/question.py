"""Why does GoogLeNet beat pre-activation ResNet-164? Recipe, parameters, work and depth, apart.

    python -m benchmarks.question --out docs/question.jsonl --seeds 0 1 2 --config.data.path=PATH

trains at the small scale of `train.trials`, with equal numbers of steps:

- both networks with either weight decay (GoogLeNet's 5e-4, the ResNet's 1e-4), either schedule (a
  cosine; the ResNet's steps, with its warm-up), and initial weights over the fan-in or over the
  fan-out. All else is row 8's, so that "row 8" is GoogLeNet with its own recipe;
- both with 25 times either weight decay, a cosine and fan-in. How much a whole run decays is the
  product of learning rate, weight decay and steps, and these runs have a 25th of row 8's steps;
- GoogLeNet narrowed to the ResNet's number of parameters, and to its number of
  multiply-accumulates; the ResNet widened to GoogLeNet's number of parameters; a ResNet of about
  GoogLeNet's depth, with its number of parameters; each with 5e-4, cosine and fan-in.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from benchmarks import arms
from googlenet_jax.report.spread import Spread, paired, show
from train import allocator, console
from train.trials import SMALL, Line

Changes = dict[str, Any]
Labels = tuple[str, str, str, str]
RESNET: Changes = {"model.name": "preact_resnet", "model.conv_bias": False}
STEPS: Changes = {
    "optimizer.schedule": "step",
    "optimizer.schedule_per": "step",
    "optimizer.decay_at": "0.5,0.75",
    "optimizer.warmup": "constant",
    "optimizer.warmup_epochs": 20 * 400 / 64_000,  # the same share of the steps as in row 9
}
FAN_IN: Changes = {"model.init": "fan_in"}
NETWORKS: dict[str, Changes] = {"GoogLeNet": {}, "ResNet-164": RESNET}
DECAYS: dict[str, Changes] = {"5e-4": {}, "1e-4": {"optimizer.weight_decay": 1e-4}}
SCALED_DECAYS: dict[str, Changes] = {
    "0.0125": {"optimizer.weight_decay": 0.0125},
    "0.0025": {"optimizer.weight_decay": 0.0025},
}
SCHEDULES: dict[str, Changes] = {"cosine": {}, "steps": STEPS}
INITS: dict[str, Changes] = {"fan-in": FAN_IN, "fan-out": {}}
FACTORIAL: dict[Labels, Changes] = {
    (network, decay, schedule, init): (
        NETWORKS[network] | DECAYS[decay] | SCHEDULES[schedule] | INITS[init]
    )
    for init, decay, schedule, network in itertools.product(INITS, DECAYS, SCHEDULES, NETWORKS)
}
"""What each choice of the four factors changes of row 8."""
SCALED: dict[Labels, Changes] = {
    (network, decay, "cosine", "fan-in"): NETWORKS[network] | SCALED_DECAYS[decay] | FAN_IN
    for decay, network in itertools.product(SCALED_DECAYS, NETWORKS)
}
CELLS = FACTORIAL | SCALED


def name(cell: Labels) -> str:
    """The arm of a cell."""
    return ", ".join(cell) if CELLS[cell] else arms.BASE


ARMS: arms.Arms = {
    **{name(cell): changes for cell, changes in CELLS.items()},
    "GoogLeNet, the ResNet's parameters": FAN_IN | {"model.width_multiplier": 0.134},
    "GoogLeNet, the ResNet's multiplications": FAN_IN | {"model.width_multiplier": 0.099},
    "ResNet-164, GoogLeNet's parameters": FAN_IN | RESNET | {"model.width_multiplier": 0.47},
    "ResNet-20, GoogLeNet's parameters": (
        FAN_IN | RESNET | {"model.depth": 20, "model.width_multiplier": 1.32}
    ),
}
SIGNS = {
    label: sign
    for factor in (NETWORKS, DECAYS, SCALED_DECAYS, SCHEDULES, INITS)
    for label, sign in zip(factor, (1, -1), strict=True)
}
EFFECTS: dict[str, tuple[list[Labels], tuple[int, ...]]] = {
    # At either kind of initial weights, since runs spread far more at one than at the other.
    **{
        f"{effect}, {init}": ([cell for cell in FACTORIAL if init in cell], positions)
        for init in INITS
        for effect, positions in {
            "GoogLeNet rather than ResNet-164": (0,),
            "weight decay 5e-4 rather than 1e-4": (1,),
            "cosine rather than steps": (2,),
            "what GoogLeNet gains more from 5e-4": (0, 1),
            "what GoogLeNet gains more from the cosine": (0, 2),
            "what the cosine gains more with 5e-4": (1, 2),
        }.items()
    },
    "fan-in rather than fan-out": ([*FACTORIAL], (3,)),
    "what GoogLeNet gains more from fan-in": ([*FACTORIAL], (0, 3)),
    "GoogLeNet rather than ResNet-164, scaled decay": ([*SCALED], (0,)),
    "weight decay 0.0125 rather than 0.0025": ([*SCALED], (1,)),
    "what GoogLeNet gains more from 0.0125": ([*SCALED], (0, 1)),
}
"""The cells of an effect, and the positions of the factors whose signs are multiplied."""
PAIRS = {
    **{
        f"{recipe}, {init}": (
            name(("GoogLeNet", "5e-4", "cosine", init)),
            name(("ResNet-164", decay, schedule, init)),
        )
        for init in INITS
        for recipe, decay, schedule in (
            ("each with its own recipe", "1e-4", "steps"),
            ("GoogLeNet's recipe", "5e-4", "cosine"),
        )
    },
    **{
        f"weight decay {decay}, cosine, fan-in": (
            name(("GoogLeNet", decay, "cosine", "fan-in")),
            name(("ResNet-164", decay, "cosine", "fan-in")),
        )
        for decay in SCALED_DECAYS
    },
    "GoogLeNet's recipe, fan-in, the ResNet's parameters": (
        "GoogLeNet, the ResNet's parameters",
        "ResNet-164, 5e-4, cosine, fan-in",
    ),
    "GoogLeNet's recipe, fan-in, the ResNet's multiplications": (
        "GoogLeNet, the ResNet's multiplications",
        "ResNet-164, 5e-4, cosine, fan-in",
    ),
    "GoogLeNet's recipe, fan-in, GoogLeNet's parameters": (
        "GoogLeNet, 5e-4, cosine, fan-in",
        "ResNet-164, GoogLeNet's parameters",
    ),
    "GoogLeNet's recipe, fan-in, GoogLeNet's parameters and about its depth": (
        "GoogLeNet, 5e-4, cosine, fan-in",
        "ResNet-20, GoogLeNet's parameters",
    ),
}
"""What a GoogLeNet and a ResNet have in common, and their arms."""


def effects(lines: Sequence[Line]) -> dict[str, Spread]:
    """What each factor changes, in points, once all cells that it needs share a seed.

    A factor's effect is the mean over the settings of the others, seed by seed. Two factors'
    interaction is the difference of the first one's effect at the second one's two settings.
    """
    found = _by_arm(lines)

    def values(cells: Sequence[Labels], positions: Sequence[int]) -> list[float]:
        by_seed = {cell: found.get(name(cell), {}) for cell in cells}
        signs = {cell: math.prod(SIGNS[cell[position]] for position in positions) for cell in cells}
        scale = 2 ** len(positions) / len(cells)
        return [
            scale * math.fsum(signs[cell] * by_seed[cell][seed] for cell in cells)
            for seed in sorted(set.intersection(*map(set, by_seed.values())))
        ]

    measured = {effect: values(*of) for effect, of in EFFECTS.items()}
    return {effect: Spread.of(points) for effect, points in measured.items() if points}


def leads(lines: Sequence[Line]) -> dict[str, Spread]:
    """How far GoogLeNet is ahead of a ResNet, in points, by what the two have in common."""
    found = _by_arm(lines)
    pairs = {
        common: paired(found.get(googlenet, {}), found.get(resnet, {}))
        for common, (googlenet, resnet) in PAIRS.items()
    }
    return {common: spread for common, spread in pairs.items() if spread}


def _by_arm(lines: Sequence[Line]) -> dict[str, dict[int, float]]:
    """Test accuracies in percent by seed, for each arm of the small scale's length."""
    return {
        arm: by_seed
        for (epochs, arm), by_seed in arms.accuracies(lines).items()
        if epochs == SMALL["train.epochs"]
    }


def tables(lines: Sequence[Line]) -> list[str]:
    """The factors' effects and GoogLeNet's leads, as Markdown."""
    rows = []
    for head, spreads in (("effect", effects(lines)), ("GoogLeNet's lead", leads(lines))):
        rows += ["", f"| {head} | seeds | points | 95 % interval |", "|---|---:|---:|---:|"]
        for name, spread in spreads.items():
            interval = show(spread.interval, "+.2f")
            rows.append(f"| {name} | {spread.n} | {spread.mean:+.2f} | {interval} |")
    return rows


def for_figure(lines: Sequence[Line]) -> dict[str, Spread]:
    """GoogLeNet's leads, then the factors' effects, by names that say which is which."""
    named = {f"GoogLeNet's lead: {name}": spread for name, spread in leads(lines).items()}
    named |= {f"effect: {name}": spread for name, spread in effects(lines).items()}
    return {f"{name} ({spread.n})": spread for name, spread in named.items()}


def main(argv: list[str]) -> None:
    """Trains what is missing, then prints the tables and draws the figure."""
    purpose = __doc__.splitlines()[0]
    meaning = "difference in test accuracy"
    lines = arms.main(argv, "benchmarks.question", purpose, ARMS, {}, for_figure, meaning)
    for row in tables(lines):
        console.say(row)


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
