"""What a source delivers, and what is made of it: splits, and the order of an epoch."""

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
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from googlenet_jax import parallel
from googlenet_jax.data import pictures
from googlenet_jax.errors import DataError

MAX_STORED_BYTES = 2**32  # of a data set that is to lie whole on a device


@typing.no_type_check  # JAX also builds it of shapes and other stand-ins for arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images and their labels, on the host or, each image as a row of pixels, on devices."""

    images: UInt8[Array | np.ndarray, "examples ..."]
    labels: Int[Array | np.ndarray, " examples"]

    def __getitem__(self, index: Any) -> Self:
        return type(self)(self.images[index], self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a network must know of the images that it was trained on; saved with its weights.

    Attributes:
      name: of the data set.
      class_names: by label.
      image_shape: (height, width, channels).
      mean: of each channel, of pixels scaled to 0..1.
      std: of each channel.
      center_crop: of a picture's shorter side, the share that the central square keeps which is
        evaluated; 0: the whole picture.
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
        """A picture as the network is evaluated on it; see `pictures.read`."""
        return pictures.read(file, self.image_shape, self.center_crop)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them: lists for tuples."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `to_dict`.

        Raises:
          ValueError: it describes no images and classes.
        """
        try:
            tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            info = cls(**tuples)  # type: ignore[arg-type]
            numbers = [*info.image_shape, *info.mean, *info.std, info.center_crop]
            is_one = (
                info.class_names
                and all(isinstance(text, str) for text in (info.name, *info.class_names))
                and all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
                and all(type(side) is int and side > 0 for side in info.image_shape)
                and len(info.image_shape) == 3
                and len(info.mean) == len(info.std) == info.image_shape[2]
                and min(info.std) > 0
            )
        except (AttributeError, TypeError, OverflowError) as error:
            raise ValueError(f"describes no images and classes: {error}") from error
        if not is_one:
            raise ValueError(f"dataset={values}: describes no images and classes")
        return info


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set: its description, its images by split, and where they came from.

    Attributes:
      info: what a network must know of it.
      splits: "train" and "test", and "valid" where some training images were set apart.
      provenance: source, sha256 and whether that is the official one, for summary.json.
    """

    info: DatasetInfo
    splits: dict["Split", Arrays]
    provenance: dict[str, Any]

    def with_validation(self, num_examples: int, seed: int) -> Self:
        """Sets `num_examples` training images apart, equally many of each class.

        Where the classes do not divide the number, the first ones give one image more.

        Raises:
          DataError: a class has too few images.
        """
        train, names = self.splits[Split.TRAIN], self.info.class_names
        is_valid = choose(train.labels, names, num_examples, seed, "data.valid_examples")
        splits = {**self.splits, Split.TRAIN: train[~is_valid], Split.VALID: train[is_valid]}
        return dataclasses.replace(self, splits=splits)

    def downscaled(self, factor: int) -> Self:
        """Averages each square of `factor` x `factor` pixels into one, rounded.

        Raises:
          DataError: the squares do not fill the images.
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

    def batches(self, split: "Split", batch_size: int) -> Generator[Arrays]:
        """Yields the images of a split in their order; the last batch may be smaller."""
        for start in range(0, len(self.splits[split]), batch_size):
            yield self.splits[split][start : start + batch_size]

    def on_devices(self, mesh: Mesh | None) -> Self:
        """The same data set with its arrays on every device of a mesh, or on the first device.

        Each image is a row there. A TPU keeps arrays in tiles, and programs would begin with a
        copy of all images into tiles that a batch can be gathered from.
        """
        rows = {
            split: Arrays(arrays.images.reshape(len(arrays), -1), arrays.labels)
            for split, arrays in self.splits.items()
        }
        return dataclasses.replace(self, splits=parallel.replicate(rows, mesh))


@runtime_checkable
class Divided(Protocol):
    """A data set that is read in whatever way."""

    @property
    def splits(self) -> Mapping["Split", Sized]:
        """Its examples."""


class Split(enum.StrEnum):
    """A part of a data set."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"

    def num_examples(self, dataset: "Divided") -> int:
        """How many images this split of `dataset` has; 0 where there is no such split."""
        return len(dataset.splits[self]) if self in dataset.splits else 0


def choose(
    labels: Int[Array | np.ndarray, " examples"],
    class_names: Sequence[str],
    num_examples: int,
    seed: int,
    field: str,
) -> Bool[np.ndarray, " examples"]:
    """Which examples are set apart: `num_examples`, equally many of each class.

    Where the classes do not divide the number, the first ones give one example more.

    Args:
      labels: of all examples.
      class_names: by label.
      num_examples: to choose.
      seed: of the choice.
      field: of the config that asked for it, for the error.

    Raises:
      DataError: a class has too few images.
    """
    rng = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    for label, name in enumerate(class_names):
        share = (num_examples + len(class_names) - 1 - label) // len(class_names)
        members = np.flatnonzero(labels == label)
        if share >= len(members):
            raise DataError(
                f"{field}={num_examples}: takes {share} images of class {name!r}, which has "
                f"{len(members)}"
            )
        chosen.append(rng.permutation(members)[:share])
    is_chosen = np.zeros(len(labels), bool)
    is_chosen[np.concatenate(chosen)] = True
    return is_chosen


def epoch_order(key: PRNGKeyArray, epoch: int, num_examples: int) -> Int[Array, " examples"]:
    """The order of the training examples in an epoch: a function of the key and its number."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def digest(paths: Sequence[Path]) -> str:
    """The sha256 of files, one after the other.

    Raises:
      OSError: one cannot be read, is no regular file, or all are larger than `MAX_STORED_BYTES`.
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
            while chunk := file.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()


def check_labels(info: DatasetInfo, splits: dict[Split, Arrays], source: str) -> None:
    """Checks what no source may get wrong: that each label is a class.

    Raises:
      DataError: says which split, what was expected and what was found.
    """
    for split, arrays in splits.items():
        wrong = arrays.labels[(arrays.labels < 0) | (arrays.labels >= info.num_classes)]
        if len(wrong):
            raise DataError(
                f"{source}: the {split} split has label {wrong[0]}; expected 0 to "
                f"{info.num_classes - 1}"
            )


def check_sum(source: str, found: str, official: Sequence[str], unofficial: bool) -> dict[str, Any]:
    """The provenance of data whose sha256 is `found`.

    Raises:
      DataError: it is none of the official sums, and that was not allowed.
    """
    if found not in official and not unofficial:
        published = f"the official one is {' or '.join(official)}" if official else "none is known"
        raise DataError(
            f"{source}: sha256 is {found}, {published}; to use it all the same, pass "
            "--config.data.unofficial=True"
        )
    return {"source": source, "sha256": found, "official": found in official}
