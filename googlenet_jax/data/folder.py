"""A folder of pictures, with a folder for each class."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from googlenet_jax import fileio
from googlenet_jax.data import pictures
from googlenet_jax.data.dataset import Split
from googlenet_jax.data.stream import Picture
from googlenet_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_LIST_BYTES = 2**24  # of a file that lists classes
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
        try:
            content = fileio.read(path, pictures.MAX_BYTES)
            return Picture(content, int(self.labels[index]), str(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def select(self, chosen: Bool[np.ndarray, " examples"]) -> "FolderPictures":
        """Those of a true `chosen`."""
        indices = np.flatnonzero(chosen)
        names = [self.names[index] for index in indices.tolist()]
        return FolderPictures(self.root, names, self.labels[indices])


def read_classes(path: Path, folders: Sequence[str]) -> dict[str, str]:
    """The classes that a file lists: the names of their folders, and what they are called.

    A line for each class, in the order of the labels: the folder's name and, if it is called
    otherwise, a space and that. Of two that are called the same (ImageNet has two cranes), each
    gets its folder's name behind that.

    Args:
      path: of the file.
      folders: that there are, whose names may have spaces as well.

    Raises:
      DataError: it cannot be read, or names a class twice or none.
    """
    try:
        text = fileio.read(path, MAX_LIST_BYTES).decode()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"data.classes={str(path)!r}: cannot be read: {error}") from error
    pairs = [(line, "") if line in folders else line.partition(" ")[::2] for line in lines]
    classes = {folder: called.strip() or folder for folder, called in pairs}
    if not classes or len(classes) < len(lines):
        raise DataError(f"data.classes={str(path)!r}: names no class, or one of them twice")
    times = collections.Counter(classes.values())
    return {
        folder: called if times[called] == 1 else f"{called} ({folder})"
        for folder, called in classes.items()
    }


def find(
    root: Path, classes_file: Path | None, is_tested_apart: bool
) -> tuple[tuple[str, ...], dict[Split, FolderPictures]]:
    """The names of the classes, and the pictures of each split: first of each class, and so on.

    Args:
      root: holds folders of classes, or folders of splits that do.
      classes_file: see `read_classes`; None: the training folders, sorted.
      is_tested_apart: whether test images will be taken of the others, so that a validation folder
        is not what is tested on.

    Raises:
      DataError: it holds no such folders, one of no class, or no pictures to train a class on.
    """
    try:
        places: dict[Split, Path] = {}
        for name in _subfolders(root):
            if name in SPLITS and places.setdefault(SPLITS[name], root / name) != root / name:
                raise DataError(f"{root}: has two folders of {SPLITS[name]} images")
        places = places or {Split.TRAIN: root}
        if Split.TRAIN not in places:
            raise DataError(f"{root}: has folders of splits, but none called train")
        if Split.VALID in places and Split.TEST not in places and not is_tested_apart:
            places[Split.TEST] = places.pop(Split.VALID)
        folders = _subfolders(places[Split.TRAIN])
        if classes_file:
            classes = read_classes(classes_file, folders)
        else:
            classes = {name: name for name in folders}
        if not classes:
            raise DataError(f"{places[Split.TRAIN]}: holds no folders of classes")
        found = {
            split: _pictures(folder, list(classes), split is Split.TRAIN)
            for split, folder in places.items()
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
    names = [
        [os.path.relpath(path, folder) for path in _files(folder / name, set())]
        if (folder / name).is_dir()
        else []
        for name in classes
    ]
    for name, of_class in zip(classes, names, strict=True):
        if (is_training and not of_class) or not any(names):
            raise DataError(f"{folder / name}: holds no pictures ({', '.join(SUFFIXES)})")
    # First of each class, second of each, ...: so the first N are of all classes.
    order = sorted(
        (rank, label) for label, of_class in enumerate(names) for rank in range(len(of_class))
    )
    labels = np.array([label for _, label in order], np.int32)
    return FolderPictures(folder, [names[label][rank] for rank, label in order], labels)


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    """The pictures in and below a folder, in order; links are followed, but not in circles."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(folder / entry.name, seen)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path


def digest(splits: dict[Split, FolderPictures]) -> str:
    """The sha256 of the names, sizes and classes of all files.

    Raises:
      DataError: a file cannot be looked at.
    """
    total = hashlib.sha256()
    try:
        for split, files in splits.items():
            for name, label in zip(files.names, files.labels, strict=True):
                size = (files.root / name).stat().st_size
                total.update(f"{split} {name} {size} {label}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return total.hexdigest()
