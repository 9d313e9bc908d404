"""Rows of the article in PyTorch, on the pixels and with the recipes of `train.reproduce`.

    python -m benchmarks.reproduce_torch --out runs/article --config.data.path=cifar.tar.gz

The networks are those of `benchmarks.torch_networks`; augmentation, schedules, optimizers and
initial weights are PyTorch's, with random numbers of its own. Each finished run is a line of the
same file, with the arm "row 8, PyTorch"; the same command skips it. The table at the end compares
both sides.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_networks import GoogLeNet, ZooGoogLeNet
from googlenet_jax import data
from googlenet_jax.config import Config, ModelConfig, OptimizerConfig
from googlenet_jax.data import Dataset, Split
from googlenet_jax.errors import UserError
from googlenet_jax.report.spread import Spread, show, unpaired
from train import allocator, console
from train.reproduce import RESULTS, accuracies, plan
from train.trials import Line, append, lines_of, read

ROWS = (3, 5, 7, 8, 10)
FOLLOWED = {
    "data.downscale",
    "data.max_train_examples",
    "eval.batch_size",
    "model.init",
    "model.width_multiplier",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "train.batch_size",
    "train.epochs",
}
"""Settings that may differ from the rows' own."""


def create_network(row: int, config: ModelConfig) -> nn.Module:
    """A row's network with the config's initial weights."""
    width = config.width_multiplier
    network = ZooGoogLeNet(width=width) if row == 10 else GoogLeNet(width=width, bn=row != 3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, mode=config.init, nonlinearity="relu")
    return network


def create_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """PyTorch's own optimizer with the row's settings."""
    parameters = network.parameters()
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, config.momentum, weight_decay=decay)


def learning_rate(config: OptimizerConfig, epoch: int, epochs: int) -> float:
    """The rate of an epoch, counted from 0."""
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
    if config.schedule == "step":
        passed = sum(epoch >= float(share) * epochs for share in config.decay_at.split(","))
        return config.learning_rate / 10**passed
    return config.learning_rate


def augment(images: Tensor, pad: int, mode: str) -> Tensor:
    """A random crop of the padded image, and a random mirror; images are NCHW in 0..255."""
    number, _, height, width = images.shape
    padded = functional.pad(images, (pad,) * 4, "reflect" if mode == "reflect" else "constant")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * pad + 1, (2, number))
    cropped = windows[torch.arange(number), :, top, left]
    mirrored = torch.rand(number) < 0.5
    return torch.where(mirrored[:, None, None, None], cropped.flip(3), cropped)


def train(row: int, config: Config, dataset: Dataset) -> dict[str, Any]:
    """Trains to the last epoch and tests; returns what it measured."""
    torch.manual_seed(config.seed)
    info = dataset.info
    mean, std = (torch.tensor(each).view(3, 1, 1) * 255 for each in (info.mean, info.std))
    network = create_network(row, config.model)
    network.to(memory_format=torch.channels_last)
    optimizer = create_optimizer(network, config.optimizer)
    images, labels = tensors(dataset, Split.TRAIN)
    size, epochs, started = config.train.batch_size, config.train.epochs, time.monotonic()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, epoch, epochs)
        batches = torch.randperm(len(images))[: len(images) // size * size].view(-1, size)
        losses = []
        for batch in batches:
            augmented = augment(images[batch], config.data.pad, config.data.pad_mode)
            inputs = ((augmented - mean) / std).to(memory_format=torch.channels_last)
            outputs = network.train()(inputs)
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            loss = functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return {"diverged": f"not finite in epoch {epoch + 1}"}
        print(f"epoch {epoch + 1}/{epochs}: train_loss {np.mean(losses):.4f}", flush=True)
    seconds = time.monotonic() - started
    images, labels = tensors(dataset, Split.TEST)
    network.train(False)
    with torch.inference_mode():
        parts = [network((part - mean) / std) for part in images.split(250)]
    logits = torch.cat(parts)
    return {
        "test_accuracy": {"none": float((logits.argmax(1) == labels).float().mean())},
        "test_loss": float(functional.cross_entropy(logits, labels)),
        "train_loss": float(np.mean(losses)),
        "seconds": round(seconds, 1),
    }


def tensors(dataset: Dataset, split: Split) -> tuple[Tensor, Tensor]:
    """A split's images (NCHW, 0..255) and labels."""
    examples = dataset.splits[split]
    images = torch.from_numpy(np.ascontiguousarray(examples.images.transpose(0, 3, 1, 2)))
    return images.float(), torch.from_numpy(examples.labels.astype(np.int64))


def table(lines: Sequence[Line]) -> str:
    """Both means of each row, and the 95 % interval of their difference."""
    found = ["| row | this project | n | PyTorch | n | difference | 95 % interval |"]
    found.append("|---:|---:|---:|---:|---:|---:|---:|")
    for row in ROWS:
        pair = [[*accuracies(lines, arm).values()] for arm in (f"row {row}", f"row {row}, PyTorch")]
        if not all(pair):
            continue
        ours, theirs = map(Spread.of, pair)
        shown = show(unpaired(ours, theirs), "+.2f")
        found.append(
            f"| {row} | {ours.mean:.2f} | {ours.n} | {theirs.mean:.2f} | {theirs.n} | "
            f"{ours.mean - theirs.mean:+.2f} | {shown} |"
        )
    return "\n".join(found)


def main(argv: list[str]) -> None:
    """Trains what is missing, then prints the table."""
    parser = console.Parser("benchmarks.reproduce_torch", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=console.local_path, required=True, help="train.reproduce's")
    parser.add_argument("--rows", nargs="+", type=int, choices=ROWS, default=[*ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments, overrides = parser.parse_known_args(argv)
    arguments.scale = "small"
    path = arguments.out / RESULTS
    ours = plan(arguments, overrides)
    for trial, row in zip(ours, plan(arguments, []), strict=True):
        changed = dict(trial.identity["settings"].items() ^ row.identity["settings"].items())
        if others := sorted(changed.keys() - FOLLOWED):
            raise UserError(f"--config.{others[0]}: the PyTorch side does not follow it")
    theirs = [dataclasses.replace(trial, arm=f"{trial.arm}, PyTorch") for trial in ours]
    for trial in theirs:
        if trial.is_in(read(path)):
            continue
        dataset = data.load(trial.config.data, trial.config.seed)
        print(trial.name, flush=True)
        row = int(trial.arm.removesuffix(", PyTorch").removeprefix("row "))
        line = trial.identity | train(row, trial.config, dataset)
        line |= {"data": dataset.provenance["sha256"], "versions": {"torch": torch.__version__}}
        append(path, line)
    print(table(lines_of(ours + theirs, path)))


if __name__ == "__main__":
    allocator.restart_tuned()  # it makes PyTorch faster, too
    console.start(main)
