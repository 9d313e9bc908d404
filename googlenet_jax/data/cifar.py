"""CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features", 2009).

Reads the binary or the Python archive, or a folder into which either was unpacked. An archive is
read as a stream and never unpacked to disk. Of a member's path only the last part is used, and
sizes are checked against the most that the format allows.
"""

import dataclasses
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from googlenet_jax.data import batch_pickle
from googlenet_jax.data.dataset import Arrays, DatasetInfo, Split
from googlenet_jax.errors import DataError

PLANES = (3, 32, 32)  # a stored image: red, green and blue planes
PIXELS = 3 * 32 * 32
MARGIN = 1 << 20  # bytes beyond the batches: headers, padding, a list of class names


@dataclasses.dataclass(frozen=True)
class Format:
    """How a CIFAR set is stored.

    Attributes:
      info: What a network needs to know about the images.
      batches: File names of each split; the binary archive appends ".bin".
      counts: Number of images in each split.
      label_bytes: Bytes before the pixels in a binary record; the last one is the class.
      label_key: Key of the classes in a pickled batch.
      archives: Name and sha256 of the binary and of the Python archive. The sums of the binary
        archives are from tensorflow_datasets 4.9.10, those of the Python archives from Keras.
    """

    info: DatasetInfo
    batches: dict[Split, tuple[str, ...]]
    counts: dict[Split, int]
    label_bytes: int
    label_key: bytes
    archives: dict[str, str]

    @property
    def record_bytes(self) -> int:
        """The size of one image in the binary archive, with its labels."""
        return self.label_bytes + PIXELS

    def limit(self, batch: str) -> int:
        """The number of images in a complete file of the set."""
        split = next(split for split, names in self.batches.items() if batch in names)
        return self.counts[split] // len(self.batches[split])


CIFAR10 = Format(
    info=DatasetInfo(
        name="cifar10",
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        image_shape=(32, 32, 3),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),  # the article's: mean of the deviations of single images
    ),
    batches={
        Split.TRAIN: tuple(f"data_batch_{i}" for i in range(1, 6)),
        Split.TEST: ("test_batch",),
    },
    counts={Split.TRAIN: 50_000, Split.TEST: 10_000},
    label_bytes=1,
    label_key=b"labels",
    archives={
        "cifar-10-binary.tar.gz": (
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
        "cifar-10-python.tar.gz": (
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
        ),
    },
)

# The labels number the classes in alphabetical order. Mean and std below are over all pixels.
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = Format(
    info=DatasetInfo(
        name="cifar100",
        class_names=tuple(_CIFAR100_CLASSES.split()),
        image_shape=(32, 32, 3),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    batches={Split.TRAIN: ("train",), Split.TEST: ("test",)},
    counts={Split.TRAIN: 50_000, Split.TEST: 10_000},
    label_bytes=2,
    label_key=b"fine_labels",
    archives={
        "cifar-100-binary.tar.gz": (
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        ),
        "cifar-100-python.tar.gz": (
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
        ),
    },
)

FORMATS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def read(form: Format, source: Path) -> dict[Split, Arrays]:
    """Reads the images and labels from an archive, or from a folder with its unpacked files.

    Raises:
      DataError: A file is missing, damaged or not in CIFAR's format.
    """
    files = read_files(form, source)
    return {split: _decode_split(form, split, files, source) for split in form.batches}


def read_files(form: Format, source: Path) -> dict[str, bytes]:
    """The contents of the batch files in an archive or a folder, by file name.

    Raises:
      DataError: A file cannot be read, or is larger than the format allows.
    """
    try:
        if not source.is_dir():
            return _read_archive(form, source)
        paths = stored_files(form, source)
        for path in paths:
            _check_size(form, source, path.name, path.stat().st_size)
        return {path.name: path.read_bytes() for path in paths}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        kind = "folder" if source.is_dir() else "gzipped tar archive"
        raise DataError(f"{source}: not a readable {kind}: {error}") from error


def check(form: Format, splits: dict[Split, Arrays], source: Path) -> None:
    """Checks the number of images and, in a complete split, the balance of the classes.

    The labels must already be in range; see `dataset.check_labels`.

    Raises:
      DataError: A split has too many images or none, or a complete one is not balanced.
    """
    for split, arrays in splits.items():
        where, classes = f"{source}: the {split} split", form.info.num_classes
        if not 0 < len(arrays.labels) <= form.counts[split]:
            raise DataError(
                f"{where} has {len(arrays.labels)} images; expected {form.counts[split]}"
            )
        counts = np.bincount(arrays.labels, minlength=classes)
        # CIFAR's authors state that a complete split has equally many images of each class.
        if counts.sum() == form.counts[split] and counts.min() != counts.max():
            label = int(np.argmin(counts))
            raise DataError(
                f"{where} has {counts[label]} images of class {form.info.class_names[label]!r}; "
                f"expected {form.counts[split] // classes}"
            )


def binary_records(
    form: Format, split: Split, files: dict[str, bytes]
) -> Iterator[tuple[UInt8[np.ndarray, " labels"], UInt8[np.ndarray, "height width channels"]]]:
    """Yields the labels and the image of each binary record of a split."""
    for batch in form.batches[split]:
        for record in _records(form, files[f"{batch}.bin"]):
            planes = record[form.label_bytes :].reshape(PLANES)
            yield record[: form.label_bytes], planes.transpose(1, 2, 0)


def _records(form: Format, content: bytes) -> UInt8[np.ndarray, "examples bytes"]:
    return np.frombuffer(content, np.uint8).reshape(-1, form.record_bytes)


def _file_names(form: Format) -> list[str]:
    """The names of the batch files, of the binary and of the Python archive."""
    batches = [batch for names in form.batches.values() for batch in names]
    return [*(f"{batch}.bin" for batch in batches), *batches]


def _size_limit(form: Format, name: str) -> int:
    images = form.limit(name.removesuffix(".bin"))
    if name.endswith(".bin"):
        return images * form.record_bytes
    # A pickled batch also holds a label and a file name per image: about 3,105 bytes an image.
    # A batch pickled by Python 3 holds the pixels as UTF-8, up to two bytes each.
    return images * (2 * PIXELS + 128) + 4096


def stored_files(form: Format, folder: Path) -> list[Path]:
    """The batch files in a folder, or in the subfolder that unpacking an archive creates."""
    for place in [folder, *sorted(folder.glob("cifar-10*"))]:
        if found := [path for name in _file_names(form) if (path := place / name).is_file()]:
            return found
    return []


class _Bounded(gzip.GzipFile):
    """A gzip stream that raises an error once it has unpacked more than `max_bytes`."""

    def __init__(self, archive: Path, max_bytes: int):
        super().__init__(archive)
        self._archive, self._left = archive, max_bytes

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"{self._archive}: unpacks to more bytes than the format allows")
        return content


