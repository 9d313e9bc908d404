"""What the one command for a GPU says of what it finds, and how it stops."""

import json
import signal
import time
from pathlib import Path

import pytest

from benchmarks import gpu

COMPARISON = {
    "machine": "NVIDIA H100 80GB HBM3, 16 cores",
    "rows": [
        {
            "work": "training",
            "batch_size": 128,
            "contender": "googlenet_jax, bfloat16",
            "images_per_second": 10_000.0,
            "share_of_ceiling": 0.125,
            "ceiling_gflop_per_second": 600e3,
        }
    ],
}


def test_utilisation_is_of_the_published_peak():
    """10,000 images/s x 3 x 2 x 1,556.9 M multiply-adds: 93.4 of an H100's 989 TFLOP/s."""
    assert gpu.utilisation("NVIDIA H100 80GB HBM3", 10_000) == "93.4 TFLOP/s, 9.4% of 989"
    assert gpu.utilisation("a new one", 10_000) == "93.4 TFLOP/s, of an unknown peak"


def test_description():
    history = [
        {"epoch": 1, "seconds": 8.0, "images_per_second": 8_000.0, "test_accuracy": 0.5},
        {"epoch": 2, "seconds": 4.0, "images_per_second": 12_000.0, "test_accuracy": 0.4},
        {"epoch": 3, "seconds": 4.0, "images_per_second": 10_000.0},
    ]
    first, second, third = gpu.describe(COMPARISON, history).splitlines()
    assert first == "comparison: NVIDIA H100 80GB HBM3, 16 cores"
    assert "10,000 images/s, 12.5% of the ceiling of 600 TFLOP/s" in second
    assert third == (
        "row 8: epoch 3 in 16 s, 10,000 images/s (93.4 TFLOP/s, 9.4% of 989); "
        "test accuracy 0.4000, best so far 0.5000"
    )
    assert gpu.describe(COMPARISON, []).endswith("no epoch is finished yet")
    assert gpu.describe(COMPARISON, history[2:]).endswith("not evaluated yet")


def test_a_comparison_that_was_stopped_is_made_again(tmp_path, monkeypatch):
    """It keeps its figures as it goes; they are taken for the whole only when it has ended."""
    asked, statuses = [], iter([143, 0, 0])

    def run_until(deadline, command):
        asked.append(command[0])
        if "--json" in command:
            figures = Path(command[command.index("--json") + 1])
            figures.write_text(json.dumps(COMPARISON))
        return next(statuses)

    monkeypatch.setattr(gpu, "run_until", run_until)
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        gpu.main()
    gpu.main()
    assert asked == ["benchmarks.compare", "benchmarks.compare", "train.main"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A module that ends by itself, or sleeps until it is asked to end and then says 143."""
    (tmp_path / "asked.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Inherited: however early the signal comes, it waits until the program is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


@pytest.mark.parametrize(("sleep", "left", "status"), [("0", 60, 0), ("600", 0, 143)])
def test_the_deadline_asks_for_an_orderly_end(program, sleep, left, status):
    assert gpu.run_until(time.monotonic() + left, ["asked", sleep]) == status
