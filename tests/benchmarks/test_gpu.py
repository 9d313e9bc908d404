"""What the GPU benchmark reports, and how it stops."""

import importlib.util
import json
import signal
import sys
import time

import pytest

from benchmarks import compare, gpu


def test_utilisation_is_relative_to_the_published_peak():
    """10,000 images/s x 3 x 2 x 1,556.9 M multiply-adds: 93.4 of an H100's 989 TFLOP/s."""
    assert gpu.utilisation("NVIDIA H100 80GB HBM3", 10_000) == "93.4 TFLOP/s, 9.4% of 989"
    assert gpu.utilisation("a new one", 10_000) == "93.4 TFLOP/s, of an unknown peak"


def test_description():
    history = [
        {"epoch": 1, "seconds": 8.0, "images_per_second": 8_000.0, "test_accuracy": 0.5},
        {"epoch": 2, "seconds": 4.0, "images_per_second": 12_000.0, "test_accuracy": 0.4},
        {"epoch": 3, "seconds": 4.0, "images_per_second": 10_000.0},
    ]
    assert gpu.describe_run("NVIDIA H100 80GB HBM3", history) == (
        "row 8: epoch 3 in 16 s, 10,000 images/s (93.4 TFLOP/s, 9.4% of 989); "
        "test accuracy 0.4000, best so far 0.5000"
    )
    assert gpu.describe_run("", []).endswith("no epoch is finished yet")
    assert gpu.describe_run("", history[2:]).endswith("not evaluated yet")


def test_speeds_are_saved_as_they_are_measured(tmp_path, monkeypatch):
    """A second call measures only the missing ones; a slow compilation is reported."""
    asked = []

    def measure(contender, batch_size, limit):
        asked.append((batch_size, contender.name.rpartition(" ")[2]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return None if contender.options.get("compiled") else 1000.4

    monkeypatch.setattr(gpu, "measure_speed", measure)
    path, deadline = tmp_path / "speeds.jsonl", time.monotonic() + 600
    with pytest.raises(KeyboardInterrupt):
        gpu.measure_speeds(deadline, [128, 512], path)
    rows = gpu.measure_speeds(deadline, [128, 512], path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    every = [(128, "googlenet_jax"), (128, "eager"), (512, "googlenet_jax"), (512, "eager")]
    assert asked == [*every[:3], *every[2:], (128, "compiled")]
    assert gpu.describe_speed(rows[0]) == "batch 128, googlenet_jax: 1,000 images/s"
    assert gpu.describe_speed(rows[-1]).endswith("compiled: not ready after 60 s")
    assert gpu.measure_speeds(time.monotonic() - 1, [8], tmp_path / "late.jsonl") == []


def test_a_contender_that_takes_too_long_is_stopped():
    slow = compare.Contender("slow", "float32", "jax_step:product", {"dtype": "float32", "size": 8})
    assert gpu.measure_speed(slow, 8, limit=0.0) is None


def test_a_contender_that_dies_loses_only_its_own_row(tmp_path, monkeypatch):
    """It may die of too little memory, for example."""
    options = {"dtype": "float32", "size": -1}
    dying = compare.Contender("dying", "float32", "jax_step:product", options)
    monkeypatch.setattr(gpu, "entrants", lambda sizes: [(8, dying)])
    (row,) = gpu.measure_speeds(time.monotonic() + 600, [8], tmp_path / "speeds.jsonl")
    assert gpu.describe_speed(row) == "batch 8, dying: its process ended with status 1"


def test_the_device_describes_itself(tmp_path):
    """For a GPU it is the description that the compiler needs; a CPU has none."""
    assert gpu.write_device(tmp_path / "device.txt") == "cpu"
    assert (tmp_path / "device.txt").read_text() == "none: no GPU\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A module that sleeps for its argument in seconds, and exits with 143 after SIGTERM."""
    (tmp_path / "asked.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # The child inherits the mask, so an early signal waits until its handler is installed.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


@pytest.mark.parametrize(("sleep", "left", "status"), [("0", 60, 0), ("600", 0, 143)])
def test_at_the_deadline_the_program_gets_sigterm(program, sleep, left, status):
    assert gpu.run_until(time.monotonic() + left, ["asked", sleep]) == status


@pytest.mark.parametrize("program", [compare, gpu])
def test_without_pytorch_it_ends_in_one_line(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_:
        program.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith("of the comparison: pip install torch\n")
    assert not list(tmp_path.iterdir())
