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

from typing import Any

from benchmarks import arms
from train import allocator, console

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


def main(argv: list[str]) -> None:
    """Trains what is missing, then prints the table."""
    arms.main(argv, "benchmarks.question", __doc__.splitlines()[0], ARMS, {})


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
