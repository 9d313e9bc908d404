"""How the images of a data set reach the compiled programs of a run.

The training loop sees a `Feed` and does not know which one: `InMemory` has the whole set on every
device, and one program takes many steps; `Streamed` decodes one batch after the other beside it.
"""

import contextlib
import functools
import logging
from collections.abc import Generator, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from googlenet_jax import data, parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Dataset, Split, Stream, preprocess
from googlenet_jax.data.stream import Batch
from googlenet_jax.errors import DataError, TrainingError
from googlenet_jax.training import step
from googlenet_jax.training.metrics import Evaluation
from googlenet_jax.training.state import Keys, TrainState


@runtime_checkable
class Feed(Protocol):
    """A data set, and the compiled programs that train and evaluate on it."""

    @property
    def dataset(self) -> Dataset | Stream:
        """That it feeds from."""

    def compile(self, state: TrainState) -> bool:
        """Compiles the training program; to be called before `train`.

        Returns:
          Whether it lay in JAX's cache of compiled programs.

        Raises:
          DataError: the first images cannot be read.
        """

    def train(self, state: TrainState, num_steps: int) -> TrainState:
        """Takes steps of one epoch, from the one that `state.step` says, or fewer.

        It ends behind a step that is unsound, and before one whose images cannot be read.

        Args:
          state: donated, unless an error is raised.
          num_steps: not beyond the epoch's end.

        Raises:
          DataError: the images of the first of these steps cannot be read.
          TrainingError: what decodes them is no more.
        """

    def evaluate(self, state: TrainState, split: Split) -> Evaluation:
        """The evaluation of every example of a split, each counted once, in inference mode.

        Raises:
          DataError: an image cannot be decoded.
          TrainingError: what decodes them is no more.
        """

    def close(self) -> None:
        """Ends what works in the background."""


def create(
    dataset: Dataset | Stream,
    config: Config,
    mesh: Mesh | None = None,
    schedule: optax.Schedule | None = None,
) -> Feed:
    """The feed of a data set.

    Args:
      dataset: on the host.
      config: of the run.
      mesh: of the devices; None is one device.
      schedule: the learning rate by step; None for a feed that only evaluates.
    """
    if isinstance(dataset, Stream):
        return Streamed(dataset, config, mesh, schedule)
    return InMemory(dataset, config, mesh, schedule)


def compile_and_tell(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """The compiled program, and whether it lay in JAX's cache."""
    events: list[str] = []

    def note(event: str, **_: Any) -> None:
        events.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        return lowered.compile(), "/jax/compilation_cache/cache_hits" in events
    finally:
        jax.monitoring.unregister_event_listener(note)


class _Common:
    """What both feeds are made of."""

    def __init__(
        self,
        dataset: Dataset | Stream,
        config: Config,
        mesh: Mesh | None,
        schedule: optax.Schedule | None,
    ):
        self._config, self._mesh, self._schedule = config, mesh, schedule
        self._steps_per_epoch = Split.TRAIN.num_examples(dataset) // config.train.batch_size
        self._epoch = -1
        self._step_key = parallel.replicate(Keys.of(config.seed).step, mesh)
        self._for_evaluation = preprocess.for_evaluation(dataset.info)
        self._for_training = preprocess.for_training(config.data, dataset.info)

    def _begin(self, state: TrainState) -> bool:
        """Computes what holds for the whole epoch of the next step; False if that was done."""
        epoch = int(state.step) // self._steps_per_epoch
        if epoch == self._epoch:
            return False
        assert self._schedule, "made to evaluate only"
        steps = epoch * self._steps_per_epoch + np.arange(self._steps_per_epoch)
        rates = np.broadcast_to(self._schedule(steps), steps.shape)
        hyperparameters = step.Hyperparameters.of(self._config, rates)
        self._epoch, self._hyperparameters = epoch, parallel.replicate(hyperparameters, self._mesh)
        return True


class InMemory(_Common):
    """Trains and evaluates on a data set that lies whole on every device."""

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        mesh: Mesh | None,
        schedule: optax.Schedule | None,
    ):
        super().__init__(dataset, config, mesh, schedule)
        self.dataset = dataset.on_devices(mesh)
        self._order_key = parallel.replicate(Keys.of(config.seed).order, mesh)

    def _arguments(self, state: TrainState, num_steps: int) -> tuple[Any, ...]:
        """Of the training program."""
        train = self.dataset.splits[Split.TRAIN]
        if self._begin(state):
            self._order = data.epoch_order(self._order_key, self._epoch, len(train))
        rest = np.int32(num_steps), self._step_key, self._hyperparameters
        return state, train, self._order, *rest

    def compile(self, state: TrainState) -> bool:
        """See `Feed`."""
        lowered = step.train_steps.lower(
            *self._arguments(state, 1),
            batch_size=self._config.train.batch_size,
            preprocess=self._for_training,
            mesh=self._mesh,
        )
        self._program, was_kept = compile_and_tell(lowered)
        return was_kept

    def train(self, state: TrainState, num_steps: int) -> TrainState:
        """See `Feed`."""
        return self._program(*self._arguments(state, num_steps))

    def evaluate(self, state: TrainState, split: Split) -> Evaluation:
        """See `Feed`."""
        arrays = self.dataset.splits[split]
        evaluation = step.evaluate(
            state,
            arrays,
            batch_size=self._config.eval.batch_size,
            preprocess=self._for_evaluation,
            mesh=self._mesh,
        )
        assert int(evaluation.count.sum()) == len(arrays), "an image was lost or doubled"
        return evaluation

    def close(self) -> None:
        """See `Feed`."""


