"""Data sets that do not fit in memory: Grain decodes and cuts their pictures as they are needed.

An epoch is a shuffle of the whole set, without what does not fill a batch. Which pictures a batch
has and how each is cut follow from the seed and the batch's number alone, whatever the number of
threads, worker processes and hosts: each host decodes its own rows of every batch. So a run goes
on from any step, and needs no saved iterator for it.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from absl import flags
from jaxtyping import Bool, Int, UInt8

from googlenet_jax.data import pictures
from googlenet_jax.data.dataset import Arrays, DatasetInfo, Split
from googlenet_jax.errors import DataError, TrainingError

MAX_EPOCHS = 2**31  # more than any run has
MAX_TRIES = 100  # to find a picture that stands in for a corrupt one
MAX_THREADS = 16
BATCHES_AHEAD = 2  # that each worker process has ready


class Picture(NamedTuple):
    """One example as it is stored.

    Attributes:
      content: of the file.
      label: of its class.
      name: for messages.
    """

    content: bytes
    label: int
    name: str


@runtime_checkable
class Pictures(Protocol):
    """The pictures of a split, by number."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Picture:
        """One of them.

        Raises:
          DataError: it cannot be read; with its name.
        """


class Batch(NamedTuple):
    """Some rows of a batch.

    Attributes:
      images: decoded and cut.
      labels: their classes.
      counts: false where a row has no picture of its own: it only fills the batch up.
      corrupt: the number of the picture that should be in this row, if it cannot be read; else -1.
    """

    images: UInt8[np.ndarray, "rows height width channels"]
    labels: Int[np.ndarray, " rows"]
    counts: Bool[np.ndarray, " rows"]
    corrupt: Int[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A data set: its description, its pictures by split, and where they came from.

    Attributes:
      info: what a network must know of it.
      splits: of pictures; "train", "test", and "valid" if there is one.
      provenance: source and sha256, for summary.json.
      seed: of order and crops.
      crop_area: the least share of a picture that a random crop keeps.
      workers: processes that decode; 0: threads of this one.
    """

    info: DatasetInfo
    splits: Mapping[Split, Pictures]
    provenance: dict[str, Any]
    seed: int
    crop_area: float
    workers: int

    def training_batches(
        self, batch_size: int, rows: Int[np.ndarray, " rows"], first_step: int
    ) -> Generator[Batch]:
        """Yields the rows of each training batch, from the one of step `first_step` on, endlessly.

        A picture that cannot be decoded gives its place to the next one as they are stored.

        Raises:
          TrainingError: a worker process is no more.
        """
        import grain

        num_examples = len(self.splits[Split.TRAIN])
        examples = grain.MapDataset.range(num_examples).seed(self.seed).shuffle()
        whole_batches = examples[: num_examples // batch_size * batch_size]
        cuts = whole_batches.repeat(MAX_EPOCHS).random_map(
            lambda index, rng: (np.int64(index), rng.integers(2**63))
        )
        load = _Load(self.splits[Split.TRAIN], self.info, rows, self.crop_area)
        return self._read(cuts.batch(batch_size)[first_step:].map(load))

    def evaluation_batches(
        self, split: Split, batch_size: int, rows: Int[np.ndarray, " rows"]
    ) -> Generator[Batch]:
        """Yields the rows of each batch of a split, in order.

        The last batch of the split is filled up with rows that do not count, and so are the places
        of pictures that cannot be decoded.

        Raises:
          TrainingError: a worker process is no more.
        """
        import grain

        num_batches = -(-len(self.splits[split]) // batch_size)
        examples = grain.MapDataset.range(num_batches * batch_size)
        uncut = examples.map(lambda index: (np.int64(index), np.int64(0)))
        load = _Load(self.splits[split], self.info, rows, crop_area=None)
        return self._read(uncut.batch(batch_size).map(load))

    def batches(self, split: Split, batch_size: int) -> Generator[Arrays]:
        """Yields the images of a split in their order, as evaluation has them.

        Those that cannot be decoded are missing, so that any batch may be smaller.

        Raises:
          TrainingError: a worker process is no more.
        """
        rows = np.arange(batch_size)
        with contextlib.closing(self.evaluation_batches(split, batch_size, rows)) as batches:
            for batch in batches:
                yield Arrays(batch.images, batch.labels)[batch.counts]

    def samples(
        self, num_examples: int, num_crops: int
    ) -> tuple[
        UInt8[np.ndarray, "examples height width channels"],
        UInt8[np.ndarray, "crops examples height width channels"],
    ]:
        """The first training pictures as evaluation would have them, and random crops of them."""
        train = self.splits[Split.TRAIN]
        indices = np.arange(min(num_examples, len(train)))

        def load(crop_area: float | None, seed: int) -> UInt8[np.ndarray, "_ _ _ _"]:
            cut = _Load(train, self.info, indices, crop_area)
            return cut((indices, np.full(len(indices), seed))).images

        return load(None, 0), np.stack([load(self.crop_area, seed) for seed in range(num_crops)])

    def describe_corrupt(self, split: Split, index: int) -> str:
        """The name of a picture that cannot be decoded, and why."""
        try:
            picture = self.splits[split][index]
        except DataError as error:
            return f"{error}"
        try:
            self.info.read(picture.content)
        except DataError as error:
            return f"{picture.name}: {error}"
        return f"{picture.name}: could not be read for a moment"

    def _read(self, batches: Any) -> Generator[Batch]:
        import grain

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain has some, and reads them
        threads = 0 if self.workers else min(MAX_THREADS, len(os.sched_getaffinity(0)))
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        iterator = iter(
            batches.to_iter_dataset(reading).mp_prefetch(
                grain.MultiprocessingOptions(self.workers, BATCHES_AHEAD), _start_worker
            )
        )
        try:
            yield from iterator
        except RuntimeError as error:
            if not str(error).startswith("Worker process"):
                raise
            raise TrainingError(
                "a process that decodes pictures was ended from outside, often for want of memory "
                "or of room in /dev/shm; --config.data.workers says how many there are"
            ) from error
        finally:
            iterator.close()


def _start_worker(index: int, count: int) -> None:
    """Leaves signals to the process that trains, and has a worker end with it, however it ends."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@dataclasses.dataclass(frozen=True)
class _Load:
    """From numbers of pictures to some rows of a batch; runs in threads and worker processes."""

    pictures: Pictures
    info: DatasetInfo
    rows: Int[np.ndarray, " rows"]
    crop_area: float | None  # None: the central crop of evaluation

    def __call__(self, batch: tuple[np.ndarray, np.ndarray]) -> Batch:
        size = len(self.rows)
        loaded = Batch(
            images=np.zeros((size, *self.info.image_shape), np.uint8),
            labels=np.zeros(size, np.int32),
            counts=np.zeros(size, bool),
            corrupt=np.full(size, -1),
        )
        indices, seeds = (numbers[self.rows] for numbers in batch)
        for row, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
            if index < len(self.pictures):
                self._fill(loaded, row, int(index), int(seed))
        return loaded

    def _fill(self, loaded: Batch, row: int, index: int, seed: int) -> None:
        size = len(self.pictures)
        tries = 1 if self.crop_area is None else min(MAX_TRIES, size)
        for candidate in (np.arange(index, index + tries) % size).tolist():
            try:
                picture = self.pictures[candidate]
                loaded.images[row] = self._cut(picture, seed)
            except DataError:
                loaded.corrupt[row] = index
                continue
            loaded.labels[row], loaded.counts[row] = picture.label, True
            return

    def _cut(self, picture: Picture, seed: int) -> UInt8[np.ndarray, "height width channels"]:
        if self.crop_area is None:
            return self.info.read(picture.content)
        rng = np.random.default_rng(seed)
        return pictures.read_random_crop(
            picture.content, self.info.image_shape, rng, self.crop_area
        )
