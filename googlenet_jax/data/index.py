"""Pictures of the user's own: an index of their names and classes, and the store that holds them.

Each form has a module that opens its store and lists what is in it: `folder` and `archives` (class
folders on a disk, in a zip or in a tar), `table` (a CSV) and `parquet`. `build` makes the splits.
"""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from googlenet_jax import fileio
from googlenet_jax.data.dataset import Split
from googlenet_jax.data.stream import Picture
from googlenet_jax.errors import DataError, printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
HIDDEN = (".", "__MACOSX", "@eaDir")  # first letters; the last two are macOS's and Synology's
MAX_LIST_BYTES = 2**24  # of a file that lists the classes
SPLITS = {
    "train": Split.TRAIN,
    "val": Split.VALID,
    "valid": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
}
"""Names of splits. Without a "test" split, the validation split becomes the test split."""
IMAGE_COLUMNS = (
    *("image", "img", "file", "filename", "file_name", "filepath", "file_path", "path"),
    *("image_path", "image_name", "image_id", "id"),
)
LABEL_COLUMNS = (
    *("label", "labels", "fine_label", "class", "class_name", "category", "target", "y"),
)


@runtime_checkable
class Store(Protocol):
    """Holds pictures by name. Where `data.workers` is not 0, it is sent to worker processes."""

    @property
    def path(self) -> Path:
        """The file or folder, for messages."""

    def size(self, name: str) -> int:
        """The number of bytes of a picture's file."""

    def read(self, name: str) -> bytes:
        """The content of a picture's file, of at most `decoding.MAX_BYTES`; raises anything."""


@runtime_checkable
class FolderStore(Store, Protocol):
    """A store whose names are paths. Those of folders are "" or end in a slash."""

    def folders(self, folder: str) -> Iterable[str]:
        """The names of the folders that a folder holds, in any order."""

    def files(self, folder: str) -> Iterable[str]:
        """The names of all files in and below a folder, always in the same order."""


class Listing(NamedTuple):
    """The pictures of a split.

    Attributes:
      folder: What the pictures' names in the store begin with; left out below.
      classes: The names of the pictures of each class.
    """

    folder: str
    classes: dict[str, list[str]]


Listings: TypeAlias = dict[Split, Listing]


