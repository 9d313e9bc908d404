"""Runs several processes with several devices each on one machine."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import compiling

HELPERS = Path(__file__).parent
# 8 steps per epoch, one per call, so that signals arrive during training. The network is small
# because in the first step JAX needs half a second per all-reduce to connect CPU processes.
ARGUMENTS = [
    *("--config", "digits", "--config.model.name=preact_resnet", "--config.model.depth=11"),
    *("--config.train.batch_size=16", "--config.data.max_train_examples=128"),
    *("--config.train.epochs=3", "--config.train.steps_per_call=1"),
    *("--config.checkpoint.every_steps=5", "--config.optimizer.learning_rate=1e-4"),
]


class Topology(NamedTuple):
    """The number of processes, and of devices in each."""

    processes: int
    devices: int


def start(topology, output, *commands, **variables):
    """Starts a run; process i runs command i, or the last command, and writes to `output`.i."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = compiling.environment() | {
        "JAX_NUM_CPU_DEVICES": str(topology.devices),
        "GLIBC_TUNABLES": "",
        **variables,
    }
    processes = []
    for number in range(topology.processes):
        place = ["--coordinator", coordinator, "--num_processes", str(topology.processes)]
        place += ["--process_id", str(number)]
        command = commands[min(number, len(commands) - 1)]
        with Path(f"{output}.{number}").open("w") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, *(place if topology.processes > 1 else [])],
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def finish(processes, timeout=240):
    """Waits for the processes and returns their exit statuses."""
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()


def killed(name, steps):
    """Returns the command of a process that signals itself after some steps."""
    return [str(HELPERS / "kill_at.py"), name, "train.epoch:check_finite", "after", str(steps)]
