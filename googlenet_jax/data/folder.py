"""A folder of pictures, with a folder for each class."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from googlenet_jax.data.dataset import Split
from googlenet_jax.data.stream import Picture
from googlenet_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SPLITS = {
    "train": Split.TRAIN,
    "val": Split.VALID,
    "valid": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
}
"""What the folders of splits are called; without "test", the validation one is tested on."""


@dataclasses.dataclass(frozen=True)
class FolderPictures:
    """Pictures in files.

    Attributes:
      root: the folder.
      names: of the files, below it.
      labels: of their classes.
    """

    root: Path
    names: Sequence[str]
    labels: Int[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Picture:
        path = self.root / self.names[index]
        return Picture(path.read_bytes(), int(self.labels[index]), str(path))

    def select(self, chosen: Bool[np.ndarray, " examples"]) -> "FolderPictures":
        """Those of a true `chosen`."""
        indices = np.flatnonzero(chosen)
        names = [self.names[index] for index in indices.tolist()]
        return FolderPictures(self.root, names, self.labels[indices])


def read_classes(path: Path) -> dict[str, str]:
    """The classes that a file lists: the names of their folders, and what they are called.

    A line for each class, in the order of the labels: the folder's name and, if it is called
    otherwise, a space and that.

    Raises:
      DataError: it cannot be read, or names a class twice or none.
    """
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"data.classes={str(path)!r}: cannot be read: {error}") from error
    classes = {words[0]: words[-1].strip() for words in lines}
    if not classes or len(classes) < len(lines):
        raise DataError(f"data.classes={str(path)!r}: names no class, or one of them twice")
    return classes


def find(
    root: Path, classes: dict[str, str] | None
) -> tuple[tuple[str, ...], dict[Split, FolderPictures]]:
    """The names of the classes, and the pictures of each split, in the order of `interleaved`.

    Args:
      root: holds folders of classes, or folders of splits that do.
      classes: see `read_classes`; None: the training folders, sorted.

    Raises:
      DataError: it holds no such folders, one of no class, or no pictures to train a class on.
    """
    try:
        splits = {
            SPLITS[entry.name]: root / entry.name
            for entry in sorted(os.scandir(root), key=lambda entry: entry.name)
            if entry.name in SPLITS and entry.is_dir()
        } or {Split.TRAIN: root}
        if Split.TRAIN not in splits:
            raise DataError(f"{root}: has folders of splits, but none called train")
        if Split.TEST not in splits and Split.VALID in splits:
            splits[Split.TEST] = splits.pop(Split.VALID)
        if classes is None:
            classes = {name: name for name in _subfolders(splits[Split.TRAIN])}
        if not classes:
            raise DataError(f"{splits[Split.TRAIN]}: holds no folders of classes")
        found = {
            split: _pictures(folder, list(classes), split is Split.TRAIN)
            for split, folder in splits.items()
        }
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return tuple(classes.values()), found


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")


def _pictures(folder: Path, classes: list[str], is_training: bool) -> FolderPictures:
    strangers = sorted(set(_subfolders(folder)) - set(classes))
    if strangers:
        raise DataError(f"{folder / strangers[0]}: its name is none of the {len(classes)} classes")
    names: list[list[str]] = []
    for name in classes:
        walk = os.walk(folder / name, followlinks=True)
        paths = [os.path.join(at, file) for at, _, files in walk for file in files]
        found = [os.path.relpath(p, folder) for p in paths if p.lower().endswith(SUFFIXES)]
        if not found and is_training:
            raise DataError(f"{folder / name}: holds no pictures ({', '.join(SUFFIXES)})")
        names.append(sorted(found))
    if not any(names):
        raise DataError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)})")
    # First of each class, second of each, ...: so the first N are of all classes.
    order = sorted(
        (rank, label) for label, of_class in enumerate(names) for rank in range(len(of_class))
    )
    labels = np.array([label for _, label in order], np.int32)
    return FolderPictures(folder, [names[label][rank] for rank, label in order], labels)


def digest(splits: dict[Split, FolderPictures]) -> str:
    """The sha256 of the names, sizes and classes of all files.

    Raises:
      DataError: a file cannot be looked at.
    """
    total = hashlib.sha256()
    try:
        for split, pictures in splits.items():
            for name, label in zip(pictures.names, pictures.labels, strict=True):
                size = (pictures.root / name).stat().st_size
                total.update(f"{split} {name} {size} {label}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return total.hexdigest()
