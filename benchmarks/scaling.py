"""Estimates how training scales over devices: computing, communication and memory.

    python -m benchmarks.scaling

A step on n devices takes

    batch / n / speed  +  2 (n - 1) / n x gradient bytes / bandwidth  +  reductions x latency

where `speed` is that of one device in images/s. The second term is a ring all-reduce of the
gradients, with what each device sends and receives; the third is the all-reduces of BatchNorm's
statistics and of the loss, too small for bandwidth to matter. It is assumed that nothing overlaps
(too pessimistic) and that a device is as fast with few images as with many (too optimistic).
"""

import argparse
import ctypes
import math
import multiprocessing
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import jax_step
from benchmarks.compare import TRAINING_GFLOP
from train import allocator

PARAMETERS = 5_986_394
GRADIENT_BYTES = 4 * PARAMETERS  # float32
DEVICES = [2**power for power in range(3, 11)]


class Link(NamedTuple):
    """A network between devices.

    Attributes:
      name: Its name and nominal speed.
      bandwidth: Bytes/s that a device sends while receiving as many.
    """

    name: str
    bandwidth: float


LINKS = [
    Link("NVLink of an H100, 450 GB/s", 450e9),
    Link("InfiniBand NDR, 400 Gbit/s", 50e9),
    Link("Ethernet, 100 Gbit/s", 12.5e9),
]


def step_seconds(
    devices: int, batch_size: int, speed: float, bandwidth: float, reductions: int, latency: float
) -> float:
    """Seconds per step by the model above; images/s, bytes/s and seconds of latency."""
    sent = 2 * (devices - 1) / devices * GRADIENT_BYTES
    return batch_size / devices / speed + sent / bandwidth + reductions * latency


def needed_batch(
    devices: int,
    efficiency: float,
    speed: float,
    bandwidth: float,
    reductions: int,
    latency: float,
) -> int:
    """The smallest global batch size with which computing takes this share of a step."""
    waiting = step_seconds(devices, 0, speed, bandwidth, reductions, latency)
    per_device = speed * waiting * efficiency / (1 - efficiency)
    return devices * math.ceil(per_device)


def scaling_table(speed: float, reductions: int, latency: float) -> str:
    """By link and devices: a step at batch size 128, and the batch size for 80 % efficiency."""
    lines = [
        "| link | devices | all-reduce of the gradients, ms | step at batch 128, ms | images/s "
        "| efficiency | batch for 80 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for link in LINKS:
        for devices in DEVICES:
            model = (speed, link.bandwidth, reductions, latency)
            sending = step_seconds(devices, 0, speed, link.bandwidth, 0, 0.0)
            whole = step_seconds(devices, 128, *model)
            cells = ["-"] * 3  # more devices than images
            if devices <= 128:
                share = 128 / devices / speed / whole
                cells = [f"{whole * 1e3:.2f}", f"{128 / whole:,.0f}", f"{share:.0%}"]
            batch = needed_batch(devices, 0.8, *model)
            lines.append(
                f"| {link.name} | {devices:,} | {sending * 1e3:.3f} | {' | '.join(cells)} "
                f"| {batch:,} |"
            )
    return "\n".join(lines)


def memory_table(batch_sizes: list[int]) -> str:
    """Memory of a training step on this device by batch size: by the compiler, and measured."""
    lines = [
        "| batch on a device | state and data, MB | working memory, MB | measured peak, MB |",
        "|---|---|---|---|",
    ]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for batch_size, sizes in zip(batch_sizes, pool.imap(memory, batch_sizes), strict=True):
            cells = [f"{size / 1e6:,.0f}" for size in sizes]
            lines.append(f"| {batch_size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory(batch_size: int) -> tuple[int, int, int]:
    """Bytes of a step's arguments, of its working memory, and the measured peak.

    On a CPU (Linux) the peak is the growth of the process during two steps; on an accelerator it is
    JAX's peak memory there, state and data included.
    """
    take_steps, program = jax_step.compile_steps(batch_size, "float32")
    needs = program.memory_analysis()
    device = jax.devices()[0]
    if device.platform == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # release what compiling has left
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
        before = _resident("VmRSS")
        take_steps(2)
        peak = _resident("VmHWM") - before
    else:
        take_steps(2)
        peak = device.memory_stats()["peak_bytes_in_use"]
    return needs.argument_size_in_bytes, needs.temp_size_in_bytes, peak


def _resident(field: str) -> int:
    """A field of this process's memory status, in bytes."""
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speed", type=float, default=10_200, help="images/s of one device")
    parser.add_argument("--latency", type=float, default=10e-6, help="s per small all-reduce")
    parser.add_argument("--reductions", type=int, required=True, help="small all-reduces per step")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[], help="to measure memory")
    arguments = parser.parse_args()
    print(
        f"{arguments.speed:,.0f} images/s a device ({arguments.speed * TRAINING_GFLOP / 1e3:.0f} "
        f"TFLOP/s), {arguments.reductions} small reductions of {arguments.latency * 1e6:.0f} us, "
        f"{GRADIENT_BYTES / 1e6:.1f} MB of gradients"
    )
    print(scaling_table(arguments.speed, arguments.reductions, arguments.latency))
    if arguments.batch_sizes:
        print(memory_table(arguments.batch_sizes))


if __name__ == "__main__":
    allocator.restart_tuned()
    main()
