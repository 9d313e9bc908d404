"""What each ingredient of a recipe gains, at a scale that two CPU cores can measure.

    python -m benchmarks.recipes --out docs/recipes.jsonl --config.data.path=cifar.tar.gz

trains GoogLeNet at a quarter of its width on 10,000 of CIFAR-10's training images, averaged down to
16x16 pixels, with row 8's recipe and with one ingredient added to it, and tests the last epoch on
all 10,000 test images.
"""

from typing import Any

from benchmarks import arms
from configs import cifar10_fast, cifar10_modern
from googlenet_jax.config import TTA, Config
from train import allocator, console
from train.trials import SMALL, Trial


def recipe(config: Config) -> dict[str, Any]:
    """What a config changes of row 8, apart from its length and its type, at the small scale."""
    settings = Trial("", config).identity["settings"]  # what differs from the defaults: from row 8
    other = {"model.dtype", *SMALL}
    changes = {name: value for name, value in settings.items() if name not in other}
    if "data.cutout" in changes:  # a square of as large a part of the image
        changes["data.cutout"] //= SMALL["data.downscale"]
    return changes


ARMS: arms.Arms = {
    arms.BASE: {},
    "Nesterov": {"optimizer.nesterov": True},
    "moving average 0.99": {"train.ema_decay": 0.99},
    "cutout 4": {"data.cutout": 4},
    "mixup 0.2": {"data.mixup": 0.2},
    "CutMix 1.0": {"data.cutmix": 1.0},
    "alternating mirror": {"data.alternate_flip": True},
    "decay of kernels only": {"optimizer.decay_kernels_only": True},
    "linear, warm-up 4": {
        "optimizer.schedule": "linear",
        "optimizer.schedule_per": "step",
        "optimizer.warmup_epochs": 4.0,
    },
    "one cycle": {"optimizer.schedule": "one_cycle"},
    "rate x 8 for BatchNorm's biases": {"optimizer.norm_bias_factor": 8.0},
    "label smoothing 0.1": {"train.label_smoothing": 0.1},
    "initial weights by fan-in": {"model.init": "fan_in"},
    "no dropout": {"model.dropout_rate": 0.0},
    "batch 64": {"train.batch_size": 64},
    "cifar10_fast": recipe(cifar10_fast.get_config()),
    "cifar10_modern": recipe(cifar10_modern.get_config()),
}
TTA_OF = {arms.BASE: TTA[1:], "cifar10_modern": TTA[1:]}


def main(argv: list[str]) -> None:
    """Trains what is missing, then prints the table."""
    arms.main(argv, "benchmarks.recipes", __doc__.splitlines()[0], ARMS, TTA_OF)


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
