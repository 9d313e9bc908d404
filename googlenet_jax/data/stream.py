"""Data sets that do not fit in memory: Grain decodes and crops pictures while the network trains.

In each epoch the training split is shuffled anew, and what does not fill a batch is left out. The
seed and the number of a batch alone determine its pictures and their crops, whatever the number of
threads, worker processes and hosts: each host decodes its own rows of every batch. So a run can
resume at any step without a saved iterator.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from absl import flags
from jaxtyping import Bool, Float, Int, UInt8

from googlenet_jax.data import decoding
from googlenet_jax.data.dataset import Arrays, DatasetInfo, Split
from googlenet_jax.errors import DataError, TrainingError

MAX_EPOCHS = 2**31  # more than any run has
MAX_TRIES = 100  # pictures to try in training if one cannot be decoded
MAX_THREADS = 16
BATCHES_AHEAD = 2  # batches that each worker process prepares in advance


class Picture(NamedTuple):
    """One example as it is stored.

    Attributes:
      content: The content of the picture file.
      label: Class number.
      name: Names the picture in messages.
    """

    content: bytes
    label: int
    name: str


@runtime_checkable
class Pictures(Protocol):
    """The pictures of a split, by number."""

    def __len__(self) -> int:
        """The number of pictures."""

    def __getitem__(self, index: int) -> Picture:
        """Reads one picture.

        Raises:
          DataError: It cannot be read; the message names it.
        """


class Batch(NamedTuple):
    """Rows of a batch.

    Attributes:
      images: Decoded and cropped pictures.
      labels: Class numbers.
      counts: False for a row without a picture, which only fills up the batch.
      corrupt: The number of the picture that belongs in this row but cannot be decoded; else -1.
    """

    images: UInt8[np.ndarray, "rows height width channels"]
    labels: Int[np.ndarray, " rows"]
    counts: Bool[np.ndarray, " rows"]
    corrupt: Int[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A data set whose pictures are decoded while it is used.

    Attributes:
      info: What a network needs to know about the images.
      splits: The pictures of "train" and "test", and of "valid" if there is one.
      provenance: Source and sha256, for summary.json.
      seed: Determines order and crops.
      crop_area: Smallest area of a random crop, as a fraction of the picture's area.
      workers: Number of processes that decode; 0 decodes in threads of this process.
    """

    info: DatasetInfo
    splits: Mapping[Split, Pictures]
    provenance: dict[str, Any]
    seed: int
    crop_area: float
    workers: int

    def training_batches(
        self,
        batch_size: int,
        rows: Int[np.ndarray, " rows"],
        first_step: int,
        weights: Float[np.ndarray, " examples"] | None = None,
    ) -> Generator[Batch]:
        """Yields the given rows of each training batch, from step `first_step` on, endlessly.

        If a picture cannot be decoded, it is replaced by one of the next ones in stored order; at
        most `MAX_TRIES` pictures are tried.

        Args:
          batch_size: Of the whole batch.
          rows: Of the batch, to yield.
          first_step: The step of the first batch.
          weights: See `dataset.epoch_order`.

        Raises:
          TrainingError: A worker process was killed.
        """
        import grain

        num_examples = len(self.splits[Split.TRAIN])
        shuffled = grain.MapDataset.range(num_examples).seed(self.seed).shuffle()
        whole_batches = shuffled[: num_examples // batch_size * batch_size]
        # `shuffle` gives each repetition, that is each epoch, another order.
        with_crop_seeds = whole_batches.repeat(MAX_EPOCHS).random_map(_Draw.of(weights))
        decode = _DecodeRows(self.splits[Split.TRAIN], self.info, rows, self.crop_area)
        return self._run(with_crop_seeds.batch(batch_size)[first_step:].map(decode))

    def evaluation_batches(
        self, split: Split, batch_size: int, rows: Int[np.ndarray, " rows"]
    ) -> Generator[Batch]:
        """Yields the given rows of each batch of a split, in stored order.

        Rows that do not count fill up the last batch, and stand for pictures that cannot be
        decoded.

        Raises:
          TrainingError: A worker process was killed.
        """
        import grain

        num_batches = -(-len(self.splits[split]) // batch_size)
        indices = grain.MapDataset.range(num_batches * batch_size)
        with_unused_seeds = indices.map(lambda index: (np.int64(index), np.int64(0)))
        decode = _DecodeRows(self.splits[split], self.info, rows, crop_area=None)
        return self._run(with_unused_seeds.batch(batch_size).map(decode))

    def batches(self, split: Split, batch_size: int) -> Generator[Arrays]:
        """Yields the images of a split in stored order, cropped for evaluation.

        Pictures that cannot be decoded are left out, so any batch may be smaller.

        Raises:
          TrainingError: A worker process was killed.
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
        """Returns the first training pictures, cropped for evaluation, and random crops of them."""
        train = self.splits[Split.TRAIN]
        indices = np.arange(min(num_examples, len(train)))

        def decode(crop_area: float | None, seed: int) -> UInt8[np.ndarray, "_ _ _ _"]:
            decode_rows = _DecodeRows(train, self.info, indices, crop_area)
            return decode_rows((indices, np.full(len(indices), seed))).images

        crops = np.stack([decode(self.crop_area, seed) for seed in range(num_crops)])
        return decode(None, 0), crops

    def describe_corrupt(self, split: Split, index: int) -> str:
        """The name of a picture that could not be decoded, and the reason."""
        try:
            picture = self.splits[split][index]
        except DataError as error:
            return f"{error}"
        try:
            self.info.read(picture.content)
        except DataError as error:
            return f"{picture.name}: {error}"
        return f"{picture.name}: could not be read at first, but can be read now"

    def _run(self, batches: Any) -> Generator[Batch]:
        """Yields the batches of a Grain pipeline, made ahead by threads or worker processes."""
        import grain

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its own absl flags
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
                "a worker that decodes pictures was killed, often because memory or "
                "/dev/shm is full; --config.data.workers sets the number of workers"
            ) from error
        finally:
            iterator.close()


def _start_worker(index: int, count: int) -> None:
    """Makes a worker ignore signals meant for the training process, and end when that ends.

    Pillow's warnings are muted, as in the training process.
    """
    warnings.filterwarnings("ignore", module="PIL")
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """Gives each picture of an epoch a seed for its crop, or draws another picture for it."""

    until: Float[np.ndarray, " examples"] | None  # sums of the probabilities up to each picture

    @classmethod
    def of(cls, weights: Float[np.ndarray, " examples"] | None) -> Self:
        """Draws by `weights`; keeps the pictures if that is None."""
        sums = None if weights is None else np.cumsum(weights)
        return cls(None if sums is None else sums / sums[-1])

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[np.int64, np.int64]:
        if self.until is not None:
            index = int(np.searchsorted(self.until, rng.random(), side="right"))
        return np.int64(index), rng.integers(2**63)


@dataclasses.dataclass(frozen=True)
class _DecodeRows:
    """Decodes rows of a batch, from the pictures' numbers; runs in threads and worker processes."""

    pictures: Pictures
    info: DatasetInfo
    rows: Int[np.ndarray, " rows"]
    crop_area: float | None  # None for the central crop of evaluation

    def __call__(self, batch: tuple[np.ndarray, np.ndarray]) -> Batch:
        """Decodes `rows` of a batch, given the numbers and the crop seeds of all its pictures."""
        size = len(self.rows)
        decoded = Batch(
            images=np.zeros((size, *self.info.image_shape), np.uint8),
            labels=np.zeros(size, np.int32),
            counts=np.zeros(size, bool),
            corrupt=np.full(size, -1),
        )
        indices, seeds = (numbers[self.rows] for numbers in batch)
        for row, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
            if index < len(self.pictures):  # a last batch may go beyond the end
                self._fill(decoded, row, int(index), int(seed))
        return decoded

    def _fill(self, decoded: Batch, row: int, index: int, seed: int) -> None:
        """Decodes a picture into a row; in training, the next ones if it cannot be decoded."""
        size = len(self.pictures)
        tries = 1 if self.crop_area is None else min(MAX_TRIES, size)
        for candidate in (np.arange(index, index + tries) % size).tolist():
            try:
                picture = self.pictures[candidate]
                decoded.images[row] = self._decode(picture.content, seed)
            except DataError:
                decoded.corrupt[row] = index
                continue
            decoded.labels[row], decoded.counts[row] = picture.label, True
            return

    def _decode(self, content: bytes, seed: int) -> UInt8[np.ndarray, "height width channels"]:
        if self.crop_area is None:
            return self.info.read(content)
        rng = np.random.default_rng(seed)
        return decoding.read_random_crop(content, self.info.image_shape, rng, self.crop_area)
