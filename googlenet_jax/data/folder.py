"""Data sets stored as a folder of pictures, with a subfolder for each class.

`find` lists the files; they are decoded later, by `stream.Stream`.
"""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from googlenet_jax import fileio
from googlenet_jax.data import decoding
from googlenet_jax.data.dataset import Split
from googlenet_jax.data.stream import Picture
from googlenet_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_LIST_BYTES = 2**24  # of a file that lists the classes
SPLITS = {
    "train": Split.TRAIN,
    "val": Split.VALID,
    "valid": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
}
"""Names of split folders. Without a "test" folder, the validation folder becomes the test split."""


@dataclasses.dataclass(frozen=True)
class FolderPictures:
    """The picture files of a split.

    Attributes:
      root: The folder of the split.
      names: Paths of the files, relative to `root`.
      labels: Class number of each file.
    """

    root: Path
    names: Sequence[str]
    labels: Int[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Picture:
        path = self.root / self.names[index]
        try:
            content = fileio.read(path, decoding.MAX_BYTES)
            return Picture(content, int(self.labels[index]), str(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def select(self, chosen: Bool[np.ndarray, " examples"]) -> "FolderPictures":
        """The pictures for which `chosen` is true."""
        indices = np.flatnonzero(chosen)
        names = [self.names[index] for index in indices.tolist()]
        return FolderPictures(self.root, names, self.labels[indices])


def read_classes(path: Path, folders: Sequence[str]) -> dict[str, str]:
    """Reads the classes that a file lists, as a dict from folder name to class name.

    The file has one line per class, in the order of the labels: the folder's name and, if the
    class is named differently, a space and the class name. If two classes share a name (ImageNet
    has two cranes), the folder's name is appended to both.

    Args:
      path: The file.
      folders: Names of the existing folders. A line that equals one of them is not split at its
        first space.

    Raises:
      DataError: The file cannot be read, lists no class, or lists one twice.
    """
    try:
        text = fileio.read(path, MAX_LIST_BYTES).decode()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"data.classes={str(path)!r}: cannot be read: {error}") from error
    pairs = [(line, "") if line in folders else line.partition(" ")[::2] for line in lines]
    classes = {folder: name.strip() or folder for folder, name in pairs}
    if not classes or len(classes) < len(lines):
        raise DataError(f"data.classes={str(path)!r}: lists no class, or one class twice")
    count = collections.Counter(classes.values())
    return {
        folder: name if count[name] == 1 else f"{name} ({folder})"
        for folder, name in classes.items()
    }


def find(
    root: Path, classes_file: Path | None, test_from_train: bool
) -> tuple[tuple[str, ...], dict[Split, FolderPictures]]:
    """Returns the class names, and the pictures of each split.

    A split starts with the first picture of each class, then come the second ones, and so on.

    Args:
      root: Holds class folders, or split folders with class folders.
      classes_file: See `read_classes`; None for the names of the training folders, sorted.
      test_from_train: Whether test images will be taken from the training images. If so, a
        validation folder stays the validation split even without a test folder.

    Raises:
      DataError: There are no such folders, one of them is not a class, or a class has no training
        pictures.
    """
    try:
        places: dict[Split, Path] = {}
        for name in _subfolders(root):
            if name in SPLITS and places.setdefault(SPLITS[name], root / name) != root / name:
                raise DataError(f"{root}: has two folders of {SPLITS[name]} images")
        places = places or {Split.TRAIN: root}
        if Split.TRAIN not in places:
            raise DataError(f"{root}: has split folders, but none called train")
        if Split.VALID in places and Split.TEST not in places and not test_from_train:
            places[Split.TEST] = places.pop(Split.VALID)
        folders = _subfolders(places[Split.TRAIN])
        classes = {name: name for name in folders}
        if classes_file:
            classes = read_classes(classes_file, folders)
        if not classes:
            raise DataError(f"{places[Split.TRAIN]}: holds no class folders")
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
    unknown = sorted(set(_subfolders(folder)) - set(classes))
    if unknown:
        raise DataError(f"{folder / unknown[0]}: its name is not one of the {len(classes)} classes")
    names = [
        [os.path.relpath(path, folder) for path in _files(folder / name, set())]
        if (folder / name).is_dir()
        else []
        for name in classes
    ]
    for name, of_class in zip(classes, names, strict=True):
        if (is_training and not of_class) or not any(names):
            raise DataError(f"{folder / name}: holds no pictures ({', '.join(SUFFIXES)})")
    # The first of each class, then the second of each, ...: so the first N cover all classes.
    order = sorted(
        (rank, label) for label, of_class in enumerate(names) for rank in range(len(of_class))
    )
    labels = np.array([label for _, label in order], np.int32)
    return FolderPictures(folder, [names[label][rank] for rank, label in order], labels)


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yields the pictures in and below a folder, sorted; follows links, but not in circles."""
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
      DataError: The size of a file cannot be read.
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
