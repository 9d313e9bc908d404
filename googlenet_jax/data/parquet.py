"""CIFAR from the Hugging Face hub: parquet files with one encoded image per row.

Needs pyarrow, the `parquet` extra.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from googlenet_jax.data import decoding
from googlenet_jax.data.cifar import Format
from googlenet_jax.data.dataset import Arrays, Split
from googlenet_jax.errors import DataError

ROWS = 1000  # decoded at a time


def files(folder: Path) -> dict[Split, list[Path]]:
    """The parquet files of each split, in a folder or its subfolders; {} if a split has none."""
    found = sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])
    by_split = {s: [p for p in found if p.name.startswith(s)] for s in (Split.TRAIN, Split.TEST)}
    return by_split if all(by_split.values()) else {}


def read(form: Format, files: dict[Split, list[Path]]) -> dict[Split, Arrays]:
    """Reads the images and labels from the files of each split.

    Raises:
      DataError: A file is damaged, or lacks a column.
    """
    splits = {}
    for split, paths in files.items():
        where = f"{paths[0].parent}: the {split} files"
        names = ["img", form.label_key.decode().removesuffix("s")]
        pixels, labels, first = [], [], 0
        for images, classes in _batches(paths, names, where):
            pixels.append(decoding.decode(images, form.info.image_shape, where, first))
            labels.append(classes.astype(np.int32))
            first += len(images)
        if not first:
            raise DataError(f"{where} have no rows")
        splits[split] = Arrays(np.concatenate(pixels), np.concatenate(labels))
    return splits


def _batches(
    paths: list[Path], names: list[str], where: str
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yields encoded images and their labels, `ROWS` at a time to save memory."""
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("parquet files need pyarrow: pip install pyarrow") from error
    try:
        for path in paths:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(ROWS, columns=names):
                    image = pyarrow.compute.struct_field(batch.column(names[0]), "bytes")
                    images = image.to_pylist()
                    labels = batch.column(names[1]).to_numpy(zero_copy_only=False)
                    are_encoded = all(isinstance(each, bytes) for each in images)
                    if labels.dtype.kind not in "iu" or not are_encoded:
                        raise DataError(f"{where} have rows without an image or a label")
                    yield images, labels
    except DataError:
        raise
    except Exception as error:  # pyarrow raises its own errors, OSError, KeyError and more
        reason = str(error).partition("\n")[0]
        raise DataError(f"{where} cannot be read: {reason}") from error
