"""Saves and restores checkpoints with Orbax, and decides which are kept.

`proof` verifies them, and `mirror` copies them to and from object stores.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from googlenet_jax import fileio, parallel
from googlenet_jax.errors import CheckpointError, TrainingError, UserError, no_logging
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage import mirror, proof
from googlenet_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint holds beside the state, as JSON.

    Attributes:
      history: One entry for each finished epoch: its line of metrics.jsonl.
      dataset: A `DatasetInfo` as a dict.
      provenance: Where the data came from, see `Dataset`.
      epoch_seconds: Time that the steps of the unfinished epoch have taken so far.
      config: The run's config as a dict; empty in checkpoints of older versions.
      warnings: Warnings of the epochs so far, by kind; see `training.health`.
    """

    history: list[dict[str, Any]]
    dataset: dict[str, Any]
    provenance: dict[str, Any]
    epoch_seconds: float = 0.0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: dict[str, str] = dataclasses.field(default_factory=dict)


class _Best:
    """The preservation policy that keeps `Checkpoints.best`.

    Orbax's own BestN reads a file of metrics beside the state. One damaged bit in that file, and
    the directory can no longer be opened.
    """

    def __init__(self, checkpoints: "Checkpoints"):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [info.step == self._checkpoints.best for info in checkpoints]


def rank(metrics: dict[str, float]) -> tuple[float, float]:
    """The sort key of checkpoints: accuracy first, then loss; the best has the highest key."""
    return metrics["accuracy"], -metrics["loss"]


