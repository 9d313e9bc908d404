"""How every program starts, reports errors and exits.

Exit status 0 means success, 1 that the run failed, 2 that the user's input is wrong, and 128 + the
signal's number that a signal ended the program.
"""

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
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import absl.logging
from tqdm import tqdm

from googlenet_jax import fileio
from googlenet_jax.config import TTA
from googlenet_jax.errors import TrainingError, UserError, one_line, printable

# Errors of the machine that can occur at any time: no space, no permission, a failing disk.
OUTSIDE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOSYS),
}


def start(main: Callable[[list[str]], None]) -> None:
    """Runs `main` as the program of this process, and ends the process if it fails.

    After a failure `os._exit` ends the process at once. A normal exit could hang, because Python
    waits for threads of libraries, or print a traceback, because they ask for more work.
    """
    _open_standard_streams()
    threading.excepthook, sys.unraisablehook = _report_from_thread, take_lost
    library = logging.getLogger("googlenet_jax")
    library.addHandler(_Notes())
    library.propagate = False  # to handlers that other libraries have given the root logger
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
    """Calls `main` with the command line; turns expected errors into one line and a status."""
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        while frame:
            # NumPy and JAX, half imported, print a traceback or crash.
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                os._exit(128 + signal.SIGINT)
            frame = frame.f_back
        raise KeyboardInterrupt

    mute_libraries()
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if interrupted:  # during an import some libraries replace KeyboardInterrupt
            sys.exit(128 + signal.SIGINT)
        status = report(error)
        if status is None:
            raise
        sys.exit(status)
    finally:
        signal.signal(signal.SIGINT, previous)


def _open_standard_streams() -> None:
    """Opens the null device in place of each closed standard stream.

    Otherwise the next file that is opened would get its number, and printed text would go there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if number and getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        stream = getattr(sys, name)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack characters


class _Terminal(io.FileIO):
    """A terminal that may be closed; text written after that is dropped."""

    def write(self, content: Any) -> int:
        """Returns the bytes written, or all of them if the terminal is gone."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(content)


def outlive_terminal() -> None:
    """Keeps the process running when its terminal is closed."""
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
    """Handles exceptions in destructors and callbacks, which no caller can catch.

    Ctrl-C ends the process. If one of Orbax's reads or writes fails, the others are cancelled, and
    TensorStore reports them to an event loop that is closed. The failure itself has already been
    reported, so these are dropped.
    """
    if isinstance(lost.exc_value, KeyboardInterrupt):
        os._exit(128 + signal.SIGINT)
    if not inspect.iscoroutine(lost.object) and str(lost.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(lost)


def _report_from_thread(caught: threading.ExceptHookArgs) -> None:
    """Reports an expected error in a library's thread, such as TensorBoard's, in one line."""
    error = caught.exc_value
    if error is None or report(error) is None:
        threading.__excepthook__(caught)


def mute_libraries() -> None:
    """Silences warnings and logs of libraries about errors that they raise as well.

    Also Matplotlib's about letters that its font lacks: it draws a box instead.
    """
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", "Glyph .* missing from")
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    for library in ("PIL", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax, in its threads, and TFDS


class _Notes(logging.Handler):
    """Prints what the library logs, such as the name of a picture that is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record to stderr in one line."""
        say(f"warning: {record.getMessage()}", sys.stderr)


def complain(error: object) -> None:
    """Prints an error to stderr in one line, whatever characters it contains."""
    print(f"error: {one_line(error)}", file=sys.stderr)


def say(line: object, file: TextIO | None = None) -> None:
    """Prints a line and flushes it; characters that a terminal would not show are escaped.

    Progress bars are cleared before, and drawn again below the line.

    Args:
      line: Its text.
      file: Standard output if None.
    """
    with tqdm.external_write_mode(file or sys.stdout):
        print(printable(line), file=file, flush=True)


def report(error: BaseException) -> int | None:
    """Prints an expected error in one line and returns its exit status; None for a defect."""
    if isinstance(error, UserError | TrainingError):
        complain(error)
        return 2 if isinstance(error, UserError) else 1
    if isinstance(error, OSError) and error.errno in OUTSIDE:
        complain(f"{error.filename or 'output'}: {error.strerror}")
        return 1
    if missing := missing_devices():
        complain(missing)
        return 2
    return None


def missing_devices() -> str:
    """Why JAX finds no device; empty if it finds one or has not been imported."""
    if "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except Exception as error:  # may be an AssertionError without a message
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition("\n")[0] or "unknown platform"
        return (
            f"JAX_PLATFORMS={platforms}: JAX has no such device here: {reason}; unset "
            "JAX_PLATFORMS, or install JAX for that device"
        )
    return ""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a `UserError` of one line instead of exiting.

    Args:
      module: The program's module, for example "train.evaluate".
      options: Options of `argparse.ArgumentParser`.
    """

    def __init__(self, module: str, **options: Any):
        super().__init__(command(module), allow_abbrev=False, **options)

    def add_checkpoint(self) -> None:
        """Adds --workdir and --checkpoint, which name a checkpoint of a run."""
        self.add_argument("--workdir", type=fileio.parse, required=True, help="folder of the run")
        self.add_argument("--checkpoint", default="best", help="best (default), latest or a step")

    def add_tta(self) -> None:
        """Adds --tta."""
        what = "test-time augmentation: also classify the mirror image, and both shifted by a pixel"
        self.add_argument("--tta", choices=TTA, default="none", help=f"{what} (default: none)")

    def add_data_path(self) -> None:
        """Adds --data-path."""
        self.add_argument("--data-path", default="", help="where the data is, if it was moved")

    def error(self, message: str) -> NoReturn:
        """Raises a UserError."""
        raise UserError(f"{message} (see {self.prog} --help)")


def command(module: str) -> str:
    """How to start a program: `python -m train.evaluate`, or of a wheel `googlenet-jax evaluate`.

    Args:
      module: The program's module, for example "train.evaluate".
    """
    if Path(__file__).parents[1].name != "programs":
        return f"python -m {module}"
    return f"googlenet-jax {module.removeprefix('train.').replace('main', 'train')}"


def local_path(text: str) -> Path:
    """Argument type of an output path that must be on this machine, not in an object store."""
    if not isinstance(fileio.parse(text), Path):
        raise argparse.ArgumentTypeError(f"{text}: must be on this machine; copy it afterwards")
    return Path(text)


def check_file(path: Path, flag: str = "--out") -> None:
    """Checks, before a network is loaded, that the output file of a flag can be written.

    Raises:
      UserError: Its folder does not exist, or the path is not a regular file.
    """
    try:
        reason = ""
        if path.exists() and not path.is_file():
            reason = "it is not a regular file"
        elif not path.parent.is_dir():
            reason = f"the folder {path.parent} does not exist"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = str(error)
    if reason:
        raise UserError(f"{flag}={path}: cannot be written: {reason}")
