"""Runs do not depend on the number of devices and processes, and resume on any other number.

The processes are real, talk over the loopback, and have their own CPU devices.
"""

import fcntl
import json
import re
import signal
from pathlib import Path

import jax
import numpy as np
import picture_files
import pytest
import sharing
from multiprocess import ARGUMENTS, HELPERS, Topology, finish, killed, start

import train.main
from googlenet_jax.errors import UserError
from googlenet_jax.storage.loading import load_model
from train.cluster import Place

STREAM = [
    *ARGUMENTS[2:4],
    *("--config", "cifar10", "--config.data.name=folder"),
    *("--config.data.crop_size=8", "--config.data.pad=0", "--config.eval.batch_size=9"),
    *("--config.train.batch_size=16", "--config.train.epochs=2"),
    *("--config.optimizer.learning_rate=1e-4", "--config.train.steps_per_call=1"),
]


MANY = {
    "googlenet": Topology(1, 8),
    "preact_resnet": Topology(2, 4),
    "every ingredient": Topology(1, 8),
}

KINDS = dict.fromkeys(MANY, ("params", "opt_state", "batch_stats"))
KINDS["every ingredient"] = (*KINDS["googlenet"], "average")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Results of `parallel_run` on one device, and on eight devices or two processes of four.

    The processes train a network of few layers; see above.
    """
    found = {}
    with sharing.folder(tmp_path_factory, "steps") as folder:
        folder.mkdir(exist_ok=True)
        for name, many in MANY.items():
            for topology in (Topology(1, 1), many):
                out = folder / f"{name[:5]}-{topology.processes}x{topology.devices}"
                if not Path(f"{out}.json").exists():  # written last
                    command = [str(HELPERS / "parallel_run.py"), str(out), name]
                    # With XLA's default flags, as for users: without its newer emitters, rounding
                    # depends on how a batch is split.
                    statuses = finish(start(topology, out, command, XLA_FLAGS=""))
                    assert statuses == [0] * topology.processes, Path(f"{out}.0").read_text()
                found[name, topology] = (
                    json.loads(Path(f"{out}.json").read_text()),
                    np.load(f"{out}.npz"),
                )
    return {name: (found[name, many], found[name, Topology(1, 1)]) for name, many in MANY.items()}


def distance(found, expected):
    """The relative error in the Euclidean norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", MANY)
class TestAgainstOneDevice:
    def test_batches_are_the_same(self, steps, name):
        """Order and augmentation, bit for bit."""
        (found, _), (expected, _) = steps[name]
        assert found["batches"] == expected["batches"]

    def test_one_step_agrees(self, steps, name):
        """Loss, and all gradients, which are the momentum after one step."""
        (found, arrays), (expected, wanted) = steps[name]
        assert found["one"] == pytest.approx(expected["one"], rel=1e-5)
        for kind in KINDS[name]:
            assert distance(arrays[f"one {kind}"], wanted[f"one {kind}"]) < 1e-5, kind

    def test_twenty_steps_agree(self, steps, name):
        (found, arrays), (expected, wanted) = steps[name]
        assert found["twenty"] == pytest.approx(expected["twenty"], rel=1e-3)
        for kind in {*KINDS[name]} - {"opt_state"}:
            assert distance(arrays[f"twenty {kind}"], wanted[f"twenty {kind}"]) < 1e-3, kind

    def test_evaluation_is_exact(self, steps, name):
        """Although 8 devices do not divide batches of 50, and 50 does not divide 355 images."""
        assert steps[name][0][0]["evaluated"] == 355

    def test_only_gradients_and_sums_over_the_batch_are_exchanged(self, steps, name):
        """One all-reduce for each gradient, and otherwise only small ones.

        Those are BatchNorm's, of the size of a layer's channels, and those of loss and metrics. On
        GPU and TPU, unlike on CPU, XLA combines the gradients' into one.
        """
        found, _ = steps[name][0]
        kinds = {kind for kind, _ in found["collectives"]}
        # To mix images, the devices pass on one image, its label and its neighbour.
        assert kinds - {"collective-permute"} == {"all-reduce"}
        assert kinds == {"all-reduce"} or name == "every ingredient"
        sizes = [
            size for kind, shapes in found["collectives"] for size in shapes if kind == "all-reduce"
        ]
        assert found["parameters"] <= sum(sizes) <= 1.2 * found["parameters"]


