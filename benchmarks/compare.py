"""Images a second of this project and of PyTorch, side by side on the same device.

    python -m benchmarks.compare --batch-sizes 128 --json speed.json

The contenders take turns, so that a noisy machine hurts all alike: read the ratios. Each has a
process of its own, so that none spins or keeps memory where another works; on a CPU PyTorch at its
best has the allocator's huge pages that `train.main` gives itself. A training step of this project
is the whole of it, with gathering, augmentation and normalisation on the device; PyTorch is given
a batch that is ready.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import torch
from torch.nn import functional

from benchmarks import jax_step
from benchmarks.jax_step import TakeSteps
from benchmarks.torch_networks import GoogLeNet
from train import allocator

# Multiply-adds of the convolutions at 32x32, and of the classifier; two operations each. The
# gradients by the input and by the kernel cost the same again, but the first layer's input.
INFERENCE_GFLOP = 2 * (1556.9e6 + 10_240) / 1e9
TRAINING_GFLOP = 3 * INFERENCE_GFLOP
ROUND_SECONDS = 2.0
REFERENCE = "PyTorch as the article wrote it"


class Contender(NamedTuple):
    """One way to do the work.

    Attributes:
      name: states layout and precision.
      dtype: of its products.
      prepare: makes it ready, in a process of its own.
      tuned: whether that process has the allocator of `train.main`.
    """

    name: str
    dtype: str
    prepare: Callable[[], TakeSteps]
    tuned: bool = True


class Rival:
    """A contender at work in its own process; a context manager that ends it.

    Attributes:
      peak_memory: the most that the process has had, in GB; not that of a GPU.
    """

    def __init__(self, contender: Contender):
        self.peak_memory = 0.0
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender.prepare))
        os.environ["GLIBC_TUNABLES"] = allocator.TUNABLES if contender.tuned else ""
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.join()

    def seconds(self, steps: int) -> float:
        """What so many steps take."""
        self._connection.send(steps)
        seconds, self.peak_memory = self._connection.recv()
        return seconds


def _serve(connection: Connection, prepare: Callable[[], TakeSteps]) -> None:
    take_steps = prepare()
    while True:
        number = connection.recv()
        started = time.perf_counter()
        take_steps(number)
        seconds = time.perf_counter() - started
        connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


def jax_training(batch_size: int, dtype: str) -> TakeSteps:
    """This project's training step on random images."""
    return jax_step.compile_steps(batch_size, dtype)[0]


def jax_inference(batch_size: int, dtype: str) -> TakeSteps:
    """This project's network on a batch that is ready."""
    _, train_state = jax_step.initialize(dtype)
    images = jax.random.normal(jax.random.key(0), (batch_size, *jax_step.INFO.image_shape))
    infer = jax.jit(lambda state, images: state.apply(state.params, images, train=False)[0])

    def take_steps(number: int) -> None:
        for _ in range(number):
            logits = infer(train_state, images)
        jax.block_until_ready(logits)

    return take_steps


def torch_steps(
    batch_size: int, training: bool, *, channels_last: bool, bfloat16: bool, fused: bool
) -> TakeSteps:
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

    return take_steps


def contenders(batch_size: int, training: bool) -> Iterator[Contender]:
    """All that this device has a use for, one after the other."""
    ours = jax_training if training else jax_inference
    torch_at = functools.partial(torch_steps, batch_size, training)
    plain = functools.partial(torch_at, channels_last=False, bfloat16=False, fused=False)
    best = functools.partial(torch_at, channels_last=True, bfloat16=False, fused=False)
    yield Contender(REFERENCE, "float32", plain, tuned=False)
    yield Contender("PyTorch channels_last", "float32", best, tuned=False)
    if not torch.cuda.is_available():
        yield Contender("PyTorch channels_last, huge pages", "float32", best)
    yield Contender("googlenet_jax", "float32", functools.partial(ours, batch_size, "float32"))
    if torch.cuda.is_available():
        yield Contender(
            "PyTorch channels_last, autocast, compiled",
            "bfloat16",
            functools.partial(torch_at, channels_last=True, bfloat16=True, fused=True),
        )
        yield Contender(
            "googlenet_jax", "bfloat16", functools.partial(ours, batch_size, "bfloat16")
        )


def product_ceiling(dtype: str) -> TakeSteps:
    """A large matrix product with random numbers; one step is 4 x 2 x size^3 operations."""
    size = _product_size()
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul)

    def take_steps(number: int) -> None:
        result = a
        for _ in range(4 * number):
            result = product(a, a)
        jax.block_until_ready(result)

    return take_steps


def _product_size() -> int:
    return 8192 if torch.cuda.is_available() else 2048


def measure(rivals: list[Rival], rounds: int) -> list[list[float]]:
    """Steps a second of each rival in each round; they take turns within a round."""
    counts = []
    for rival in rivals:
        rival.seconds(1)  # compiles
        counts.append(max(1, round(ROUND_SECONDS / len(rivals) / rival.seconds(1))))
    rates: list[list[float]] = [[] for _ in rivals]
    for _ in range(rounds):
        for rival, number, found in zip(rivals, counts, rates, strict=True):
            found.append(number / rival.seconds(number))
    return rates


def compare(batch_size: int, training: bool, rounds: int) -> list[dict[str, Any]]:
    """A row for each contender, with its ratio to PyTorch as the article wrote it."""
    entrants = list(contenders(batch_size, training))
    dtypes = sorted({entrant.dtype for entrant in entrants})
    ceilings = [
        Contender(dtype, dtype, functools.partial(product_ceiling, dtype)) for dtype in dtypes
    ]
    with contextlib.ExitStack() as stack:
        rivals = [stack.enter_context(Rival(each)) for each in [*entrants, *ceilings]]
        rates = measure(rivals, rounds)
        memory = [rival.peak_memory for rival in rivals]
    product_gflop = 4 * 2 * _product_size() ** 3 / 1e9
    ceiling_of = {
        dtype: product_gflop * statistics.median(found)
        for dtype, found in zip(dtypes, rates[len(entrants) :], strict=True)
    }
    gflop = batch_size * (TRAINING_GFLOP if training else INFERENCE_GFLOP)
    rows = []
    for entrant, steps, peak in zip(entrants, rates, memory, strict=False):
        steps_per_second = statistics.median(steps)
        ratios = [each / reference for each, reference in zip(steps, rates[0], strict=True)]
        ceiling = ceiling_of[entrant.dtype]
        rows.append(
            {
                "work": "training" if training else "inference",
                "batch_size": batch_size,
                "contender": f"{entrant.name}, {entrant.dtype}",
                "images_per_second": batch_size * steps_per_second,
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "gflop_per_second": gflop * steps_per_second,
                "share_of_ceiling": gflop * steps_per_second / ceiling,
                "ceiling_gflop_per_second": ceiling,
                "peak_memory_gb": peak,
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
    columns = "work | batch | contender | images/s | ratio (range) | GFLOP/s | of the ceiling"
    print(f"| {columns} | peak GB |")
    print("|---|---|---|---|---|---|---|---|")
    for work in arguments.work:
        for batch_size in arguments.batch_sizes:
            found = compare(batch_size, work == "training", arguments.rounds)
            for row in found:
                low, high = row["ratio_range"]
                print(
                    f"| {work} | {batch_size} | {row['contender']} | "
                    f"{row['images_per_second']:,.1f} | {row['ratio']:.2f} ({low:.2f} - "
                    f"{high:.2f}) | {row['gflop_per_second']:,.0f} | "
                    f"{row['share_of_ceiling']:.0%} | {row['peak_memory_gb']:.1f} |",
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