class Streamed(_Common):
    """Trains and evaluates on pictures that are decoded as they are needed.

    While the devices take a step, the next batch is decoded and sent to them. Which pictures that
    are, and how they are cut, follows from the step's number: no iterator needs to be saved.
    """

    def __init__(
        self,
        dataset: Stream,
        config: Config,
        mesh: Mesh | None,
        schedule: optax.Schedule | None,
    ):
        super().__init__(dataset, config, mesh, schedule)
        self.dataset = dataset
        self._named: set[tuple[Split, int]] = set()  # pictures that cannot be read
        self._batches: Generator[Batch] | None = None
        self._next: tuple[Array, ...] | DataError | TrainingError = ()

    def compile(self, state: TrainState) -> bool:
        """See `Feed`."""
        batch_size = self._config.train.batch_size
        rows = parallel.rows(batch_size, self._mesh)
        self._batches = self.dataset.training_batches(batch_size, rows, int(state.step))
        self._fetch()
        if missing := self._missing(self._next):
            raise missing
        assert isinstance(self._next, tuple)
        self._begin(state)
        lowered = step.train_on_batch.lower(
            state,
            *self._next,
            self._step_key,
            self._hyperparameters,
            preprocess=self._for_training,
            mesh=self._mesh,
        )
        self._program, was_kept = compile_and_tell(lowered)
        return was_kept

    def train(self, state: TrainState, num_steps: int) -> TrainState:
        """See `Feed`."""
        self._begin(state)
        for taken in range(num_steps):
            if missing := self._missing(self._next):
                if taken:
                    break  # told when its step is due: what has been trained is not to be lost
                raise missing
            assert isinstance(self._next, tuple)
            state = self._program(state, *self._next, self._step_key, self._hyperparameters)
            self._fetch()  # where programs run apart from this thread, this one is at work now
        return state

    def _missing(self, found: object) -> DataError | TrainingError | None:
        """Why there is no batch: in one process, and then in all of them, which agree on it.

        Else the others would wait in a step that this one never takes.
        """
        own = found if isinstance(found, DataError | TrainingError) else None
        if jax.process_count() == 1 or not parallel.total(int(own is not None)):
            return own
        return own or DataError("another process of the run cannot read its images")

    def _fetch(self) -> None:
        """Gets the next training batch, or the reason why there is none, ready."""
        assert self._batches is not None
        try:
            batch = next(self._batches)
            self._check(batch, Split.TRAIN)
            if not batch.counts.all():
                raise DataError(f"{self.dataset.provenance['source']}: too much cannot be read")
        except (DataError, TrainingError) as error:
            self._next = error
        else:
            arrays = (batch.images, batch.labels)
            self._next = parallel.from_rows(arrays, self._config.train.batch_size, self._mesh)

    def evaluate(self, state: TrainState, split: Split) -> Evaluation:
        """See `Feed`."""
        size = min(self._config.eval.batch_size, len(self.dataset.splits[split]))
        size = parallel.divisible(size, self._mesh)
        parts: list[Evaluation] = []
        corrupt, rows = 0, parallel.rows(size, self._mesh)
        with contextlib.closing(self.dataset.evaluation_batches(split, size, rows)) as batches:
            while batch := self._next_of(batches, split):
                corrupt += int((batch.corrupt >= 0).sum())
                arrays = (batch.images, batch.labels, batch.counts)
                part = step.evaluate_on_batch(
                    state,
                    *parallel.from_rows(arrays, size, self._mesh),
                    preprocess=self._for_evaluation,
                    mesh=self._mesh,
                )
                parts.append(part)
        evaluation = functools.reduce(Evaluation.merge, parts)
        seen = int(evaluation.count.sum()) + parallel.total(corrupt)
        assert seen == len(self.dataset.splits[split]), "an image was lost or doubled"
        return evaluation

    def _next_of(self, batches: Iterator[Batch], split: Split) -> Batch | None:
        """The next batch of an evaluation, checked; None after the last one."""
        found: Batch | DataError | TrainingError | None
        try:
            found = next(batches, None)
            if found is not None:
                self._check(found, split)
        except (DataError, TrainingError) as error:
            found = error
        if missing := self._missing(found):
            raise missing
        assert not isinstance(found, Exception)
        return found

    def _check(self, batch: Batch, split: Split) -> None:
        """Refuses pictures that cannot be read, or names each of them once."""
        for index in sorted({int(index) for index in batch.corrupt if index >= 0}):
            if (split, index) not in self._named:
                self._named.add((split, index))
                reason = self.dataset.describe_corrupt(split, index)
                if self._config.data.corrupt == "refuse":
                    raise DataError(f"{reason}; --config.data.corrupt=skip does without it")
                logging.getLogger(__name__).warning("left out: %s", reason)

    def close(self) -> None:
        """See `Feed`."""
        self._next = ()  # which may lie in memory that is shared with a worker
        if self._batches is not None:
            self._batches.close()  # ends its threads and processes