def test_a_frozen_trunk_stays_the_same_to_the_bit(steps):
    """Weights, statistics and their averages, on one device and on eight."""
    for found, _ in steps["every ingredient"]:
        assert len(found["frozen"]) > 20
        assert all(found["frozen"])


def run(topology, workdir, *commands, arguments=ARGUMENTS):
    """Waits for a run to end; returns exit statuses and outputs of its processes."""
    output = workdir.with_suffix(f".{topology.processes}x{topology.devices}")
    arguments = [*arguments, "--workdir", str(workdir)]
    commands = commands or [["-m", "train.main"]]
    statuses = finish(start(topology, output, *([*each, *arguments] for each in commands)))
    texts = [Path(f"{output}.{number}").read_text() for number in range(topology.processes)]
    return statuses, texts


def history(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_resumes_with_any_number_of_processes_and_devices(tmp_path):
    """After SIGTERM to one process all save at the same step, and the result is the same."""
    statuses, (text,) = run(Topology(1, 1), tmp_path / "whole")
    assert statuses == [0], text
    workdir, done = tmp_path / "moved", 0
    for topology in (Topology(4, 1), Topology(1, 1), Topology(2, 1)):
        last = killed("SIGTERM", 4)
        others = [["-m", "train.main"]] * (topology.processes - 1)
        statuses, texts = run(topology, workdir, *others, last)
        assert statuses == [143] * topology.processes, texts
        (step,) = (int(n) for n in re.findall(r"^saving step (\d+)", texts[0], re.MULTILINE))
        assert done + 4 <= step <= done + 8, texts
        if done:
            assert f"at step {done} of 24" in texts[0]
        assert [text for text in texts[1:] if "epoch" in text] == []  # only process 0 prints
        done = step
    statuses, (text,) = run(Topology(1, 8), workdir)
    assert statuses == [0], text
    assert f"at step {done} of 24" in text

    moved, whole = history(workdir), history(tmp_path / "whole")
    assert [line["step"] for line in moved] == [8, 16, 24]
    for line, expected in zip(moved, whole, strict=True):
        for name in ("train_loss", "test_loss", "param_norm"):
            assert line[name] == pytest.approx(expected[name], rel=1e-3), name
    assert json.loads((workdir / "summary.json").read_text())["device"]["count"] == 8
    first, second = (load_model(folder, "latest") for folder in (workdir, tmp_path / "whole"))
    assert int(first.state.step) == int(second.state.step) == 24


def test_a_stream_resumes_with_another_number_of_processes(tmp_path):
    """Within an epoch, although other processes then decode a given picture."""
    folder = picture_files.digits_folder(tmp_path / "digits", 70, 41)
    arguments = [*STREAM, f"--config.data.path={folder}"]
    statuses, (text,) = run(Topology(1, 1), tmp_path / "whole", arguments=arguments)
    assert statuses == [0], text
    workdir, last = tmp_path / "moved", killed("SIGTERM", 1)
    statuses, texts = run(Topology(2, 2), workdir, ["-m", "train.main"], last, arguments=arguments)
    assert statuses == [143, 143], texts
    statuses, (text,) = run(Topology(1, 1), workdir, arguments=arguments)
    assert statuses == [0], text
    (step,) = map(int, re.findall(r"at step (\d+) of 8", text))
    assert step % 4
    for line, expected in zip(history(workdir), history(tmp_path / "whole"), strict=True):
        for name in ("train_loss", "train_accuracy", "test_loss", "param_norm"):
            assert line[name] == pytest.approx(expected[name], rel=1e-4), name


def test_runs_on_eight_devices_are_reproducible_to_the_bit(tmp_path):
    states = []
    for name in ("first", "second"):
        short = [*ARGUMENTS, "--config.train.steps=9"]
        statuses, (text,) = run(Topology(1, 8), tmp_path / name, arguments=short)
        assert statuses == [0], text
        states.append(jax.tree.leaves(load_model(tmp_path / name, "latest").state))
    assert all(map(np.array_equal, *states))


def test_ctrl_c_in_one_process_saves_in_all(tmp_path):
    statuses, texts = run(
        Topology(2, 1), tmp_path / "run", ["-m", "train.main"], killed("SIGINT", 4)
    )
    assert statuses == [143, 143], texts
    (step,) = re.findall(r"^saving step (\d+)", texts[0], re.MULTILINE)
    assert step in {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_that_one_process_cannot_read_makes_all_save_and_exit(tmp_path, split):
    folder = picture_files.digits_folder(tmp_path / "digits", 70, 41)
    arguments = [*STREAM, f"--config.data.path={folder}"]
    damaged = sorted((folder / split / "3").iterdir())[0]
    content = damaged.read_bytes()
    damaged.write_bytes(bytes(len(content)))
    workdir = tmp_path / "run"
    statuses, texts = run(Topology(2, 1), workdir, arguments=arguments)
    assert statuses == [2, 2], texts
    told = [re.findall("error: .*", text)[-1] for text in texts]
    assert sum(damaged.name in line for line in told) == 1, told
    assert "error: another process of the run cannot read its images" in told
    saved = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    damaged.write_bytes(content)
    statuses, texts = run(Topology(2, 1), workdir, arguments=arguments)
    assert statuses == [0, 0], texts
    assert f"at step {max(saved)} of 8" in texts[0]


def test_a_process_that_is_killed_ends_the_others(tmp_path):
    """Within a minute, with a message, losing at most one checkpoint interval."""
    workdir = tmp_path / "run"
    output, last = tmp_path / "out", killed("SIGKILL", 12)
    arguments = [*ARGUMENTS, "--workdir", str(workdir)]
    processes = start(Topology(2, 1), output, ["-m", "train.main", *arguments], [*last, *arguments])
    assert processes[1].wait(240) == -signal.SIGKILL
    assert processes[0].wait(60) not in (0, 2, 143)
    text = Path(f"{output}.0").read_text()
    assert "error: process 0 of 2 has failed" in text or "another task died" in text, text

    statuses, (text,) = run(Topology(1, 1), workdir)
    assert statuses == [0], text
    (step,) = (int(n) for n in re.findall(r"resuming .* at step (\d+) of 24", text))
    assert 12 - step <= 5


def test_a_process_with_wrong_input_ends_the_others(tmp_path):
    """The working directory is in use, which only process 0 notices."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    with (workdir / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        statuses, texts = run(Topology(2, 1), workdir)
    assert statuses[0] == 2
    assert statuses[1] not in (0, 143)
    assert texts[0].splitlines()[-1].endswith("another process is training there")


def test_processes_with_different_configs_end(tmp_path):
    """A process whose config differs from that of process 0 reports it."""
    same = ["-m", "train.main", *ARGUMENTS, "--workdir", str(tmp_path / "run")]
    output = tmp_path / "out"
    statuses = finish(start(Topology(2, 1), output, same, [*same, "--config.seed=1"]))
    assert statuses[1] == 2
    assert statuses[0] not in (0, 2, 143)
    (error,) = re.findall("error: .*", Path(f"{output}.1").read_text())
    assert error == "error: process 1: its config differs from that of process 0"


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path):
    arguments = ["-m", "train.main", "--config", "digits", "--config.train.batch_size=20"]
    output = tmp_path / "out"
    assert finish(start(Topology(1, 8), output, arguments)) == [2]
    (line,) = Path(f"{output}.0").read_text().splitlines()
    assert line == (
        "error: train.batch_size=20: must be a multiple of the 8 devices, such as 16 or 24"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator=a:1"], "--num_processes and --process_id: missing; give all three"),
        (["--num_processes=2", "--process_id=0"], "--coordinator: missing"),
        (["--num_processes=two"], "--num_processes: invalid int value: 'two'"),
        (
            ["--coordinator=a", "--num_processes=2", "--process_id=0"],
            "--coordinator=a: must be HOST:PORT",
        ),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2: must be at least 0 and less than --num_processes=2",
        ),
    ],
)
def test_wrong_cluster_flags_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        train.main.main(["--config", "digits", *arguments])


def test_other_arguments_are_passed_on():
    others = ["--config", "digits", "--config.seed=1"]
    flags = ["--coordinator", "a:1", "--num_processes=2", "--process_id", "1"]
    assert Place.parse([*others, *flags]) == (Place("a:1", 2, 1), others)
    assert Place.parse(others) == (Place(), others)
