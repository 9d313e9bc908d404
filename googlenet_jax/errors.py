"""The errors that this project raises, and how they become one line.

A program prints a `UserError` as one line and exits with status 2, a `TrainingError` as one line
with status 1. Any other exception is a bug in this project and keeps its traceback.
"""

import contextlib
import gc
import logging
from collections.abc import Iterator

MAX_LINE = 1000


class UserError(ValueError):
    """A config, flag, data set, working directory or checkpoint that cannot be used as given."""


class ConfigError(UserError):
    """A setting whose value is not allowed; the message names the setting, value and range."""


class DataError(UserError):
    """Data that is missing, truncated, of another format or not what it claims to be."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or from another run."""


class TrainingError(RuntimeError):
    """A run that cannot go on."""


class DivergedError(TrainingError):
    """A run whose loss or gradient is not finite."""


def printable(text: object) -> str:
    """The text with its unprintable characters escaped.

    Names in files, archives and folders are not to be trusted: a newline could forge a line of
    output, an escape sequence could control the terminal, a right-to-left mark could reverse it.
    """
    return "".join(
        c
        if c.isprintable() or c == "\N{NO-BREAK SPACE}"
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def one_line(error: object) -> str:
    """An error's message as one `printable` line of at most `MAX_LINE` characters.

    A message may quote a value of any length: a longer line keeps its beginning and its end.
    """
    line = printable(" ".join(str(error).split()))
    if len(line) <= MAX_LINE:
        return line
    half = MAX_LINE // 2 - 2
    return f"{line[:half]} … {line[-half:]}"


@contextlib.contextmanager
def no_logging() -> Iterator[None]:
    """Mutes logging inside the block, for libraries that log at length what they then raise."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    except BaseException:
        gc.collect()  # while logging is off: asyncio logs a failed task when it is collected
        raise
    finally:
        logging.disable(logging.NOTSET)
