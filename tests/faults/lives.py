"""A program's life in a process of its own, and what may befall it.

A process that has imported everything, but has started no thread and no backend, forks itself for
each life: that saves the seconds of the imports, and PyPI's ckpt-chaos, which kills a program at
the same boundaries, would have to spend them on every one.
"""

import contextlib
import errno
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from googlenet_jax.storage import proof

SECONDS = 180.0  # that a life may last
# 4 steps an epoch, 3 epochs, checkpoints at steps 3, 4, 6, 8, 9 and 12.
TRAIN = [
    *("--config", "digits", "--config.train.batch_size=16", "--config.train.epochs=3"),
    *("--config.model.name=preact_resnet", "--config.model.depth=11"),
    *("--config.data.max_train_examples=64", "--config.model.width_multiplier=0.0625"),
    *("--config.data.valid_examples=20", "--config.checkpoint.every_steps=3"),
    "--config.train.steps_per_call=1",
]
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


def prepare() -> None:
    """Imports what the programs need, once for all lives."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import tensorboardX  # noqa: F401

    import train.export
    import train.loop
    import train.main
    import train.predict
    import train.report  # noqa: F401

    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")


class Ended:
    """How a life ended.

    Attributes:
      status: of exit; negative for the signal that ended it; None: it had to be stopped.
      errors: what it printed to stderr.
      seconds: that it lasted.
    """

    def __init__(self, status: int | None, errors: str, seconds: float):
        self.status, self.errors, self.seconds = status, errors, seconds

    def unsound(self) -> str:
        """What no life may do: hang, or print anything but lines of the programs' own."""
        if self.status is None:
            return "hang"
        own = ("error: ", "SIGTERM: ", "SIGINT: ")
        lines = [line for line in self.errors.splitlines() if not line.startswith(own)]
        if lines:
            return f"stderr: {lines[0][:200]}"
        told = sum(line.startswith("error: ") for line in self.errors.splitlines())
        if self.status in (1, 2) and told != 1:
            return f"exit {self.status} with {told} lines"
        return ""


def live(
    program: str,
    arguments: list[str],
    folder: Path,
    disturb: Callable[[], None] | None = None,
    meddle: Callable[[int], None] | None = None,
) -> Ended:
    """Lets `python -m PROGRAM ARGUMENTS` live.

    Args:
      program: such as train.main.
      arguments: of it.
      folder: where its output goes.
      disturb: called in the new process, before the program.
      meddle: called in this process, with the number of the new one.
    """
    started = time.monotonic()
    child = os.fork()
    if not child:
        _be(program, arguments, folder, disturb)
    try:
        if meddle:
            meddle(child)
        while time.monotonic() - started < SECONDS:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            code = None
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    errors = (folder / "stderr").read_text(errors="replace")
    return Ended(code, errors, time.monotonic() - started)


def _be(
    program: str, arguments: list[str], folder: Path, disturb: Callable[[], None] | None
) -> None:
    """Becomes the program; never returns."""
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        from train import console

        sys.argv = [program, *arguments]
        if disturb:
            disturb()
        console.start(sys.modules[program].main)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def at_changes(folder: Path, act: Callable[[int], None]) -> Callable[[], None]:
    """Calls `act` before each change of a file in and below a folder, with its number, from 1."""
    count = 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or not isinstance(values[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (values[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.fsdecode(values[0])
        if event != "open" and isinstance(values[-1], int) and values[-1] >= 0:
            # Within shutil.rmtree: a name in a folder that is open.
            path = os.path.join(os.readlink(f"/proc/self/fd/{values[-1]}"), path)
        if not path.startswith(str(folder)):
            return
        count += 1
        act(count)

    return lambda: sys.addaudithook(watch)


def count_changes(folder: Path, note: Path) -> Callable[[], None]:
    """Notes, in a file that grows by a byte, each change of a file in and below a folder."""
    file = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return at_changes(folder, lambda _: os.write(file, b"."))


def die_at(number: int, folder: Path) -> Callable[[], None]:
    """SIGKILL before the change of that number."""

    def act(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return at_changes(folder, act)


def refuse_at(number: int, folder: Path, error: int) -> Callable[[], None]:
    """What a machine does that has no room, no rights or a bad disk: it refuses one change."""

    def act(count: int) -> None:
        if count == number:
            raise OSError(error, os.strerror(error), "injected")

    return at_changes(folder, act)


def limit_files(size: int) -> None:
    """No file may be larger: also for what TensorStore writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def send(rng: random.Random, seconds: float, *signals: signal.Signals) -> Callable[[int], None]:
    """Sends signals at a random moment of a life that lasts so long, the next ones soon after."""

    def meddle(child: int) -> None:
        time.sleep(rng.random() * seconds)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            time.sleep(0.3 * rng.random())

    return meddle


def contents(folder: Path) -> str:
    """The sha256 of all names and files in and below a folder, but for unfinished saves."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if ".orbax-checkpoint-tmp" in str(path):
            continue  # which the next start clears away
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def result(workdir: Path, are_all_whole: bool = True) -> str:
    """All that must be equal to the bit, but for the wall clock, of a run that has ended.

    Args:
      workdir: of the run.
      are_all_whole: False where an older checkpoint was damaged, which nobody has read since.
    """
    latest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    proven = json.loads((latest / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    summary = json.loads((workdir / "summary.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    entries = [*proven["record"]["history"], *lines, summary["final"], summary["best"]]
    timeless = [{k: v for k, v in entry.items() if k not in clock} for entry in entries]
    steps = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    for step in steps if are_all_whole else [latest.name]:
        folder = workdir / "checkpoints" / step
        if not (folder / proof.SEAL).exists():
            continue  # killed before that; the digests prove it
        sealed = json.loads((folder / proof.SEAL).read_text())
        if any(hashlib.sha256((folder / n).read_bytes()).hexdigest() != sealed[n] for n in sealed):
            return f"checkpoint {step} is not what its seal says"
    # An older checkpoint may be left, where the clean-up after the last save was killed.
    return json.dumps([proven["leaves"], timeless, latest.name, (workdir / "curves.png").exists()])


ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES")}
