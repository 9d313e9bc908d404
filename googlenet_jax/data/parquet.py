"""CIFAR as the Hugging Face hub keeps it: parquet files with an encoded image a row.

Needs pyarrow, the `parquet` extra.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from googlenet_jax.data import encoded
from googlenet_jax.data.cifar import Format
from googlenet_jax.data.dataset import Arrays, Split
from googlenet_jax.errors import DataError

ROWS = 1000  # decoded at a time


def files(folder: Path) -> dict[Split, list[Path]]:
    """The parquet files of each split, in a folder or in one below it; {} where there are none."""
    found = sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])
    by_split = {s: [p for p in found if p.name.startswith(s)] for s in (Split.TRAIN, Split.TEST)}
    return by_split if all(by_split.values()) else {}


def read(form: Format, files: dict[Split, list[Path]]) -> dict[Split, Arrays]:
    """The images and classes in the files of each split.

    Raises:
      DataError: a file is damaged, or lacks the columns.
    """
    splits = {}
    for split, paths in files.items():
        where = f"{paths[0].parent}: the {split} files"
        names = ["img", form.label_key.decode().removesuffix("s")]
        pixels, labels = [], []
        first = 0
        for images, marks in _batches(paths, names, where):
            pixels.append(encoded.decode(images, form.info.image_shape, where, first))
            labels.append(np.asarray(marks, np.int32))
            first += len(images)
        if not first:
            raise DataError(f"{where} have no rows")
        splits[split] = Arrays(np.concatenate(pixels), np.concatenate(labels))
    return splits


def _batches(
    paths: list[Path], names: list[str], where: str
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yields encoded images and labels, some at a time: the whole of them need not be held."""
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
                    labels = batch.column(names[1]).to_numpy(zero_copy_only=False)
                    images = image.to_pylist()
                    if labels.dtype.kind not in "iu" or not all(
                        isinstance(image, bytes) for image in images
                    ):
                        raise DataError(f"{where} have rows without image or label")
                    yield images, labels
    except DataError:
        raise
    except Exception as error:  # pyarrow raises OSError, KeyError, its own, and others
        reason = str(error).partition("\n")[0]
        raise DataError(f"{where} cannot be read: {reason}") from error
