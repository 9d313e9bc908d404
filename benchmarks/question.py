"""Why does GoogLeNet beat pre-activation ResNet-164? Recipe, parameters, work and depth, apart.

    python -m benchmarks.question --out docs/question.jsonl --seeds 0 1 2 --config.data.path=PATH

trains at the small scale of `train.trials`, with equal numbers of steps:

- both networks with either weight decay (GoogLeNet's 5e-4, the ResNet's 1e-4) and either schedule
  (a cosine; the ResNet's steps, with its warm-up). All else is row 8's, so that "row 8" is
  GoogLeNet with its own recipe;
- GoogLeNet narrowed to the ResNet's number of parameters, and to its number of
  multiply-accumulates; the ResNet widened to GoogLeNet's number of parameters; a ResNet of about
  GoogLeNet's depth, with its number of parameters; each with row 8's recipe.
"""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks import arms
from googlenet_jax.report.spread import Spread, paired, show
from train import allocator, console
from train.trials import SMALL, Line

RESNET: dict[str, Any] = {"model.name": "preact_resnet", "model.conv_bias": False}
STEPS: dict[str, Any] = {
    "optimizer.schedule": "step",
    "optimizer.schedule_per": "step",
    "optimizer.decay_at": "0.5,0.75",
    "optimizer.warmup": "constant",
    "optimizer.warmup_epochs": 20 * 400 / 64_000,  # the same share of the steps as in row 9
}
LIGHT: dict[str, Any] = {"optimizer.weight_decay": 1e-4}
ARMS: arms.Arms = {
    arms.BASE: {},
    "ResNet-164, 5e-4, cosine": RESNET,
    "GoogLeNet, 1e-4, steps": LIGHT | STEPS,
    "ResNet-164, 1e-4, steps": RESNET | LIGHT | STEPS,
    "GoogLeNet, 1e-4, cosine": LIGHT,
    "ResNet-164, 1e-4, cosine": RESNET | LIGHT,
    "GoogLeNet, 5e-4, steps": STEPS,
    "ResNet-164, 5e-4, steps": RESNET | STEPS,
    "GoogLeNet, the ResNet's parameters": {"model.width_multiplier": 0.134},
    "GoogLeNet, the ResNet's multiplications": {"model.width_multiplier": 0.099},
    "ResNet-164, GoogLeNet's parameters": RESNET | {"model.width_multiplier": 0.47},
    "ResNet-20, GoogLeNet's parameters": (
        RESNET | {"model.depth": 20, "model.width_multiplier": 1.32}
    ),
}


LEVELS = (
    *((1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)),
    *((1, -1, 1), (-1, -1, 1), (1, 1, -1), (-1, 1, -1)),
)
CELLS = dict(zip(LEVELS, ARMS, strict=False))
"""Arms by network, weight decay and schedule: 1 for GoogLeNet's, -1 for the ResNet's."""
CONTRASTS = {
    "GoogLeNet rather than ResNet-164": (0,),
    "weight decay 5e-4 rather than 1e-4": (1,),
    "cosine rather than steps": (2,),
    "what GoogLeNet gains more from 5e-4": (0, 1),
    "what GoogLeNet gains more from the cosine": (0, 2),
    "what the cosine gains more with 5e-4": (1, 2),
}
"""Positions of the factors whose signs are multiplied."""
PAIRS = {
    "each with its own recipe": (arms.BASE, "ResNet-164, 1e-4, steps"),
    "row 8's recipe": (arms.BASE, "ResNet-164, 5e-4, cosine"),
    "row 8's recipe, the ResNet's parameters": (
        "GoogLeNet, the ResNet's parameters",
        "ResNet-164, 5e-4, cosine",
    ),
    "row 8's recipe, the ResNet's multiplications": (
        "GoogLeNet, the ResNet's multiplications",
        "ResNet-164, 5e-4, cosine",
    ),
    "row 8's recipe, GoogLeNet's parameters": (arms.BASE, "ResNet-164, GoogLeNet's parameters"),
    "row 8's recipe, GoogLeNet's parameters and about its depth": (
        arms.BASE,
        "ResNet-20, GoogLeNet's parameters",
    ),
}
"""What a GoogLeNet and a ResNet have in common, and their arms."""


def effects(lines: Sequence[Line]) -> dict[str, Spread]:
    """What each factor changes, in points, once all eight cells share a seed.

    A factor's effect is the mean over the settings of the others, seed by seed. Two factors'
    interaction is the difference of the first one's effect at the second one's two settings.
    """
    found = _by_arm(lines)
    cells = {levels: found.get(arm, {}) for levels, arm in CELLS.items()}
    seeds = sorted(set.intersection(*map(set, cells.values())))

    def contrast(factors: Sequence[int], seed: int) -> float:
        signed = (
            math.prod(levels[factor] for factor in factors) * by_seed[seed]
            for levels, by_seed in cells.items()
        )
        return math.fsum(signed) * 2 ** len(factors) / len(cells)

    return {
        name: Spread.of([contrast(positions, seed) for seed in seeds])
        for name, positions in CONTRASTS.items()
        if seeds
    }


def leads(lines: Sequence[Line]) -> dict[str, Spread]:
    """How far GoogLeNet is ahead of a ResNet, in points, by what the two have in common."""
    found = _by_arm(lines)
    pairs = {
        name: paired(found.get(googlenet, {}), found.get(resnet, {}))
        for name, (googlenet, resnet) in PAIRS.items()
    }
    return {name: spread for name, spread in pairs.items() if spread}


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
