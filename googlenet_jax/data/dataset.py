"""Data sets in memory: images and labels by split, and the order of an epoch."""

import dataclasses
import enum
import errno
import hashlib
import math
import stat
import typing
from collections.abc import Generator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from googlenet_jax import parallel
from googlenet_jax.data import decoding
from googlenet_jax.errors import DataError

MAX_STORED_BYTES = 2**32  # of a data set that has to fit on a device


@runtime_checkable
class HasSplits(Protocol):
    """A `Dataset` or a `Stream`."""

    @property
    def splits(self) -> Mapping["Split", Sized]:
        """The examples of each split."""


class Split(enum.StrEnum):
    """A part of a data set."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"

    def num_examples(self, dataset: HasSplits) -> int:
        """The number of images in this split of `dataset`; 0 if it has no such split."""
        return len(dataset.splits[self]) if self in dataset.splits else 0


@typing.no_type_check  # JAX also builds it from shapes and other stand-ins for arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images and their labels: on the host NHWC, on devices one row of pixels per image."""

    images: UInt8[Array | np.ndarray, "examples ..."]
    labels: Int[Array | np.ndarray, " examples"]

    def __getitem__(self, index: Any) -> Self:
        return type(self)(self.images[index], self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a network needs to know about its images. It is saved with the weights.

    Attributes:
      name: The data set's name.
      class_names: Names in the order of the labels.
      image_shape: (height, width, channels).
      mean: Mean of each channel, for pixels scaled to 0..1.
      std: Standard deviation of each channel, for pixels scaled to 0..1.
      center_crop: In evaluation, the side of the central square that is kept, as a fraction of
        the picture's shorter side; 0 keeps the whole picture.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    center_crop: float = 0.0

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def read(self, file: Path | bytes) -> UInt8[np.ndarray, "height width channels"]:
        """The pixels of a picture, resized and cropped for evaluation; see `decoding.read`."""
        return decoding.read(file, self.image_shape, self.center_crop)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; tuples become lists."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `to_dict`.

        Raises:
          ValueError: A field is missing, unknown or has a value that is not allowed.
        """
        try:
            tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            info = cls(**tuples)  # type: ignore[arg-type]
            numbers = [*info.image_shape, *info.mean, *info.std, info.center_crop]
            is_valid = (
                info.class_names
                and all(isinstance(text, str) for text in (info.name, *info.class_names))
                and all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
                and all(type(side) is int and side > 0 for side in info.image_shape)
                and math.prod(info.image_shape[:2]) <= decoding.MAX_PIXELS
                and len(info.image_shape) == 3
                and len(info.mean) == len(info.std) == info.image_shape[2]
                and min(info.std) > 0
                and 0 <= info.center_crop <= 1
            )
        except (AttributeError, TypeError, OverflowError) as error:
            raise ValueError(f"does not describe images and classes: {error}") from error
        if not is_valid:
            raise ValueError(f"dataset={values}: does not describe images and classes")
        return info


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
      info: What a network needs to know about the images.
      splits: "train" and "test", and "valid" if training images were set apart.
      provenance: Source, sha256 and whether that is the official one, for summary.json.
    """

    info: DatasetInfo
    splits: dict[Split, Arrays]
    provenance: dict[str, Any]

    def with_validation(self, amount: int | float, seed: int) -> Self:
        """Moves training images to a validation split; see `choose`.

        Raises:
          DataError: A class has too few images.
        """
        train, names = self.splits[Split.TRAIN], self.info.class_names
        field = "data.valid_examples" if isinstance(amount, int) else "data.valid_share"
        is_valid = choose(train.labels, names, amount, seed, field)
        splits = {**self.splits, Split.TRAIN: train[~is_valid], Split.VALID: train[is_valid]}
        return dataclasses.replace(self, splits=splits)

    def downscaled(self, factor: int) -> Self:
        """Averages each square of `factor` x `factor` pixels into one, rounded.

        Raises:
          DataError: `factor` does not divide the images' height and width.
        """
        height, width, channels = self.info.image_shape
        if height % factor or width % factor:
            raise DataError(
                f"data.downscale={factor}: does not divide the {height}x{width} pixels of "
                f"{self.info.name}"
            )
        shape = (height // factor, width // factor, channels)

        def average(images: np.ndarray) -> np.ndarray:
            squares = images.reshape(-1, shape[0], factor, shape[1], factor, channels)
            totals = squares.sum((2, 4), dtype=np.uint32)
            return ((2 * totals + factor**2) // (2 * factor**2)).astype(np.uint8)

        splits = {
            split: Arrays(average(np.asarray(arrays.images)), arrays.labels)
            for split, arrays in self.splits.items()
        }
        info = dataclasses.replace(self.info, image_shape=shape)
        return dataclasses.replace(self, info=info, splits=splits)

    def batches(self, split: Split, batch_size: int) -> Generator[Arrays]:
        """Yields the images of a split in stored order; the last batch may be smaller."""
        for start in range(0, len(self.splits[split]), batch_size):
            yield self.splits[split][start : start + batch_size]

    def on_devices(self, mesh: Mesh | None) -> Self:
        """Copies the arrays to every device of a mesh, or to the first device if it is None.

        Each image becomes one row of pixels. A TPU stores arrays in tiles, and with NHWC images
        each program would first copy all of them into tiles from which it can gather a batch.
        """
        rows = {
            split: Arrays(arrays.images.reshape(len(arrays), -1), arrays.labels)
            for split, arrays in self.splits.items()
        }
        return dataclasses.replace(self, splits=parallel.replicate(rows, mesh))


def choose(
    labels: Int[Array | np.ndarray, " examples"],
    class_names: Sequence[str],
    amount: int | float,
    seed: int,
    field: str,
) -> Bool[np.ndarray, " examples"]:
    """Chooses examples at random, and returns a mask of them.

    The same seed chooses the same examples.

    Args:
      labels: Of all examples.
      class_names: Names in the order of the labels.
      amount: An integer: so many, equally many of each class; if the number of classes does not
        divide it, the first classes give one more. A fraction: this share of each class, rounded,
        and at least one example.
      seed: Determines the choice.
      field: The config's field, for the error message.

    Raises:
      DataError: A class has too few images.
    """
    rng = np.random.default_rng(seed)
    is_chosen = np.zeros(len(labels), bool)
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if isinstance(amount, int):
            size = (amount + len(class_names) - 1 - label) // len(class_names)
        else:
            size = max(1, round(amount * len(members)))
        if size >= len(members):
            raise DataError(
                f"{field}={amount}: takes {size} images of class {name!r}, which has {len(members)}"
            )
        is_chosen[rng.permutation(members)[:size]] = True
    return is_chosen


def training_labels(dataset: HasSplits, field: str) -> Int[Array | np.ndarray, " examples"]:
    """The labels of the training split.

    Raises:
      DataError: They are not known in advance. `field` is the config's field that needs them.
    """
    train = dataset.splits[Split.TRAIN]
    if not hasattr(train, "labels"):
        raise DataError(f"{field}: needs all labels in advance, which streamed records do not give")
    return train.labels


def balanced_weights(
    labels: Int[Array | np.ndarray, " examples"], num_classes: int
) -> Float[np.ndarray, " classes"]:
    """A weight for each class, so that all classes together weigh the same, and 1 on average.

    It is scikit-learn's "balanced": examples / (classes x examples of the class).
    """
    count = np.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * np.maximum(count, 1))


def epoch_order(
    key: PRNGKeyArray,
    epoch: int,
    num_examples: int,
    weights: Float[np.ndarray, " examples"] | None = None,
) -> Int[Array, " examples"]:
    """The training examples of an epoch; they depend only on the arguments.

    Args:
      key: Of the run.
      epoch: Counted from 0.
      num_examples: In the data set, and in the epoch.
      weights: Draw each example with a probability in proportion to its weight, each time from
        all of them; None: take each example once.
    """
    key = jax.random.fold_in(key, epoch)
    if weights is None:
        return jax.random.permutation(key, num_examples)
    chances = (weights / weights.sum()).astype(np.float32)
    return jax.random.choice(key, num_examples, (num_examples,), p=chances)


def digest(paths: Sequence[Path]) -> str:
    """The sha256 of the concatenated files.

    Raises:
      OSError: A file cannot be read or is not a regular file, or together they are larger than
        `MAX_STORED_BYTES`.
    """
    total, left = hashlib.sha256(), MAX_STORED_BYTES
    for path in paths:
        status = path.stat()
        left -= status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if left < 0:
            raise OSError(errno.EFBIG, f"larger than {MAX_STORED_BYTES:,} bytes", str(path))
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: total)  # updates `total`
    return total.hexdigest()


def check_labels(info: DatasetInfo, splits: dict[Split, Arrays], source: str) -> None:
    """Checks that every label belongs to a class.

    Raises:
      DataError: A label is out of range.
    """
    for split, arrays in splits.items():
        wrong = arrays.labels[(arrays.labels < 0) | (arrays.labels >= info.num_classes)]
        if len(wrong):
            raise DataError(
                f"{source}: the {split} split has label {wrong[0]}; expected 0 to "
                f"{info.num_classes - 1}"
            )


def check_sum(source: str, found: str, official: Sequence[str], unofficial: bool) -> dict[str, Any]:
    """Checks the sha256 of data against the official ones, and returns the data's provenance.

    Raises:
      DataError: `found` is not one of them, and `unofficial` is false.
    """
    if found not in official and not unofficial:
        expected = f"the official one is {' or '.join(official)}"
        if not official:
            expected = "no official one is known"
        raise DataError(
            f"{source}: sha256 is {found}, {expected}; to use the data anyway, pass "
            "--config.data.unofficial=True"
        )
    return {"source": source, "sha256": found, "official": found in official}
