"""A CSV file with a row for each picture: the name of its file, and its label."""

import csv
import io
import os
from pathlib import Path

from googlenet_jax import fileio
from googlenet_jax.data import index
from googlenet_jax.data.dataset import Split
from googlenet_jax.errors import DataError

MAX_BYTES = 2**28  # of a CSV file


def read(path: Path, folder: Path, columns: str) -> index.Listings:
    """Lists the pictures that a CSV file names; all of them are training pictures.

    A name may lack its suffix: with `1a2b`, 1a2b.jpg and so on are looked for.

    Args:
      path: The CSV file. Its first row names the columns.
      folder: Holds the pictures; names are relative to it, and lead nowhere else.
      columns: See `index.pick_columns`.

    Raises:
      DataError: It cannot be read, has no such columns, names a picture that is not there, or
        gives one two labels or none.
    """
    try:
        text = fileio.read(path, MAX_BYTES).decode("utf-8-sig")
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    at = [header.index(name) for name in index.pick_columns(header, columns, path)]
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} columns, not {len(header)}")
        name, label = (row[column].strip() for column in at)
        found = _find(folder, name)
        if not found:
            raise DataError(
                f"{path}: row {number} names {name!r}, which is not in {folder}; "
                "--config.data.pictures=FOLDER names another folder"
            )
        if not label or labels.setdefault(found, label) != label:
            raise DataError(f"{path}: row {number} gives {name!r} no label, or a second one")
    classes: dict[str, list[str]] = {label: [] for label in index.in_order(labels.values())}
    for name, label in labels.items():
        classes[label].append(name)
    return {Split.TRAIN: index.Listing("", classes)}


def _find(folder: Path, name: str) -> str:
    """A picture's path below the folder, with its suffix; "" if it is not there."""
    root = os.path.abspath(folder)
    for suffix in ("", *index.SUFFIXES):
        path = os.path.abspath(os.path.join(root, name + suffix))
        if Path(path).is_relative_to(root) and Path(path).is_file():
            return os.path.relpath(path, root)
        if name.lower().endswith(index.SUFFIXES):
            break
    return ""
