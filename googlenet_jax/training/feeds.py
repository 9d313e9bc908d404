"""Feeds: how the images of a data set reach the compiled programs.

The training loop uses a `Feed` and need not know which: `InMemory` keeps the whole data set on
every device, where one program takes many steps; `Streamed` decodes batch after batch on the host.
"""

import abc
import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from googlenet_jax import data, parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Dataset, Split, Stream, preprocess
from googlenet_jax.data.dataset import balanced_weights, training_labels
from googlenet_jax.data.stream import Batch
from googlenet_jax.errors import ConfigError, DataError, TrainingError
from googlenet_jax.training import step
from googlenet_jax.training.metrics import Evaluation
from googlenet_jax.training.plan import Plan
from googlenet_jax.training.state import Keys, TrainState

Tell: TypeAlias = Callable[[jax.stages.Lowered], None]


def create(dataset: Dataset | Stream, config: Config, mesh: Mesh | None = None) -> "Feed":
    """The feed of a data set.

    Args:
      dataset: On the host.
      config: Of the run.
      mesh: The devices; None for one device.
    """
    if isinstance(dataset, Stream):
        return Streamed(dataset, config, mesh)
    return InMemory(dataset, config, mesh)


def compile_program(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """Compiles a program; returns it, and whether it came from JAX's compilation cache."""
    events: list[str] = []

    def note(event: str, **_: Any) -> None:
        events.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        program = parallel.compiled(lowered, parallel.platform())
        return program, "/jax/compilation_cache/cache_hits" in events
    finally:
        jax.monitoring.unregister_event_listener(note)


def _class_weights(setting: str, dataset: Dataset | Stream) -> Float[np.ndarray, " classes"] | None:
    """The weight of each class in the loss, as `train.class_weights` says.

    Raises:
      ConfigError: There are not as many numbers as classes.
      DataError: The labels are not known in advance.
    """
    if not setting:
        return None
    num_classes = dataset.info.num_classes
    if setting == "balanced":
        labels = training_labels(dataset, "train.class_weights='balanced'")
        return balanced_weights(labels, num_classes)
    weights = np.array([float(number) for number in setting.split(",")])
    if len(weights) != num_classes:
        raise ConfigError(
            f"train.class_weights={setting!r}: has {len(weights)} numbers; {dataset.info.name} has "
            f"{num_classes} classes"
        )
    return weights


class Feed(abc.ABC):
    """A data set, and the compiled programs that train and evaluate on it.

    Attributes:
      dataset: The images that it feeds from.
      program: The training program; None before `compile`.
    """

    dataset: Dataset | Stream
    program: jax.stages.Compiled | None = None

    def __init__(self, dataset: Dataset | Stream, config: Config, mesh: Mesh | None):
        self._config, self._mesh = config, mesh
        self._epoch = -1
        self._step_key = parallel.replicate(Keys.of(config.seed).step, mesh)
        self._for_evaluation = preprocess.for_evaluation(dataset.info)
        self._for_training = preprocess.for_training(config.data, dataset.info)
        self._class_weights = self._example_weights = None
        if Split.TRAIN in dataset.splits:  # otherwise it is used for evaluation only
            self._class_weights = _class_weights(config.train.class_weights, dataset)
            if config.data.sampling == "balanced":
                labels = training_labels(dataset, "data.sampling='balanced'")
                self._example_weights = balanced_weights(labels, dataset.info.num_classes)[labels]

    @functools.cached_property
    def plan(self) -> Plan:
        """The steps and the learning rates of the run.

        Raises:
          ConfigError: The training images do not fill one batch.
        """
        return Plan.of(self._config, Split.TRAIN.num_examples(self.dataset))

    @abc.abstractmethod
    def compile(self, state: TrainState, tell: Tell = lambda lowered: None) -> bool:
        """Compiles the training program; call it once, before `train`.

        Args:
          state: Any of the run.
          tell: Called with the program before it is compiled, which may take minutes.

        Returns:
          Whether the program came from JAX's compilation cache.

        Raises:
          DataError: The first images cannot be read.
        """

    @abc.abstractmethod
    def train(self, state: TrainState, num_steps: int) -> TrainState:
        """Takes up to `num_steps` steps, the first one being `state.step`.

        It stops early after a step whose loss or gradient is not finite, and before a step
        whose images cannot be read.

        Args:
          state: Donated, unless an error is raised.
          num_steps: At most to the end of the epoch.

        Raises:
          DataError: The images of the first of these steps cannot be read.
          TrainingError: A process that decodes images has died.
        """

    @abc.abstractmethod
    def evaluate(self, state: TrainState, split: Split, tta: str = "none") -> Evaluation:
        """Evaluates every example of a split once, in inference mode.

        Args:
          state: Its moving average is used, if it has one.
          split: Of the data set.
          tta: Test-time augmentation, see `augment.views`.

        Raises:
          DataError: An image cannot be decoded.
          TrainingError: A process that decodes images has died.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the threads and processes that decode images."""

    def _prepare_epoch(self, state: TrainState) -> bool:
        """Gets the learning rates of the next step's epoch ready; False if they were already."""
        steps_per_epoch = self.plan.steps_per_epoch
        epoch = int(state.step) // steps_per_epoch
        if epoch == self._epoch:
            return False
        steps = epoch * steps_per_epoch + np.arange(steps_per_epoch)
        rates = np.broadcast_to(self.plan.schedule(steps), steps.shape)
        hyperparameters = step.Hyperparameters.of(self._config, rates, self._class_weights)
        self._epoch, self._hyperparameters = epoch, parallel.replicate(hyperparameters, self._mesh)
        return True


class InMemory(Feed):
    """Trains and evaluates on a data set of which every device holds a whole copy."""

    dataset: Dataset

    def __init__(self, dataset: Dataset, config: Config, mesh: Mesh | None):
        super().__init__(dataset, config, mesh)
        self.dataset = dataset.on_devices(mesh)
        self._order_key = parallel.replicate(Keys.of(config.seed).order, mesh)

    def _arguments(self, state: TrainState, num_steps: int) -> tuple[Any, ...]:
        """The arguments of the training program."""
        train = self.dataset.splits[Split.TRAIN]
        if self._prepare_epoch(state):
            weights = self._example_weights
            self._order = data.epoch_order(self._order_key, self._epoch, len(train), weights)
        rest = np.int32(num_steps), self._step_key, self._hyperparameters
        return state, train, self._order, *rest

    def compile(self, state: TrainState, tell: Tell = lambda lowered: None) -> bool:
        """See `Feed`."""
        lowered = step.train_steps.lower(
            *self._arguments(state, 1),
            batch_size=self._config.train.batch_size,
            preprocess=self._for_training,
            mesh=self._mesh,
            parts=self._config.train.accumulate,
        )
        tell(lowered)
        self.program, was_kept = compile_program(lowered)
        return was_kept

    def train(self, state: TrainState, num_steps: int) -> TrainState:
        """See `Feed`."""
        assert self.program is not None
        return self.program(*self._arguments(state, num_steps))

    def evaluate(self, state: TrainState, split: Split, tta: str = "none") -> Evaluation:
        """See `Feed`."""
        arrays = self.dataset.splits[split]
        evaluation = step.evaluate(
            state.for_inference(),
            arrays,
            batch_size=self._config.eval.batch_size,
            preprocess=self._for_evaluation,
            mesh=self._mesh,
            tta=tta,
        )
        assert int(evaluation.count.sum()) == len(arrays), "an image was lost or doubled"
        return evaluation

    def close(self) -> None:
        """See `Feed`."""


class Streamed(Feed):
    """Trains and evaluates on pictures that are decoded while the devices work.

    Which pictures make a batch, and how they are cropped, follows from the step number, so no
    iterator needs to be saved.
    """

    dataset: Stream

    def __init__(self, dataset: Stream, config: Config, mesh: Mesh | None):
        super().__init__(dataset, config, mesh)
        self.dataset = dataset
        self._named: set[tuple[Split, int]] = set()  # pictures that cannot be read
        self._batches: Generator[Batch] | None = None
        self._next: tuple[Array, ...] | DataError | TrainingError = ()

    def compile(self, state: TrainState, tell: Tell = lambda lowered: None) -> bool:
        """See `Feed`."""
        batch_size = self._config.train.batch_size
        rows = parallel.rows(batch_size, self._mesh)
        self._batches = self.dataset.training_batches(
            batch_size, rows, int(state.step), self._example_weights
        )
        self._fetch()
        if missing := self._missing(self._next):
            raise missing
        assert isinstance(self._next, tuple)
        self._prepare_epoch(state)
        lowered = step.train_on_batch.lower(
            state,
            *self._next,
            self._step_key,
            self._hyperparameters,
            preprocess=self._for_training,
            mesh=self._mesh,
            parts=self._config.train.accumulate,
        )
        tell(lowered)
        self.program, was_kept = compile_program(lowered)
        return was_kept

    def train(self, state: TrainState, num_steps: int) -> TrainState:
        """See `Feed`."""
        self._prepare_epoch(state)
        for taken in range(num_steps):
            if missing := self._missing(self._next):
                if taken:
                    break  # return the steps taken; the next call raises
                raise missing
            assert isinstance(self._next, tuple)
            assert self.program is not None
            state = self.program(state, *self._next, self._step_key, self._hyperparameters)
            self._fetch()  # on a GPU or TPU, while the step runs
        return state

    def _missing(self, found: object) -> DataError | TrainingError | None:
        """The error in place of the next batch, or None.

        If one process has an error, all return one: otherwise they would wait for it forever.
        """
        own = found if isinstance(found, DataError | TrainingError) else None
        if jax.process_count() == 1 or not parallel.total(int(own is not None)):
            return own
        return own or DataError("another process of the run cannot read its images")

    def _fetch(self) -> None:
        """Sets `_next` to the next training batch, or to the reason why there is none."""
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

    def evaluate(self, state: TrainState, split: Split, tta: str = "none") -> Evaluation:
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
                    state.for_inference(),
                    *parallel.from_rows(arrays, size, self._mesh),
                    preprocess=self._for_evaluation,
                    mesh=self._mesh,
                    tta=tta,
                )
                parts.append(part)
        evaluation = functools.reduce(Evaluation.merge, parts)
        seen = int(evaluation.count.sum()) + parallel.total(corrupt)
        assert seen == len(self.dataset.splits[split]), "an image was lost or doubled"
        return evaluation

    def _next_of(self, batches: Iterator[Batch], split: Split) -> Batch | None:
        """The next batch of an evaluation, or None after the last one."""
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
        """Raises for pictures that cannot be read, or with data.corrupt=skip logs each once."""
        for index in sorted({int(index) for index in batch.corrupt if index >= 0}):
            if (split, index) not in self._named:
                self._named.add((split, index))
                reason = self.dataset.describe_corrupt(split, index)
                if self._config.data.corrupt == "refuse":
                    raise DataError(f"{reason}; --config.data.corrupt=skip does without it")
                logging.getLogger(__name__).warning("left out: %s", reason)

    def close(self) -> None:
        """See `Feed`."""
        self._next = ()  # it may lie in memory shared with a worker
        if self._batches is not None:
            self._batches.close()