class Checkpoints:
    """The checkpoints of one run. The latest two are kept, and the best one by `rank`.

    Use it as a context manager: leaving it waits for the last save.

    Args:
      directory: Holds one folder per checkpoint, named after the step.
      writable: False for programs that only read; they clean up nothing.

    Attributes:
      damage: What was wrong, at the opening, with a step's record or files.

    Raises:
      CheckpointError: The directory cannot be read, or something other than a checkpoint has the
        name of one.
    """

    def __init__(self, directory: WorkdirPath, *, writable: bool = True):
        self._directory = directory
        self._store = None if isinstance(directory, Path) else directory
        with contextlib.ExitStack() as stack:
            if isinstance(directory, Path):
                self._local = stack.enter_context(_plainly_named(directory.absolute()))
            else:
                self._local = stack.enter_context(mirror.copied(directory, proof.SEAL))
                self._background = stack.enter_context(ThreadPoolExecutor(1))
            self._orbax = self._open(writable)
            self._exit = stack.pop_all()
        self._finish_save: Callable[[], None] | None = None
        self._has_failed = False
        self._metrics: dict[int, dict[str, float]] = {}
        self.damage: dict[int, CheckpointError] = {}
        for step in self.steps:
            try:
                if metrics := self._read_metadata(step)["metrics"]:
                    self._metrics[step] = metrics
            except CheckpointError as error:
                self.damage[step] = error

    def _open(self, writable: bool) -> Any:
        keep = ocp.training.preservation_policies
        save = ocp.training.save_decision_policies
        try:
            proof.check_entries(self._local, self._directory)
            with no_logging():
                return ocp.training.Checkpointer(
                    self._local,
                    save_decision_policy=save.PreemptionCheckpointingPolicy(),
                    preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), _Best(self)]),
                    cleanup_tmp_directories=writable,
                )
        except CheckpointError:
            raise
        except Exception as error:  # Orbax raises almost anything
            raise CheckpointError(
                f"{self._directory}: the checkpoints cannot be read: {proof.first_line(error)}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._exit:
            self._wait()
            if not self._has_failed:  # otherwise Orbax would wait forever
                self._orbax.close()

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint, the later one of equals; None if none was evaluated.

        A single checkpoint is the best one even if it was not evaluated.
        """
        if not self._metrics and len(self.steps) == 1:
            return self.steps[0]
        return max(self._metrics, key=lambda step: (*rank(self._metrics[step]), step), default=None)

    def resolve(self, name: str) -> int:
        """The step that "best", "latest" or a number names.

        Raises:
          CheckpointError: There is no such checkpoint (the message lists the existing ones), or
            "best" was asked for and a damaged checkpoint might be the best.
        """
        if name == "best" and self.damage:
            raise min(self.damage.items())[1]
        steps = {str(step): step for step in self.steps}
        latest = max(self.steps, default=None)
        step = {"best": self.best, "latest": latest, **steps}.get(name)
        if step is None:
            shown = name if len(name) < 50 else f"{name[:50]}..."
            raise CheckpointError(
                f"{self._directory}: no checkpoint {shown!r}; there are: "
                f"{', '.join(steps) or 'none'} (or best, latest)"
            )
        return step

    def preempted(self, steps: range) -> bool:
        """Whether one of `steps`, which were just taken, is the one to save and end at.

        After a SIGTERM to one of them, the processes agree on a coming step. All must call this
        for the same steps, once for each step. Always False outside `jax.distributed`.
        """
        if not jax.distributed.is_initialized():
            return False
        return sum(self._orbax.should_save(step) for step in steps) > 0

    def save(
        self, state: TrainState, record: Record, metrics: dict[str, float] | None = None
    ) -> None:
        """Starts a save in the background, after the one before is complete.

        Args:
          state: Is copied before this returns, so that it may be donated afterwards.
          record: Is stored beside the state.
          metrics: Accuracy and loss, by which the best is chosen. None if not evaluated; then a
            step that has a checkpoint already keeps that one, with its metrics.

        Raises:
          TrainingError: This save or the one before cannot be written.
        """
        self._wait()
        step = int(state.step)
        if metrics is None and step in self.steps:
            return
        metadata = {
            "step": step,
            "record": dataclasses.asdict(record),
            "metrics": metrics,
            "leaves": proof.leaf_digests(state),
        }
        if metrics:
            self._metrics[step] = metrics
        if self._store is not None:
            # Each process has its own folder here. Orbax would split the writing of device arrays
            # among the processes; process 0 writes NumPy arrays alone.
            state = jax.device_get(state)
        with self._failure_told(step):
            self._orbax.save_checkpointables_async(
                step,
                {"state": state},
                force=True,
                overwrite=step in self.steps,
                custom_metadata=proof.with_digest(metadata),
            )
        self._finish_save = functools.partial(self._seal, step)
        if self._store is not None:  # at once: this machine may be gone before the next save
            self._finish_save = self._background.submit(self._finish_save).result

    def read_record(self, step: int) -> Record:
        """The record of a checkpoint.

        Raises:
          CheckpointError: The checkpoint is damaged.
        """
        return Record(**self._read_metadata(step)["record"])

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Record]:
        """The state and the record of a checkpoint, verified.

        Args:
          step: Which checkpoint.
          like: A state with the expected shapes, or `jax.ShapeDtypeStruct`s. Each array goes to
            the devices of its counterpart, or to this process's first device if that has none.

        Raises:
          CheckpointError: The checkpoint is damaged, or its arrays have other shapes.
        """
        metadata = self._read_metadata(step)
        if names := proof.misfits(metadata["leaves"], like):
            raise CheckpointError(
                f"{self._name(step)}: its arrays are not those of this config: {len(names)} "
                f"differ, first {names[0]}; use the config that the run was started with"
            )
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding or here
            ),
            like,
        )
        with proof.reading(self._name(step)):
            state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
        proof.check_leaves(self._name(step), metadata["leaves"], state)
        self._check_step(step, int(state.step))  # older versions have none in the metadata
        return state, Record(**metadata["record"])

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Record, list[CheckpointError]]:
        """The newest checkpoint that verifies, and what is wrong with newer ones.

        Raises:
          CheckpointError: All are damaged, or one cannot be read now, has another step's name or
            another network's arrays. The run would delete that one sooner or later, although it
            may still be wanted.
        """
        for error in self.damage.values():
            if not isinstance(error, proof.DamagedError):
                raise error
        problems: list[CheckpointError] = []
        for step in reversed(self.steps):
            try:
                state, record = self.restore(step, like)
            except proof.DamagedError as error:
                problems.append(error)
                continue
            return state, record, problems
        newest = f"; the newest: {problems[0]}" if problems else ""
        raise CheckpointError(
            f"{self._directory}: none of {len(problems)} checkpoints is whole; put back a copy, or "
            f"start again in another directory{newest}"
        )

    def forget_metrics(self, step: int) -> None:
        """Takes a checkpoint out of the choice of the best; its epoch is to be evaluated again."""
        self._metrics.pop(step, None)

    def delete_newer(self, step: int) -> None:
        """Deletes the checkpoints after `step`; the run writes them again."""
        for newer in [s for s in self.steps if s > step]:
            self._orbax.delete(newer)
            self._metrics.pop(newer, None)
            self.damage.pop(newer, None)

    def _wait(self) -> None:
        """Waits until the current save, if any, is committed and sealed."""
        finish, self._finish_save = self._finish_save, None
        if finish:
            finish()

    def _seal(self, step: int) -> None:
        with self._failure_told(step):
            self._orbax.wait()
            if step in self.steps and parallel.is_first_process():
                proof.seal(self._local / str(step))
                if self._store is not None:
                    mirror.publish(self._local, self._store, str(step), proof.SEAL)

    @contextlib.contextmanager
    def _failure_told(self, step: int) -> Iterator[None]:
        """Turns whatever a failed save raises into one line."""
        try:
            yield
        except Exception as error:  # Orbax raises almost anything
            self._has_failed = True
            # Another process has died that was to take part in the save.
            is_elsewhere = isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1
            if is_elsewhere or isinstance(error, TrainingError):
                raise
            raise TrainingError(
                f"{self._name(step)} cannot be written: {proof.first_line(error)}"
            ) from error

    def _read_metadata(self, step: int) -> dict[str, Any]:
        with proof.reading(self._name(step)):
            proof.check_seal(self._local / str(step))  # first: Orbax logs what it finds
            stored = self._orbax.checkpointables_metadata(step).custom_metadata
            metadata = proof.check_metadata(stored)
            Record(**metadata["record"])
            if metadata["metrics"]:
                rank(metadata["metrics"])
        self._check_step(step, metadata.get("step", step))
        return metadata

    def _check_step(self, step: int, true_step: int) -> None:
        if true_step != step:
            raise CheckpointError(
                f"{self._name(step)} is the one of step {true_step}: rename its folder to "
                f"{true_step}, or move it elsewhere"
            )

    def _name(self, step: int) -> str:
        return f"checkpoint {step} in {self._directory}"


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """A path of the folder that Orbax and TensorStore understand, if need be through a link.

    They read brackets as a pattern, and a backslash as an escape.
    """
    if fileio.is_plain(folder):
        yield folder
        return
    if jax.process_count() > 1:  # the link would be on one machine only
        raise UserError(
            f"{folder}: a run of many processes cannot save in a path with such characters; choose "
            "one of letters, digits and . , : ; = + ~ @ # % & ( ) ' - _"
        )
    with fileio.temporary_folder() as place:
        link = place / "checkpoints"
        link.symlink_to(folder)
        yield link
