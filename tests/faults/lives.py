"""Runs programs in forked processes, and injects kills and faults into them.

The parent imports everything but starts no thread and no JAX backend. Forking it for each run
("life") saves the seconds of the imports, which PyPI's ckpt-chaos, which kills programs at the
same points, would spend on every run.
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

SECONDS = 180.0  # time limit of a life
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
    """Imports everything that the programs need."""
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
      status: Exit status, minus the number of the signal that ended it, or None after a timeout.
      errors: What it printed to stderr.
      seconds: Its duration.
    """

    def __init__(self, status: int | None, errors: str, seconds: float):
        self.status, self.errors, self.seconds = status, errors, seconds

    def unsound(self) -> str:
        """Returns "", or what went wrong: a hang, or unexpected output on stderr."""
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
    """Runs `python -m PROGRAM ARGUMENTS` in a forked process.

    Args:
      program: For example train.main.
      arguments: Its command-line arguments.
      folder: Where its stdout and stderr are written.
      disturb: Called in the new process, before the program.
      meddle: Called in this process, with the new process's id.
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
    """Runs the program and exits; never returns."""
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
    """Calls `act` before each file change below a folder, with the count of changes from 1."""
    count = 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or not isinstance(values[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (values[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.fsdecode(values[0])
        if event != "open" and isinstance(values[-1], int) and values[-1] >= 0:
            # shutil.rmtree passes a name and the descriptor of its folder.
            path = os.path.join(os.readlink(f"/proc/self/fd/{values[-1]}"), path)
        if not path.startswith(str(folder)):
            return
        count += 1
        act(count)

    return lambda: sys.addaudithook(watch)


def count_changes(folder: Path, note: Path) -> Callable[[], None]:
    """Counts file changes below a folder: each one adds a byte to the file `note`."""
    file = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return at_changes(folder, lambda _: os.write(file, b"."))


def die_at(number: int, folder: Path) -> Callable[[], None]:
    """Kills the process before the given file change, counted from 1."""

    def act(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return at_changes(folder, act)


def refuse_at(number: int, folder: Path, error: int) -> Callable[[], None]:
    """Makes one file change fail, as with a full disk, missing rights or a bad disk."""

    def act(count: int) -> None:
        if count == number:
            raise OSError(error, os.strerror(error), "injected")

    return at_changes(folder, act)


def read_meanwhile(workdir: Path) -> Callable[[], None]:
    """Loads the run's newest checkpoint in another process, again and again until the run ends.

    An error goes to the program's stderr. Each load adds a byte to the file `loads` beside the
    working directory.
    """

    def read() -> None:
        from googlenet_jax.storage.loading import load_run
        from train import console

        console.mute_libraries()
        sys.unraisablehook = console.take_lost  # as in the programs
        loads = os.open(workdir.parent / "loads", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while not (workdir / "summary.json").exists():
            # Orbax renames a whole checkpoint to its number.
            if any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
                load_run(workdir, "latest")
                os.write(loads, b".")

    def fork() -> None:
        if not os.fork():
            try:
                read()
            except BaseException:
                traceback.print_exc()
            os._exit(0)

    return fork


def limit_files(size: int) -> None:
    """Limits the size of files, in bytes; this also affects TensorStore."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def send(rng: random.Random, seconds: float, *signals: signal.Signals) -> Callable[[int], None]:
    """Sends the first signal at a random time within `seconds`, the others soon after it."""

    def meddle(child: int) -> None:
        time.sleep(rng.random() * seconds)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            time.sleep(0.3 * rng.random())

    return meddle


def contents(folder: Path) -> str:
    """Returns a SHA-256 of all names and files below a folder, without unfinished saves."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if ".orbax-checkpoint-tmp" in str(path):
            continue  # the next start removes it
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def result(workdir: Path, are_all_whole: bool = True) -> str:
    """Returns everything in a finished run that must be bit-identical, so without timings.

    Args:
      workdir: Working directory of the run.
      are_all_whole: False if an older checkpoint may be damaged; then only the latest is checked.
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
            continue  # killed before sealing; the digests still prove the contents
        sealed = json.loads((folder / proof.SEAL).read_text())
        if any(hashlib.sha256((folder / n).read_bytes()).hexdigest() != sealed[n] for n in sealed):
            return f"checkpoint {step} is not what its seal says"
    # An older checkpoint may remain if the clean-up after the last save was killed.
    return json.dumps([proven["leaves"], timeless, latest.name, (workdir / "curves.png").exists()])


ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES")}
