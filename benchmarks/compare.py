"""Images a second of this project and of PyTorch, side by side on the same device.

    python -m benchmarks.compare --batch-sizes 128 --json speed.json

The contenders take turns, so that a noisy machine hurts all alike: read the ratios. A training
step of this project is the whole of it, with gathering, augmentation and normalisation on the
device; PyTorch is given a batch that is ready.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from benchmarks.torch_networks import GoogLeNet
from googlenet_jax import optimizer, preprocess, state, step
from googlenet_jax.config import Config
from googlenet_jax.data import Arrays, epoch_order
from googlenet_jax.data.cifar import CIFAR10

INFO = CIFAR10.info
# Multiply-adds of the convolutions at 32x32, and of the classifier; two operations each. The
# gradients by the input and by the kernel cost the same again, but the first layer's input.
INFERENCE_GFLOP = 2 * (1556.9e6 + 10_240) / 1e9
TRAINING_GFLOP = 3 * INFERENCE_GFLOP
ROUND_SECONDS = 2.0
REFERENCE = "PyTorch as the article wrote it"


class Contender(NamedTuple):
    """A name that states layout and precision, and a call that takes n steps and waits."""

    name: str
    dtype: str
    take_steps: Callable[[int], None]


def jax_training(batch_size: int, dtype: str) -> Contender:
    """This project's training step on random images."""
    config, train_state = _jax_state(dtype)
    rng = np.random.default_rng(0)
    size = 64 * batch_size
    images = rng.integers(0, 256, (size, *INFO.image_shape), np.uint8)
    data = jax.device_put(Arrays(images, rng.integers(0, 10, size, np.int32)))
    order = epoch_order(jax.random.key(0), 0, size)

    preprocessed = preprocess.for_training(config.data, INFO)

    def take_steps(number: int) -> None:
        nonlocal train_state
        train_state = step.train_steps(
            train_state,
            data,
            order,
            jnp.int32(number),
            jax.random.key(1),
            batch_size=batch_size,
            preprocess=preprocessed,
            aux_loss_weight=config.train.aux_loss_weight,
        )
        jax.block_until_ready(train_state)

    return Contender(f"googlenet_jax, {dtype}", dtype, take_steps)


def jax_inference(batch_size: int, dtype: str) -> Contender:
    """This project's network on a batch that is ready."""
    _, train_state = _jax_state(dtype)
    images = jax.random.normal(jax.random.key(0), (batch_size, *INFO.image_shape))
    infer = jax.jit(lambda state, images: state.apply(state.params, images, train=False)[0])

    def take_steps(number: int) -> None:
        for _ in range(number):
            logits = infer(train_state, images)
        jax.block_until_ready(logits)

    return Contender(f"googlenet_jax, {dtype}", dtype, take_steps)


def _jax_state(dtype: str) -> tuple[Config, state.TrainState]:
    config = Config()
    config.model.dtype = dtype
    schedule = optimizer.create_schedule(config.optimizer, 390, 39_000)
    return config, state.initialize(jax.random.key(0), config, INFO, schedule)


