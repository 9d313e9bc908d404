"""Data sets from the Hugging Face hub: parquet files with one encoded image per row.

Needs pyarrow, the `parquet` extra.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from googlenet_jax.data import decoding, index
from googlenet_jax.data.cifar import Format
from googlenet_jax.data.dataset import MAX_STORED_BYTES, Arrays, Split
from googlenet_jax.errors import DataError

ROWS = 1000  # decoded at a time


def files(folder: Path) -> dict[Split, list[Path]]:
    """The parquet files of each split, in a folder or its subfolders.

    The name of a file or of its folder begins with the split's: `data/train-00000-of-00001.parquet`
    or `train/0000.parquet`. If none does, all files are for training.
    """
    found = sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])
    splits: dict[Split, list[Path]] = {split: [] for split in Split}
    for path in found:
        words = (re.match("[a-z]*", name.lower()) for name in (path.name, path.parent.name))
        for word in words:
            if word and word[0] in index.SPLITS:
                splits[index.SPLITS[word[0]]].append(path)
                break
    named = {split: paths for split, paths in splits.items() if paths}
    return named or ({Split.TRAIN: found} if found else {})


def read(form: Format, files: dict[Split, list[Path]]) -> dict[Split, Arrays]:
    """Reads CIFAR's images and labels from the files of each split.

    Raises:
      DataError: A file is damaged, or lacks a column.
    """
    splits = {}
    for split, paths in files.items():
        where = f"{paths[0].parent}: the {split} files"
        names = ["img", form.label_key.decode().removesuffix("s")]
        pixels, labels, first = [], [], 0
        for path in paths:
            for images, classes in _batches(path, names, where, (int,)):
                known = range(form.info.num_classes)
                if wrong := [label for label in classes if label not in known]:
                    raise DataError(f"{where} have label {wrong[0]}; expected 0 to {known[-1]}")
                pixels.append(decoding.decode(images, form.info.image_shape, where, first))
                labels.append(np.array(classes, np.int32))
                first += len(images)
        if not first:
            raise DataError(f"{where} have no rows")
        splits[split] = Arrays(np.concatenate(pixels), np.concatenate(labels))
    return splits


@dataclasses.dataclass(frozen=True)
class Rows:
    """An `index.Store` in memory, since a parquet file cannot be read in any order."""

    path: Path
    contents: Mapping[str, bytes]

    def size(self, name: str) -> int:
        """See `index.Store`."""
        return len(self.contents[name])

    def read(self, name: str) -> bytes:
        """See `index.Store`."""
        return self.contents[name]


def open_rows(
    folder: Path, files: dict[Split, list[Path]], columns: str
) -> tuple[Rows, index.Listings]:
    """Reads the encoded images of any set, and lists them by their labels.

    The classes are those of the files' metadata, as the hub's `datasets` writes them, or else the
    labels. A split whose labels are all -1 has none, and is left out.

    Args:
      folder: Of the data set.
      files: Of each split.
      columns: See `index.pick_columns`.

    Raises:
      DataError: A file is damaged, lacks a column, or the images are more than `MAX_STORED_BYTES`.
    """
    contents: dict[str, bytes] = {}
    by_split: dict[Split, dict[str, int | str]] = {}
    left = MAX_STORED_BYTES
    first = files[Split.TRAIN][0] if Split.TRAIN in files else next(iter(files.values()))[0]
    names, class_names = _schema(first, columns)
    for split, paths in files.items():
        labels = by_split.setdefault(split, {})
        for path in paths:
            where = f"{path.parent}: the {split} files"
            for images, classes in _batches(path, names, where, (int, str)):
                left -= sum(map(len, images))
                if left < 0:
                    raise DataError(
                        f"{folder}: the images are more than {MAX_STORED_BYTES:,} bytes, and those "
                        "of parquet files are held in memory; store them as a zip archive"
                    )
                for image, label in zip(images, classes, strict=True):
                    name = f"{path.relative_to(folder)}, image {len(labels)}"
                    contents[name], labels[name] = image, label
        if {*labels.values()} == {-1}:
            for name in by_split.pop(split):
                del contents[name]
    return Rows(folder, contents), {
        split: index.Listing("", _by_class(labels, class_names, folder))
        for split, labels in by_split.items()
    }


def _by_class(
    labels: dict[str, int | str], class_names: list[str], folder: Path
) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {name: [] for name in class_names}
    if not class_names:
        classes = {label: [] for label in index.in_order(map(str, labels.values()))}
    for name, label in labels.items():
        if class_names and not (isinstance(label, int) and 0 <= label < len(class_names)):
            raise DataError(f"{folder}: {name}: label {label!r} is none of {len(class_names)}")
        classes[class_names[label] if class_names else str(label)].append(name)  # type: ignore[index]
    return classes


def _schema(path: Path, columns: str) -> tuple[list[str], list[str]]:
    """The columns of images and labels, and the names of the classes, if the file knows them."""
    try:
        schema = _pyarrow_parquet().read_schema(path)
    except DataError:
        raise
    except Exception as error:  # see `_batches`
        raise DataError(f"{path}: cannot be read: {_first_line(error)}") from error
    names = index.pick_columns(schema.names, columns, path)
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        class_names = features[names[1]]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return names, []
    is_list = isinstance(class_names, list) and all(isinstance(each, str) for each in class_names)
    return names, class_names if is_list else []


def _batches(
    path: Path, names: list[str], where: str, kinds: tuple[type, ...]
) -> Iterator[tuple[list[bytes], list[int | str]]]:
    """Yields encoded images and their labels, `ROWS` at a time to save memory."""
    parquet = _pyarrow_parquet()
    try:
        import pyarrow.compute

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=names):
                image, label = (batch.column(name) for name in names)
                if pyarrow.types.is_struct(image.type):
                    image = pyarrow.compute.struct_field(image, "bytes")
                images, labels = image.to_pylist(), label.to_pylist()
                are_encoded = all(isinstance(each, bytes) for each in images)
                if not are_encoded or not all(type(each) in kinds for each in labels):
                    raise DataError(f"{where} have rows without an image or a label")
                yield images, labels
    except DataError:
        raise
    except Exception as error:  # pyarrow raises its own errors, OSError, KeyError and more
        raise DataError(f"{where} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("parquet files need pyarrow: pip install pyarrow") from error
    return pyarrow.parquet
