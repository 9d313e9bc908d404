"""All that is to be known of a GPU in one command of under nine minutes.

    python -m benchmarks.gpu --out runs/gpu --config.data.path=cifar-10-binary.tar.gz

First the comparison with PyTorch, then the article's 95.16 % run (row 8) in bfloat16, with its
evaluations. What does not fit into the time goes on when the same command is given again. It ends
with images/s, model FLOP/s utilisation, accuracy and time so far.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.compare import TRAINING_GFLOP

# Dense bfloat16 TFLOP/s by the vendor's data sheets (NVIDIA A100, H100 SXM and H200 SXM).
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}
SAVING_SECONDS = 20


def run_until(deadline: float, command: list[str]) -> int:
    """Runs a command; at the deadline (by `time.monotonic`) it is asked to save and end.

    Returns:
      Its exit status; 143 where it was stopped.
    """
    process = subprocess.Popen([sys.executable, "-m", *command])
    try:
        return process.wait(max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def utilisation(machine: str, images_per_second: float) -> str:
    """Model FLOP/s, and their share of the peak published for the device that `machine` names."""
    achieved = images_per_second * TRAINING_GFLOP / 1e3
    for name, peak in PEAK_TFLOPS.items():
        if name in machine:
            return f"{achieved:.3g} TFLOP/s, {achieved / peak:.1%} of {peak}"
    return f"{achieved:.3g} TFLOP/s, of an unknown peak"


def describe(comparison: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """What is known so far, in a few lines."""
    lines = [f"comparison: {comparison['machine']}"]
    lines += [
        f"  {row['work']}, batch {row['batch_size']}, {row['contender']}: "
        f"{row['images_per_second']:,.0f} images/s, {row['share_of_ceiling']:.1%} of the ceiling "
        f"of {row['ceiling_gflop_per_second'] / 1e3:,.3g} TFLOP/s"
        for row in comparison["rows"]
    ]
    if not history:
        return "\n".join([*lines, "row 8: no epoch is finished yet"])
    last = history[-1]
    seconds = sum(entry["seconds"] for entry in history)
    speed = sum(entry["images_per_second"] for entry in history) / len(history)
    accuracies = [entry["test_accuracy"] for entry in history if "test_accuracy" in entry]
    reached = "not evaluated yet"
    if accuracies:
        reached = f"test accuracy {accuracies[-1]:.4f}, best so far {max(accuracies):.4f}"
    lines.append(
        f"row 8: epoch {last['epoch']} in {seconds:.0f} s, {speed:,.0f} images/s "
        f"({utilisation(comparison['machine'], speed)}); {reached}"
    )
    return "\n".join(lines)


def main() -> None:
    """Compares, trains, reports."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where all is kept")
    parser.add_argument("--minutes", type=float, default=8.5, help="when to stop and save")
    parser.add_argument("--batch-sizes", nargs="+", default=["128"], help="of the comparison")
    arguments, overrides = parser.parse_known_args()
    deadline = time.monotonic() + 60 * arguments.minutes - SAVING_SECONDS

    arguments.out.mkdir(parents=True, exist_ok=True)
    figures, workdir = arguments.out / "compare.json", arguments.out / "row8"
    if not figures.exists():
        begun = arguments.out / "compare.begun.json"  # a comparison that is stopped starts anew
        compare = ["benchmarks.compare", "--work", "training", "inference", "--json", str(begun)]
        status = run_until(deadline, [*compare, "--batch-sizes", *arguments.batch_sizes])
        if status:
            sys.exit(status)
        begun.replace(figures)
    train = ["train.main", "--config", "cifar10", "--config.model.dtype=bfloat16"]
    status = run_until(deadline, [*train, "--workdir", str(workdir), *overrides])

    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    print(describe(json.loads(figures.read_text()), [json.loads(line) for line in lines]))
    if status == 128 + signal.SIGTERM:
        print("time is up; the same command goes on")
    elif status:
        sys.exit(status)


if __name__ == "__main__":
    main()
