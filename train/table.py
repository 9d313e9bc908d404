"""Predictions as a table: a row for each of a picture's most probable classes."""

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from googlenet_jax import fileio
from googlenet_jax.errors import UserError

if TYPE_CHECKING:
    from googlenet_jax.storage.model import Prediction

FORMATS = ("csv", "jsonl")
FIELDS = ("file", "rank", "class", "probability")
HEADER = ",".join(FIELDS)


def lines(name: str, ranked: "list[Prediction]", form: str) -> list[str]:
    """A picture's rows, the most probable class first, as lines of CSV or JSON."""
    rows = [(name, rank, each.class_name, each.probability) for rank, each in enumerate(ranked, 1)]
    if form == "jsonl":
        return [json.dumps(dict(zip(FIELDS, row, strict=True))) for row in rows]
    text = [io.StringIO() for _ in rows]
    for file, row in zip(text, rows, strict=True):
        csv.writer(file, lineterminator="").writerow(row)
    return [file.getvalue() for file in text]


class Table:
    """A file of rows, which the same command goes on with after it was interrupted.

    `FILE.json` beside it says which command that is. A context manager.

    Args:
      path: The file; it may exist.
      made_by: What decides about the rows, such as "format" and "top_k".

    Attributes:
      done: The names of the pictures whose rows the file already has.

    Raises:
      UserError: The file is another command's, is being written, or cannot be written.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any]):
        record = path.with_name(f"{path.name}.json")
        self._form = made_by["format"]
        try:
            self._file = path.open("a+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._file.tell():
                    _check(path, record, made_by)
                else:
                    fileio.write_json(record, made_by)
                self.done = self._finish(made_by["top_k"])
            except BaseException:
                self._file.close()
                raise
        except BlockingIOError as error:
            raise UserError(f"--out={path}: another process is writing it") from error
        except OSError as error:
            raise UserError(f"--out={path}: cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _finish(self, top_k: int) -> set[str]:
        """Cuts off what a picture's rows lack their last one for, and returns the other names."""
        done, end, position = set(), 0, 0

        def whole_lines() -> Iterator[str]:
            nonlocal position
            for line in self._file:
                position += len(line)
                if line.endswith(b"\n"):
                    yield line.decode("utf-8", "surrogateescape")

        self._file.seek(0)
        rows: Any = map(json.loads, whole_lines())
        if self._form == "csv":
            rows = csv.DictReader(whole_lines(), FIELDS)
        try:
            for row in rows:
                if str(row["rank"]) == str(top_k):
                    done.add(row["file"])
                    end = position
        except (ValueError, LookupError, TypeError, csv.Error):
            pass  # lost in a crash of the machine; computed anew, like all that follows
        self._file.truncate(end)
        if not end and self._form == "csv":
            self.write([HEADER])
        return done

    def write(self, lines: list[str]) -> None:
        """Appends the rows of a picture."""
        self._file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        self._file.flush()


def _check(path: Path, record: Path, made_by: Mapping[str, Any]) -> None:
    """Raises a UserError unless the record says that such a command wrote the file."""
    try:
        found = fileio.read_json(record)
        different = [name for name, value in made_by.items() if found[name] != value]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"--out={path}: exists, and {record.name} does not say which command wrote it; choose "
            "another file"
        ) from error
    if different:
        told = ", ".join(f"{name} {found[name]!r}, now {made_by[name]!r}" for name in different)
        raise UserError(f"--out={path}: was written with {told}; choose another file")
