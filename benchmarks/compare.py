"""Compares the images/s of this project and of PyTorch on the same device.

    python -m benchmarks.compare --json speed.json --plot speed.png

The contenders take turns, so that noise affects all of them alike: compare the ratios. Each runs in
its own process, which releases its memory between turns and takes one untimed step before the timed
ones. On a CPU a contender marked "tuned" uses the allocator of `train.main`. This project's
training step includes gathering, augmentation and normalisation on the device; PyTorch gets a
prepared batch.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

from train import allocator, console

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

# Multiply-adds of the convolutions at 32x32 and of the classifier, two operations each. In training
# the gradients by input and by kernel cost as much again each (the first layer has none by input).
INFERENCE_GFLOP = 2 * (1556.9e6 + 10_240) / 1e9
TRAINING_GFLOP = 3 * INFERENCE_GFLOP
TURN_SECONDS = 2.0
REFERENCE = "PyTorch as the article wrote it"
COLUMNS = (
    "| work | batch | contender | images/s | ratio (range) | GFLOP/s | of the ceiling | peak GB |"
)


class Contender(NamedTuple):
    """One way to do the work.

    Attributes:
      name: Framework, layout and precision.
      dtype: Type of its matrix products.
      function: "module:name" in `benchmarks`; prepares the work and returns a function that takes
        a number of steps.
      options: Keyword arguments of `function`.
      tuned: Whether its process uses the allocator of `train.main`.
    """

    name: str
    dtype: str
    function: str
    options: dict[str, Any]
    tuned: bool = True


class Rival:
    """A contender in its own process; a context manager that ends the process.

    Attributes:
      peak_memory: Peak memory of the process in GB, without a GPU's memory.
    """

    def __init__(self, contender: Contender):
        self.peak_memory = 0.0
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        os.environ["GLIBC_TUNABLES"] = allocator.TUNABLES if contender.tuned else ""
        self._process = context.Process(target=_serve, args=(theirs, contender))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.join()

    def seconds(self, steps: int, limit: float | None = None) -> float:
        """The seconds that `steps` steps take, after an untimed one.

        Args:
          steps: Number of timed steps.
          limit: Seconds to wait for the answer; None waits for ever.

        Raises:
          TimeoutError: No answer came in time.
          RuntimeError: The process has ended, for example for lack of memory.
        """
        try:
            self._connection.send(steps)
            if not self._connection.poll(limit):
                raise TimeoutError
            seconds, self.peak_memory = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            status = self._process.exitcode
            raise RuntimeError(f"its process ended with status {status}") from error
        return seconds


def _serve(connection: Connection, contender: Contender) -> None:
    module, _, name = contender.function.partition(":")
    take_steps = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**contender.options)
    while True:
        number = connection.recv()
        take_steps(1)
        started = time.perf_counter()
        take_steps(number)
        seconds = time.perf_counter() - started
        connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


def check_torch() -> None:
    """Ends the program with one line if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        console.complain("PyTorch is missing, the other side of the comparison: pip install torch")
        sys.exit(2)


def on_gpu() -> bool:
    """Whether a GPU is available."""
    import torch

    return torch.cuda.is_available()


def contenders(batch_size: int, training: bool) -> Iterator[Contender]:
    """The contenders that make sense on this device, the reference first."""
    sizes = {"batch_size": batch_size, "training": training}
    theirs, last = "torch_step:steps", sizes | {"channels_last": True}
    ours = f"jax_step:{'training' if training else 'inference'}"
    yield Contender(f"{REFERENCE} (NCHW, eager)", "float32", theirs, sizes, tuned=False)
    yield Contender("PyTorch channels_last", "float32", theirs, last, tuned=False)
    if not on_gpu():
        yield Contender("PyTorch channels_last, tuned", "float32", theirs, last)
    dtypes = ["float32", "bfloat16"] if on_gpu() else ["float32"]
    if on_gpu():
        best = last | {"autocast": True, "compiled": True}
        yield Contender("PyTorch channels_last, autocast, compiled", "bfloat16", theirs, best)
    for dtype in dtypes:
        options = {"batch_size": batch_size, "dtype": dtype}
        yield Contender("googlenet_jax", dtype, ours, options)


def measure(entrants: list[Contender], rounds: int) -> tuple[list[list[float]], list[float]]:
    """Each contender's steps/s in each round, taken in turns, and its peak memory in GB."""
    with contextlib.ExitStack() as stack:
        rivals = [stack.enter_context(Rival(each)) for each in entrants]
        counts = [max(1, round(TURN_SECONDS / rival.seconds(1))) for rival in rivals]
        rates: list[list[float]] = [[] for _ in rivals]
        for _ in range(rounds):
            for rival, number, found in zip(rivals, counts, rates, strict=True):
                found.append(number / rival.seconds(number))
        return rates, [rival.peak_memory for rival in rivals]


