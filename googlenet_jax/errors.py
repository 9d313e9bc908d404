"""What can go wrong by the user's hand, and what can go wrong in a run.

The programs turn the first into one line and exit status 2, the second into one line and exit
status 1. Everything else is a defect of this project and keeps its traceback.
"""

import contextlib
import gc
import logging
from collections.abc import Iterator

MAX_LINE = 1000


class UserError(ValueError):
    """A config, flag, data set, working directory or checkpoint that cannot be used as given."""


class ConfigError(UserError):
    """A config field whose value is not allowed; the message names field, value and range."""


class DataError(UserError):
    """Data that is missing, foreign, truncated or not what it claims to be."""


class CheckpointError(UserError):
    """A checkpoint that is absent, damaged or of another run."""


class TrainingError(RuntimeError):
    """A run that cannot go on, for example because its loss is no longer finite."""


def printable(text: object) -> str:
    """The text, with each character that a terminal would not show as one escaped.

    Names in files, archives and folders are anybody's: a newline would forge a line of output, an
    escape sequence would reach the terminal, and a right-to-left mark would turn the line around.
    """
    return "".join(
        c
        if c.isprintable() or c == "\N{NO-BREAK SPACE}"
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def one_line(error: object) -> str:
    """What an error says, in one `printable` line of at most `MAX_LINE` characters.

    Values of any length stand in errors; of a longer line the beginning and the end are left.
    """
    line = printable(" ".join(str(error).split()))
    if len(line) <= MAX_LINE:
        return line
    half = MAX_LINE // 2 - 2
    return f"{line[:half]} … {line[-half:]}"


@contextlib.contextmanager
def no_logging() -> Iterator[None]:
    """Mutes the pages that libraries log about what they then raise: the error says it all."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    except BaseException:
        gc.collect()  # asyncio complains of a failed task when it is collected
        raise
    finally:
        logging.disable(logging.NOTSET)