def _read_archive(form: Format, archive: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    names = _file_names(form)
    max_bytes = sum(_size_limit(form, name) for name in names) + MARGIN
    # GzipFile verifies the checksum at the end of the file; tarfile's own gzip stream does not.
    with (
        _Bounded(archive, max_bytes) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=MARGIN) as tar,
    ):
        for member in tar:
            name = member.name.rsplit("/", 1)[-1]
            if name in names and member.isfile():
                _check_size(form, archive, name, member.size)
                files[name] = tar.extractfile(member).read()  # type: ignore[union-attr]
        if len(stream.read(MARGIN)) == MARGIN:
            raise DataError(f"{archive}: has data after the end of its tar archive")
    return files


def _check_size(form: Format, source: Path, name: str, size: int) -> None:
    limit, record = _size_limit(form, name), form.record_bytes
    if not 0 < size <= limit:
        raise DataError(f"{source}: {name} has {size} bytes; expected 1 to {limit}")
    if name.endswith(".bin") and size % record:
        raise DataError(
            f"{source}: {name} has {size} bytes; expected whole records of {record} bytes"
        )


def _decode_split(form: Format, split: Split, files: dict[str, bytes], source: Path) -> Arrays:
    batches = [_decode(form, batch, files, source) for batch in form.batches[split]]
    labels = np.concatenate([labels for _, labels in batches])
    planes = [rows.reshape(-1, *PLANES) for rows, _ in batches]
    images = np.empty((len(labels), *form.info.image_shape), np.uint8)
    # Straight into `images`, without a copy in between: a whole set is 184 MB.
    np.concatenate([each.transpose(0, 2, 3, 1) for each in planes], out=images)
    return Arrays(images, labels)


def _decode(
    form: Format, batch: str, files: dict[str, bytes], source: Path
) -> tuple[UInt8[np.ndarray, "examples pixels"], Int[np.ndarray, " examples"]]:
    """The pixels and labels of one batch; each row holds the planes of one image."""
    if content := files.get(f"{batch}.bin"):
        records = _records(form, content)
        rows = records[:, form.label_bytes :]
        labels = records[:, form.label_bytes - 1].astype(np.int32)
    elif content := files.get(batch):
        try:
            rows, labels = batch_pickle.read(content, form.label_key, PIXELS)
        except batch_pickle.BatchError as error:
            raise DataError(f"{source}: {batch} is not a CIFAR batch: {error}") from error
    else:
        raise DataError(f"{source}: lacks {batch}.bin (or {batch}, as in the Python archive)")
    if len(labels) > form.limit(batch):
        raise DataError(
            f"{source}: {batch} has {len(labels)} images; expected up to {form.limit(batch)}"
        )
    return rows, labels