def compare(batch_size: int, training: bool, rounds: int) -> list[dict[str, Any]]:
    """A row for each contender with its ratio to the first, and for training the input's share."""
    entrants = list(contenders(batch_size, training))
    size = 8192 if on_gpu() else 2048
    dtypes = sorted({entrant.dtype for entrant in entrants})
    products = [
        Contender("product", dtype, "jax_step:product", {"dtype": dtype, "size": size})
        for dtype in dtypes
    ]
    inputs = [
        Contender(name, "", "jax_step:inputs", {"batch_size": batch_size, "augmented": augmented})
        for name, augmented in (("input, augmented", True), ("input, not augmented", False))
    ]
    rates, memory = measure([*entrants, *products, *inputs * training], rounds)
    named = zip(dtypes, rates[len(entrants) :], strict=False)
    ceilings = {dtype: 2 * size**3 / 1e9 * statistics.median(found) for dtype, found in named}
    gflop = batch_size * (TRAINING_GFLOP if training else INFERENCE_GFLOP)
    work = {"work": "training" if training else "inference", "batch_size": batch_size}
    rows = []
    for entrant, steps, peak in zip(entrants, rates, memory, strict=False):
        ratios = [each / reference for each, reference in zip(steps, rates[0], strict=True)]
        done = gflop * statistics.median(steps)
        rows.append(
            work
            | {
                "contender": f"{entrant.name}, {entrant.dtype}",
                "images_per_second": batch_size * statistics.median(steps),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "gflop_per_second": done,
                "ceiling_gflop_per_second": ceilings[entrant.dtype],
                "share_of_ceiling": done / ceilings[entrant.dtype],
                "peak_memory_gb": peak,
            }
        )
    if training:
        shares = [
            [own / rate for own, rate in zip(rates[len(entrants) - 1], each, strict=True)]
            for each in rates[-len(inputs) :]
        ]
        for name, share in zip(inputs, shares, strict=True):
            rows[-1][f"share of the {name.name}"] = statistics.median(share)
    return rows


def start_up(batch_size: int) -> list[dict[str, Any]]:
    """Seconds from a new process to the end of its second training step, cold and warm."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": cache,
        }
        entrants = list(contenders(batch_size, training=True))
        for entrant in entrants:
            row: dict[str, Any] = {"batch_size": batch_size, "contender": entrant.name}
            for state in ("cold", "warm"):
                started = time.perf_counter()
                with Rival(entrant) as rival:
                    step = rival.seconds(1)
                row[f"{state}_seconds"] = time.perf_counter() - started - step
            rows.append(row)
    return rows


def as_markdown(row: dict[str, Any]) -> str:
    """The row as a line of the table with the head `COLUMNS`."""
    low, high = row["ratio_range"]
    return (
        f"| {row['work']} | {row['batch_size']} | {row['contender']} | "
        f"{row['images_per_second']:,.1f} | {row['ratio']:.2f} ({low:.2f} - {high:.2f}) | "
        f"{row['gflop_per_second']:,.0f} | {row['share_of_ceiling']:.0%} | "
        f"{row['peak_memory_gb']:.1f} |"
    )


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Plots images/s over the batch size, with a curve for each contender."""
    from matplotlib.figure import Figure

    works = sorted({row["work"] for row in rows}, reverse=True)
    figure = Figure(figsize=(5.2 * len(works), 4.2), layout="constrained")
    for work, axes in zip(works, figure.subplots(1, len(works), squeeze=False)[0], strict=True):
        names = dict.fromkeys(row["contender"] for row in rows if row["work"] == work)
        for name, marker in zip(names, "osD^v", strict=False):
            own = [row for row in rows if (row["work"], row["contender"]) == (work, name)]
            own.sort(key=lambda row: row["batch_size"])
            sizes = [row["batch_size"] for row in own]
            speeds = [row["images_per_second"] for row in own]
            axes.plot(sizes, speeds, marker=marker, label=name)
        axes.set(title=work, xlabel="batch size", ylabel="images/s", ylim=(0, None))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)


def machine() -> str:
    """Device, versions, and the precision that JAX and PyTorch use for float32."""
    import jax
    import torch

    tf32 = torch.cuda.is_available() and torch.backends.cudnn.allow_tf32
    return (
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores; jax {jax.__version__}, torch "
        f"{torch.__version__}; float32 products: jax default precision, torch convolutions "
        f"{'TF32' if tf32 else 'float32'}; {time.strftime('%Y-%m-%d')}"
    )


def main() -> None:
    """Prints Markdown tables; optionally writes the figures as JSON and as a plot."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 256])
    works = ["training", "inference", "start-up"]
    parser.add_argument("--work", nargs="+", default=works, choices=works)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a plot of images/s over the batch size")
    arguments = parser.parse_args()
    check_torch()
    found: dict[str, Any] = {"machine": machine(), "rows": [], "start_up": []}

    def keep() -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n")
        if arguments.plot and found["rows"]:
            draw(found["rows"], found["machine"], arguments.plot)

    print(found["machine"], COLUMNS, "|---" * 8 + "|", sep="\n")
    for work in [each for each in arguments.work if each != "start-up"]:
        for batch_size in arguments.batch_sizes:
            rows = compare(batch_size, work == "training", arguments.rounds)
            print(*map(as_markdown, rows), sep="\n", flush=True)
            found["rows"] += rows
            keep()
    for row in found["rows"]:
        for name, share in row.items():
            if name.startswith("share of the input"):
                print(f"batch {row['batch_size']}: {name}: {share:.2%} of a training step")
    if "start-up" in arguments.work:
        found["start_up"] = start_up(arguments.batch_sizes[0])
        for row in found["start_up"]:
            print(
                f"start-up to the second step, batch {row['batch_size']}, {row['contender']}: "
                f"cold {row['cold_seconds']:.1f} s, warm {row['warm_seconds']:.1f} s"
            )
        keep()


if __name__ == "__main__":
    main()