def torch_contender(
    name: str, batch_size: int, training: bool, *, channels_last: bool, bfloat16: bool, fused: bool
) -> Contender:
    """PyTorch's network; `fused` compiles it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = GoogLeNet().to(device, memory_format=layout).train(training)
    images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=layout)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    call = torch.compile(network) if fused else network

    def forward() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            outputs = call(images)
        return outputs[0] if training else outputs

    def take_steps(number: int) -> None:
        for _ in range(number):
            if training:
                sgd.zero_grad()
                functional.cross_entropy(forward(), labels).backward()
                sgd.step()
            else:
                with torch.inference_mode():
                    forward()
        if device == "cuda":
            torch.cuda.synchronize()

    return Contender(name, "bfloat16" if bfloat16 else "float32", take_steps)


def contenders(batch_size: int, training: bool) -> Iterator[Contender]:
    """All that this device has a use for, one after the other."""
    on_gpu = torch.cuda.is_available()
    ours = jax_training if training else jax_inference
    plain = {"bfloat16": False, "fused": False}
    yield torch_contender(REFERENCE, batch_size, training, channels_last=False, **plain)
    yield torch_contender(
        "PyTorch channels_last", batch_size, training, channels_last=True, **plain
    )
    yield ours(batch_size, "float32")
    if on_gpu:
        yield torch_contender(
            "PyTorch channels_last, bfloat16 autocast, compiled",
            batch_size,
            training,
            channels_last=True,
            bfloat16=True,
            fused=True,
        )
        yield ours(batch_size, "bfloat16")


def product_ceiling(dtype: str) -> Contender:
    """A large matrix product with random numbers; one step is 4 x 2 x size^3 operations."""
    size = _product_size()
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul)

    def take_steps(number: int) -> None:
        result = a
        for _ in range(4 * number):
            result = product(a, a)
        jax.block_until_ready(result)

    return Contender(f"matrix product, {dtype}", dtype, take_steps)


def _product_size() -> int:
    return 8192 if jax.default_backend() == "gpu" else 2048


def measure(rivals: list[Contender], rounds: int) -> dict[str, list[float]]:
    """Steps a second of each contender in each round; they take turns within a round."""
    counts: dict[str, int] = {}
    for rival in rivals:
        rival.take_steps(1)  # compiles
        started = time.perf_counter()
        rival.take_steps(1)
        taken = time.perf_counter() - started
        counts[rival.name] = max(1, round(ROUND_SECONDS / len(rivals) / taken))
    rates: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    for _ in range(rounds):
        for rival in rivals:
            number = counts[rival.name]
            started = time.perf_counter()
            rival.take_steps(number)
            rates[rival.name].append(number / (time.perf_counter() - started))
    return rates


def compare(batch_size: int, training: bool, rounds: int) -> list[dict[str, Any]]:
    """A row for each contender, with its ratio to PyTorch as the article wrote it."""
    dtypes = ["float32", "bfloat16"] if torch.cuda.is_available() else ["float32"]
    ceilings = {dtype: product_ceiling(dtype) for dtype in dtypes}
    rivals = list(contenders(batch_size, training))
    rates = measure([*rivals, *ceilings.values()], rounds)
    product_gflop = 4 * 2 * _product_size() ** 3 / 1e9
    gflop = batch_size * (TRAINING_GFLOP if training else INFERENCE_GFLOP)
    rows = []
    for rival in rivals:
        steps = rates[rival.name]
        steps_per_second = statistics.median(steps)
        ceiling = product_gflop * statistics.median(rates[ceilings[rival.dtype].name])
        ratios = [ours / theirs for ours, theirs in zip(steps, rates[REFERENCE], strict=True)]
        rows.append(
            {
                "work": "training" if training else "inference",
                "batch_size": batch_size,
                "contender": rival.name,
                "images_per_second": batch_size * steps_per_second,
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "gflop_per_second": gflop * steps_per_second,
                "share_of_ceiling": gflop * steps_per_second / ceiling,
                "ceiling_gflop_per_second": ceiling,
            }
        )
    return rows


def main() -> None:
    """Prints a Markdown table and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--work", nargs="+", default=["training", "inference"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()

    rows: list[dict[str, Any]] = []
    print(machine())
    print("| work | batch | contender | images/s | ratio (range) | TFLOP/s | of the ceiling |")
    print("|---|---|---|---|---|---|---|")
    for work in arguments.work:
        for batch_size in arguments.batch_sizes:
            found = compare(batch_size, work == "training", arguments.rounds)
            for row in found:
                low, high = row["ratio_range"]
                print(
                    f"| {work} | {batch_size} | {row['contender']} | "
                    f"{row['images_per_second']:,.1f} | {row['ratio']:.2f} ({low:.2f} - "
                    f"{high:.2f}) | {row['gflop_per_second'] / 1e3:.3f} | "
                    f"{row['share_of_ceiling']:.1%} |",
                    flush=True,
                )
            rows += found
            if arguments.json:
                text = json.dumps({"machine": machine(), "rows": rows}, indent=2)
                arguments.json.write_text(text + "\n")


def machine() -> str:
    """Device, versions and the precision that each side calls float32."""
    device = jax.devices()[0]
    tf32 = torch.cuda.is_available() and torch.backends.cudnn.allow_tf32
    return (
        f"{device.device_kind}, {os.cpu_count()} cores; jax {jax.__version__}, torch "
        f"{torch.__version__}; float32 products: jax default precision, torch convolutions "
        f"{'TF32' if tf32 else 'float32'}; {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    main()