@dataclasses.dataclass(frozen=True)
class IndexedPictures:
    """The pictures of a split.

    Attributes:
      store: Holds them.
      folder: What their names in the store begin with.
      names: The rest of their names.
      labels: Class number of each picture.
    """

    store: Store
    folder: str
    names: Sequence[str]
    labels: Int[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Picture:
        name = self.folder + self.names[index]
        where = str(self.store.path / name)
        try:
            return Picture(self.store.read(name), int(self.labels[index]), where)
        except Exception as error:  # archives raise almost anything
            raise DataError(f"{where}: cannot be read: {_reason(error)}") from error

    def select(self, chosen: Bool[np.ndarray, " examples"]) -> "IndexedPictures":
        """The pictures for which `chosen` is true."""
        indices = np.flatnonzero(chosen)
        names = [self.names[index] for index in indices.tolist()]
        return dataclasses.replace(self, names=names, labels=self.labels[indices])


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or f"{error}" or type(error).__name__


def by_folders(store: FolderStore) -> Listings:
    """Takes splits and classes from the names of folders.

    A folder in which everything else lies, as in most archives, is passed over. Hidden files and
    those that are no pictures are left out, and a log line says so.

    Raises:
      DataError: A split has two folders.
      OSError: A folder cannot be read.
    """
    left_out: dict[str, None] = {}

    def folders(place: str) -> list[str]:
        found = sorted(store.folders(place))
        left_out.update((f"{place}{name}", None) for name in found if name.startswith(HIDDEN))
        return [name for name in found if not name.startswith(HIDDEN)]

    def pictures(place: str) -> list[str]:
        found = []
        for file in store.files(place):
            is_hidden = any(part.startswith(HIDDEN) for part in file[len(place) :].split("/"))
            if is_hidden or not file.lower().endswith(SUFFIXES):
                left_out[file] = None
            else:
                found.append(file)
        return found

    top = ""
    while len(names := folders(top)) == 1 and names[0].lower() not in SPLITS:
        if not folders(f"{top}{names[0]}/"):
            break
        top += f"{names[0]}/"
    places: dict[Split, str] = {}
    for name in names:
        if split := SPLITS.get(name.lower()):
            if split in places:
                raise DataError(f"{store.path}: has two folders of {split} images")
            places[split] = f"{top}{name}/"
    listings = {
        split: Listing(
            place,
            {
                name: [file[len(place) :] for file in pictures(f"{place}{name}/")]
                for name in folders(place)
            },
        )
        for split, place in (places or {Split.TRAIN: top}).items()
    }
    if left_out:
        logging.getLogger(__name__).warning(
            "%s: left out %d hidden files and files that are no pictures, such as %s",
            *(printable(store.path), len(left_out), printable(next(iter(left_out)))),
        )
    return listings


def build(
    store: Store, listings: Listings, classes_file: Path | None, test_from_train: bool
) -> tuple[tuple[str, ...], dict[Split, IndexedPictures]]:
    """Returns the class names, and the pictures of each split.

    A split starts with the first picture of each class, then come the second ones, and so on.

    Args:
      store: Holds the pictures.
      listings: Of all splits.
      classes_file: See `read_classes`; None for the classes of the training pictures.
      test_from_train: Whether test images will be taken from the training images. If so, a
        validation split stays one even without a test split.

    Raises:
      DataError: There are no training pictures, a class has none, or one is not in the list.
    """
    if Split.TRAIN not in listings:
        raise DataError(f"{store.path}: has splits, but none called train")
    if Split.VALID in listings and Split.TEST not in listings and not test_from_train:
        listings[Split.TEST] = listings.pop(Split.VALID)
    train = listings[Split.TRAIN]
    classes = {name: name for name in train.classes}
    if classes_file:
        classes = read_classes(classes_file, [*train.classes])
    if not classes:
        raise DataError(f"{store.path / train.folder}: holds no class folders")
    splits = {
        split: _indexed(store, listing, [*classes], split is Split.TRAIN)
        for split, listing in listings.items()
    }
    return tuple(classes.values()), splits


def _indexed(
    store: Store, listing: Listing, classes: list[str], is_training: bool
) -> IndexedPictures:
    where = store.path / listing.folder
    if unknown := sorted(set(listing.classes) - set(classes)):
        raise DataError(f"{where}: {unknown[0]!r} is not one of the {len(classes)} classes")
    names = [listing.classes.get(name, []) for name in classes]
    for name, of_class in zip(classes, names, strict=True):
        if (is_training and not of_class) or not any(names):
            raise DataError(f"{where}: no pictures of class {name!r} ({', '.join(SUFFIXES)})")
    # The first of each class, then the second of each, ...: so the first N cover all classes.
    order = sorted(
        (rank, label) for label, of_class in enumerate(names) for rank in range(len(of_class))
    )
    labels = np.array([label for _, label in order], np.int32)
    return IndexedPictures(
        store, listing.folder, [names[label][rank] for rank, label in order], labels
    )


def read_classes(path: Path, folders: Sequence[str]) -> dict[str, str]:
    """Reads the classes that a file lists, as a dict from folder name to class name.

    The file has one line per class, in the order of the labels: the folder's name and, if the
    class is named differently, a space and the class name. If two classes share a name (ImageNet
    has two cranes), the folder's name is appended to both. Where a table has labels in place of
    folders, the file lists those.

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


def pick_columns(names: Sequence[str], wanted: str, where: Path) -> list[str]:
    """The columns of a table that hold the pictures and their labels.

    Args:
      names: Of all columns.
      wanted: The setting `data.columns`: both names with a comma between them; empty: usual names,
        and of two columns, whatever their names, the first and the second.
      where: The table, for messages.

    Raises:
      DataError: There are no such columns.
    """
    found = wanted.split(",")
    if not wanted:
        lower = {name.lower(): name for name in reversed(names)}
        usual = [
            next((lower[name] for name in known if name in lower), "")
            for known in (IMAGE_COLUMNS, LABEL_COLUMNS)
        ]
        found = usual if all(usual) or len(names) != 2 else [*names]
    if len(found) != 2 or not all(name and name in names for name in found):
        raise DataError(
            f"{where}: has the columns {', '.join(names)}; --config.data.columns=PICTURE,LABEL "
            "names those to use"
        )
    return found


def in_order(labels: Iterable[str]) -> list[str]:
    """The distinct labels, sorted; by value if all of them are whole numbers."""
    distinct = set(labels)
    if all(label.isascii() and label.isdecimal() for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def digest(splits: dict[Split, IndexedPictures]) -> str:
    """The sha256 of the names, sizes and classes of all files.

    Raises:
      DataError: The size of a file cannot be read.
    """
    total = hashlib.sha256()
    for split, pictures in splits.items():
        for name, label in zip(pictures.names, pictures.labels, strict=True):
            try:
                size = pictures.store.size(pictures.folder + name)
            except OSError as error:
                where = error.filename or pictures.store.path
                raise DataError(f"{where}: cannot be read: {error.strerror}") from error
            total.update(f"{split} {name} {size} {label}\n".encode(errors="surrogateescape"))
    return total.hexdigest()
