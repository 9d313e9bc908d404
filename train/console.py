"""What the programs share at their edges: exit statuses, signals, progress on the terminal."""

import argparse
import contextlib
import errno
import inspect
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import absl.logging
from tqdm import tqdm

from googlenet_jax import fileio
from googlenet_jax.errors import TrainingError, UserError, one_line, printable

# What the machine may refuse at any moment: space, rights, a disk that fails.
OUTSIDE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOSYS),
}


def start(main: Callable[[list[str]], None]) -> None:
    """Runs a program as the whole of a process, and ends the process if it fails.

    At once: a library's threads may still wait for what has failed, and Python would wait for
    them, or they would ask for more work when there is none to be had and print a traceback.
    """
    _open_standard_streams()
    threading.excepthook, sys.unraisablehook = _tell_of_thread, take_lost
    try:
        run(main)
        return
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 0
    except BaseException:  # a defect
        sys.excepthook(*sys.exc_info())
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a program to its exit: 0 done, 2 the user's input is wrong, 1 the run failed."""
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    mute_libraries()
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if interrupted:  # a library that was being imported has made another error of it
            sys.exit(128 + signal.SIGINT)
        status = report(error)
        if status is None:
            raise
        sys.exit(status)
    finally:
        signal.signal(signal.SIGINT, previous)


def _open_standard_streams() -> None:
    """Puts the null device where a standard stream is closed.

    Else the next file that is opened would get its number, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if number and getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        stream = getattr(sys, name)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale knows


class _Terminal(io.FileIO):
    """A terminal that may go away: what is written to it then is lost."""

    def write(self, content: Any) -> int:
        """Writes what there is room for; all of it, if nobody is there."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(content)


def outlive_terminal() -> None:
    """Lets the process go on when its terminal is closed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            raw = _Terminal(stream.fileno(), "w", closefd=False)
            lasting = io.TextIOWrapper(
                io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
            )
            setattr(sys, name, lasting)


def take_lost(lost: Any) -> None:
    """Takes what a destructor or a callback raises, which nobody can catch.

    Ctrl-C ends the process. When one of Orbax's reads or writes has failed, the others are
    dropped half done, and TensorStore reports them to an event loop that is gone: no news.
    """
    if isinstance(lost.exc_value, KeyboardInterrupt):
        os._exit(128 + signal.SIGINT)
    if not inspect.iscoroutine(lost.object) and str(lost.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(lost)


def _tell_of_thread(caught: threading.ExceptHookArgs) -> None:
    """Makes one line of what the machine refuses to a library's thread, such as TensorBoard's."""
    error = caught.exc_value
    if error is None or report(error) is None:
        threading.__excepthook__(caught)


def mute_libraries() -> None:
    """Keeps libraries' remarks about what they then raise from standing between our own lines."""
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    for library in ("PIL", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax, in its threads, and TFDS


def complain(error: object) -> None:
    """Prints one line, whatever the libraries and the user's own files put into the error."""
    print(f"error: {one_line(error)}", file=sys.stderr)


def say(line: object) -> None:
    """Prints a line at once, whatever the names in it hold."""
    print(printable(line), flush=True)


def report(error: BaseException) -> int | None:
    """Prints an error in one line and returns its exit status; None: it is none of ours."""
    status = 2 if isinstance(error, UserError) else 1 if isinstance(error, TrainingError) else None
    if status is not None:
        complain(error)
    elif isinstance(error, OSError) and error.errno in OUTSIDE:
        status = 1
        complain(f"{error.filename or 'output'}: {error.strerror}")
    elif missing := _missing_devices():
        status = 2
        complain(missing)
    return status


def _missing_devices() -> str:
    """Why JAX has no device to compute on; empty if it has, or was not asked for one."""
    if "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except Exception as error:  # among them an AssertionError without a word
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition("\n")[0] or "it knows no such platform"
        return (
            f"JAX_PLATFORMS={platforms}: JAX has no such device here: {reason}; unset "
            "JAX_PLATFORMS, or install JAX for that device"
        )
    return ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and leave the exit status to the caller."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError."""
        raise UserError(f"{message} (see python -m {self.prog} --help)")


def local_path(text: str) -> Path:
    """A path for what is written to this machine only, for an argument parser."""
    if not isinstance(fileio.parse(text), Path):
        raise argparse.ArgumentTypeError(f"{text}: must be on this machine; copy it from there")
    return Path(text)


class StopRequest:
    """A signal, such as SIGTERM or Ctrl-C, that asks for an orderly end.

    Attributes:
      signal: the one that came; None so far.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @classmethod
    @contextlib.contextmanager
    def listen(cls, to: Sequence[signal.Signals]) -> "Iterator[StopRequest]":
        """Notes the first of some signals; the second one ends the process at once."""
        request = cls()

        def note(number: int, frame: FrameType | None) -> None:
            request.signal = signal.Signals(number)
            for each in previous:
                signal.signal(each, signal.SIG_DFL)
            print(f"{request.signal.name}: finishing the step and saving", file=sys.stderr)

        previous = {each: signal.signal(each, note) for each in to}
        try:
            yield request
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    @staticmethod
    @contextlib.contextmanager
    def pass_on() -> Iterator[None]:
        """Makes a SIGTERM of the first Ctrl-C, which JAX tells all processes of a run."""

        def send(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, previous)
            print("SIGINT: all processes finish a step and save", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGTERM)

        previous = signal.signal(signal.SIGINT, send)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def check(self, save: Callable[[], None], steps_done: int) -> None:
        """Saves and ends the program, if a signal came.

        Raises:
          SystemExit: with 128 + the signal's number.
        """
        if self.signal:
            save()
            say(f"saving step {steps_done}; the same command goes on from there")
            sys.exit(128 + self.signal)


class Progress:
    """An epoch's progress: a bar on a terminal, else now and then a line.

    Args:
      title: for example "epoch 3/100".
      done: steps of the epoch taken before.
      total: steps of the epoch.
    """

    LINE_SECONDS = 30.0

    def __init__(self, title: str, done: int, total: int):
        self._title = title
        self._total = total
        self._bar = tqdm(
            desc=title,
            initial=done,
            total=total,
            unit="step",
            leave=False,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._first, self._started = done, time.monotonic()
        self._last_line = self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, done: int, values: dict[str, str]) -> None:
        """Shows the steps taken, and values such as the loss."""
        text = " ".join(f"{name} {value}" for name, value in values.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
        elif (now := time.monotonic()) - self._last_line > self.LINE_SECONDS:
            self._last_line = now
            left = (now - self._started) / (done - self._first) * (self._total - done)
            say(
                f"[{self._title}] step {done}/{self._total} {text} "
                f"left {tqdm.format_interval(left)}"
            )
