"""CIFAR as the Hugging Face hub keeps it: parquet files with an encoded image a row.

Needs pyarrow, the `parquet` extra.
"""

from pathlib import Path

import numpy as np

from googlenet_jax.data import encoded
from googlenet_jax.data.cifar import Format
from googlenet_jax.data.dataset import Arrays, Split
from googlenet_jax.errors import DataError


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
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "parquet files need pyarrow: pip install 'googlenet-jax[parquet]'"
        ) from error
    splits = {}
    for split, paths in files.items():
        where = f"{paths[0].parent}: the {split} files"
        names = ["img", form.label_key.decode().removesuffix("s")]
        try:
            tables = [pyarrow.parquet.read_table(path, columns=names) for path in paths]
            table = pyarrow.concat_tables(tables)
            images = pyarrow.compute.struct_field(table["img"], "bytes").to_pylist()
            labels = table[names[1]].to_numpy()
        except Exception as error:  # pyarrow raises OSError, KeyError, its own, and others
            reason = str(error).partition("\n")[0]
            raise DataError(f"{where} cannot be read: {reason}") from error
        if not all(isinstance(image, bytes) for image in images) or labels.dtype.kind not in "iu":
            raise DataError(f"{where} have rows without image or label")
        pixels = encoded.decode(images, form.info.image_shape, where)
        splits[split] = Arrays(pixels, np.asarray(labels, np.int32))
    return splits
