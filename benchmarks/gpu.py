"""Measures everything this project wants to know about a GPU, in under nine minutes.

    python -m benchmarks.gpu --out runs/gpu --config.data.path=cifar-10-binary.tar.gz

First, in at most three minutes: the images/s of this project's training step and of PyTorch's,
XLA's description of the device, and the time of each operation of a step. Then the article's 95.16
% run (row 8, `configs/cifar10.py`) in bfloat16. Each figure is written as soon as it is known, the
run's metrics and checkpoint after each epoch. The same command, run again, continues where it
stopped.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.compare import (
    TRAINING_GFLOP,
    TURN_SECONDS,
    Contender,
    Rival,
    check_torch,
    machine,
)
from benchmarks.targets import TARGETS

# By NVIDIA's data sheets an H200 has the same peak as an H100.
PEAK_TFLOPS = {
    "A100": TARGETS["a100"].tflops,
    "H100": TARGETS["h100"].tflops,
    "H200": TARGETS["h100"].tflops,
}
SAVING_SECONDS = 20
SPEED_SECONDS = 180
COMPILE_SECONDS = 60  # for `torch.compile`, which may take many minutes for this network


def run_until(deadline: float, command: list[str], output: Path | None = None) -> int:
    """Runs a module; at the deadline it gets a SIGTERM, on which it saves and ends.

    Args:
      deadline: Time by `time.monotonic`.
      command: The module and its arguments.
      output: File for its standard output.

    Returns:
      Its exit status; 143 if it was stopped.
    """
    with output.open("w") if output else contextlib.nullcontext() as file:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=file)
    try:
        return process.wait(max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def entrants(batch_sizes: list[int]) -> Iterator[tuple[int, Contender]]:
    """(batch size, training step) to be timed, the most important first."""
    theirs = {"training": True, "channels_last": True, "autocast": True}
    for size in batch_sizes:
        own = {"batch_size": size, "dtype": "bfloat16"}
        yield size, Contender("googlenet_jax", "bfloat16", "jax_step:training", own)
        eager = theirs | {"batch_size": size}
        name = "PyTorch channels_last, autocast"
        yield size, Contender(f"{name}, eager", "bfloat16", "torch_step:steps", eager)
    compiled = theirs | {"batch_size": batch_sizes[0], "compiled": True}
    yield (
        batch_sizes[0],
        Contender(f"{name}, compiled", "bfloat16", "torch_step:steps", compiled),
    )


def measure_speed(contender: Contender, batch_size: int, limit: float) -> float | None:
    """Images/s of a training step; None if the first one takes longer than `limit` seconds."""
    with Rival(contender) as rival:
        try:
            rival.seconds(1, limit)
        except TimeoutError:
            return None
        number = max(1, round(TURN_SECONDS / rival.seconds(1)))
        return batch_size * number / rival.seconds(number)


def measure_speeds(deadline: float, batch_sizes: list[int], path: Path) -> list[dict[str, Any]]:
    """A row for each contender; appended to the file at once, and not measured if already there."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["batch_size"], row["contender"]) for row in rows}
    for size, contender in entrants(batch_sizes):
        left = deadline - time.monotonic()
        if (size, contender.name) in done or left < 0:
            continue
        limit = min(left, COMPILE_SECONDS) if contender.options.get("compiled") else left
        row = {"batch_size": size, "contender": contender.name, "images_per_second": None}
        try:
            row["images_per_second"] = measure_speed(contender, size, limit)
        except RuntimeError as error:
            row["failed"] = str(error)
        if row["images_per_second"] is None:
            row.setdefault("failed", f"not ready after {round(limit)} s")
        rows.append(row)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(describe_speed(row), flush=True)
    return rows


def describe_speed(row: dict[str, Any]) -> str:
    """The row as one line of text."""
    found = f"batch {row['batch_size']}, {row['contender']}: "
    if row["images_per_second"] is None:
        return f"{found}{row['failed']}"
    return f"{found}{row['images_per_second']:,.0f} images/s"


def write_device(path: Path) -> str:
    """Writes XLA's description of the device (see `targets.description_text`); returns its name.

    Runs in another process, because this one must not take the device's memory.
    """
    code = (
        "import jax, jaxlib.xla_client, sys\n"
        "topology = jaxlib.xla_client.get_topology_for_devices(jax.devices())\n"
        "open(sys.argv[1], 'w').write(getattr(topology, 'target_config', 'none: no GPU\\n'))\n"
        "print(jax.devices()[0].device_kind)"
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def utilisation(machine: str, images_per_second: float) -> str:
    """Model FLOP/s, and their share of the published peak of the device named in `machine`."""
    achieved = images_per_second * TRAINING_GFLOP / 1e3
    for name, peak in PEAK_TFLOPS.items():
        if name in machine:
            return f"{achieved:.3g} TFLOP/s, {achieved / peak:.1%} of {peak}"
    return f"{achieved:.3g} TFLOP/s, of an unknown peak"


def describe_run(device: str, history: list[dict[str, Any]]) -> str:
    """The progress of row 8 as one line of text."""
    if not history:
        return "row 8: no epoch is finished yet"
    last = history[-1]
    seconds = sum(entry["seconds"] for entry in history)
    speed = sum(entry["images_per_second"] for entry in history) / len(history)
    accuracies = [entry["test_accuracy"] for entry in history if "test_accuracy" in entry]
    reached = "not evaluated yet"
    if accuracies:
        reached = f"test accuracy {accuracies[-1]:.4f}, best so far {max(accuracies):.4f}"
    return (
        f"row 8: epoch {last['epoch']} in {seconds:.0f} s, {speed:,.0f} images/s "
        f"({utilisation(device, speed)}); {reached}"
    )


def main() -> None:
    """Measures speeds, trains row 8 and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="time limit, saving included")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[128, 512, 1024])
    arguments, overrides = parser.parse_known_args()
    check_torch()
    started, out = time.monotonic(), arguments.out
    deadline = started + 60 * arguments.minutes - SAVING_SECONDS

    out.mkdir(parents=True, exist_ok=True)
    device, profile = write_device(out / "device.txt"), out / "profile.md"
    (out / "machine.txt").write_text(f"{machine()}\n")
    print(device)
    until = min(deadline, started + SPEED_SECONDS)
    rows = measure_speeds(until, arguments.batch_sizes, out / "speeds.jsonl")
    if not profile.exists() and time.monotonic() < until:
        size = str(arguments.batch_sizes[0])
        command = ["benchmarks.profile", "--batch-size", size, "--dtype", "bfloat16"]
        begun = out / "profile.begun.md"
        if run_until(until, [*command, "--rows", "1000"], begun) == 0:
            begun.replace(profile)
    workdir = out / "row8"
    train = ["train.main", "--config", "cifar10", "--config.model.dtype=bfloat16"]
    status = run_until(deadline, [*train, "--workdir", str(workdir), *overrides])

    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    print(device, *map(describe_speed, rows), sep="\n")
    print(describe_run(device, [json.loads(line) for line in lines]))
    if status == 128 + signal.SIGTERM:
        print("time is up; run the same command again to continue")
    elif status:
        sys.exit(status)


if __name__ == "__main__":
    main()
