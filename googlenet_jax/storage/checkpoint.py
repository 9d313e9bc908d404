"""Checkpoints: Orbax's, with a record beside the state and a proof that both are whole.

See `proof` for what is verified, and `mirror` for object stores.
"""

import contextlib
import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from googlenet_jax import parallel
from googlenet_jax.errors import CheckpointError, TrainingError, UserError, no_logging
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage import mirror, proof
from googlenet_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint holds beside the state, as JSON.

    Attributes:
      history: one entry for each finished epoch: a line of metrics.jsonl.
      dataset: a `DatasetInfo` as a dict.
      provenance: of the data, see `Dataset`.
      epoch_seconds: what the steps of the unfinished epoch have taken so far.
      config: of the run, as a dict; empty in checkpoints of older versions.
      warnings: of the epochs so far, by kind; see `report.health`.
    """

    history: list[dict[str, Any]]
    dataset: dict[str, Any]
    provenance: dict[str, Any]
    epoch_seconds: float = 0.0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: dict[str, str] = dataclasses.field(default_factory=dict)


class DamagedError(CheckpointError):
    """A checkpoint that cannot be read or is not as it was written: of no use to anybody."""


class _Best:
    """The preservation policy that keeps `Checkpoints.best`.

    Orbax's own BestN reads a file of metrics beside the state, and with one damaged bit in it
    the directory cannot be opened any more.
    """

    def __init__(self, checkpoints: "Checkpoints"):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [info.step == self._checkpoints.best for info in checkpoints]


def rank(metrics: dict[str, float]) -> tuple[float, float]:
    """The order of checkpoints: by accuracy, then by loss; of equals the later one is best."""
    return metrics["accuracy"], -metrics["loss"]


class Checkpoints:
    """The checkpoints of one run: the latest two, and the best one by `rank`.

    Use it as a context manager: leaving it waits for the last save.

    Args:
      directory: one folder a step.
      writable: False for programs that only read; they clean up nothing.

    Raises:
      CheckpointError: something else than a checkpoint has the name of one, or none can be listed.
    """

    def __init__(self, directory: WorkdirPath, *, writable: bool = True):
        self._directory = directory
        with contextlib.ExitStack() as stack:
            if isinstance(directory, Path):
                self._local = stack.enter_context(_plainly_named(directory.absolute()))
            else:
                self._local = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                mirror.download(directory, self._local, proof.SEAL)
                self._background = stack.enter_context(ThreadPoolExecutor(1))
            self._orbax = self._open(writable)
            self._exit = stack.pop_all()
        self._sealing: Callable[[], None] | None = None
        self._has_failed = False
        self._metrics: dict[int, dict[str, float]] = {}
        self._damage: list[CheckpointError] = []
        for step in self.steps:
            try:
                if metrics := self._read_metadata(step)["metrics"]:
                    self._metrics[step] = metrics
            except CheckpointError as error:
                self._damage.append(error)

    def _open(self, writable: bool) -> Any:
        policies = ocp.training.preservation_policies
        try:
            _check_entries(self._local, self._directory)
            with no_logging():
                return ocp.training.Checkpointer(
                    self._local,
                    save_decision_policy=(
                        ocp.training.save_decision_policies.PreemptionCheckpointingPolicy()
                    ),
                    preservation_policy=policies.AnyPreservationPolicy(
                        [policies.LatestN(2), _Best(self)]
                    ),
                    cleanup_tmp_directories=writable,
                )
        except CheckpointError:
            raise
        except Exception as error:  # Orbax raises almost anything
            raise CheckpointError(
                f"{self._directory}: cannot be read: {_first_line(error)}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._exit:
            self._settle()
            if not self._has_failed:  # else Orbax would wait for what never comes
                self._orbax.close()

    @property
    def _in_store(self) -> bool:
        return not isinstance(self._directory, Path)

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint, or of the only one; None where nobody can say."""
        ranked = sorted(self._metrics, key=lambda step: (*rank(self._metrics[step]), step))
        if not ranked and len(self.steps) == 1:
            return self.steps[0]
        return ranked[-1] if ranked else None

    def resolve(self, name: str) -> int:
        """The step that "best", "latest" or a number names.

        Raises:
          CheckpointError: there is no such checkpoint (names those that are there), or one is
            damaged, so that nobody can say which is best.
        """
        if name == "best" and self._damage:
            raise self._damage[0]
        steps = {str(step): step for step in self.steps}
        latest = max(self.steps, default=None)
        step = {"best": self.best, "latest": latest, **steps}.get(name)
        if step is None:
            shown = name if len(name) < 50 else f"{name[:50]}..."
            raise CheckpointError(
                f"{self._directory}: no checkpoint {shown!r}; there are: "
                f"{', '.join(map(str, self.steps)) or 'none'} (or best, latest)"
            )
        return step

    def preempted(self, steps: range) -> bool:
        """Whether a process of the run was told to end and the processes have agreed to save now.

        To be asked by all processes for the same steps, each step once: they agree on a step that
        none of them has reached yet. Always False outside `jax.distributed`.
        """
        if not jax.distributed.is_initialized():
            return False
        return sum(self._orbax.should_save(step) for step in steps) > 0

    def save(
        self, state: TrainState, record: Record, metrics: dict[str, float] | None = None
    ) -> None:
        """Starts to save in the background; waits for the save before, if need be.

        Args:
          state: is copied before this returns and may be donated afterwards.
          record: to stand beside it.
          metrics: accuracy and loss that choose the best; None where it was not evaluated.
        """
        self._settle()
        step = int(state.step)
        metadata = {
            "step": step,
            "record": dataclasses.asdict(record),
            "metrics": metrics,
            "leaves": proof.leaf_digests(state),
        }
        if metrics:
            self._metrics[step] = metrics
        if self._in_store:
            # The processes would share the writing of arrays on devices, each in its own folder;
            # those of NumPy the first process writes alone.
            state = jax.device_get(state)
        with self._told(step):
            self._orbax.save_checkpointables_async(
                step,
                {"state": state},
                force=True,
                overwrite=step in self.steps,
                custom_metadata=proof.closed(metadata),
            )
        self._sealing = functools.partial(self._seal, step)
        if self._in_store:  # at once: this machine may be gone before the next save
            self._sealing = self._background.submit(self._sealing).result

    def read_record(self, step: int) -> Record:
        """What stands beside the state of a checkpoint.

        Raises:
          CheckpointError: it is damaged.
        """
        return Record(**self._read_metadata(step)["record"])

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Record]:
        """The state and the record of a checkpoint, verified.

        Args:
          step: of the checkpoint.
          like: a state, or the shapes of one, as the run's config makes it. The arrays are put
          where its arrays are, or on this process's first device.

        Raises:
          CheckpointError: it is damaged, or its state has another shape.
        """
        metadata = self._read_metadata(step)
        if names := proof.misfits(metadata["leaves"], like):
            raise CheckpointError(
                f"checkpoint {step} in {self._directory}: its arrays are not those of this "
                f"config, {len(names)} differ, first {names[0]}"
            )
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding or here
            ),
            like,
        )
        try:
            with no_logging():
                state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
        except Exception as error:  # Orbax and TensorStore raise almost anything
            raise self._damaged(step, f"cannot be read: {_first_line(error)}") from error
        if changed := proof.changed(metadata["leaves"], state):
            raise self._damaged(step, f"{len(changed)} arrays have changed, first {changed[0]}")
        if int(state.step) != step:  # older versions recorded no step
            raise self._renamed(step, int(state.step))
        return state, Record(**metadata["record"])

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Record, list[CheckpointError]]:
        """The newest checkpoint that verifies, and how newer ones are damaged.

        Raises:
          CheckpointError: none verifies, or one of them is whole but not what its name says: the
            run would delete it sooner or later, and somebody may want it.
        """
        for error in self._damage:
            if not isinstance(error, DamagedError):
                raise error
        problems: list[CheckpointError] = []
        for step in reversed(self.steps):
            try:
                state, record = self.restore(step, like)
            except DamagedError as error:
                problems.append(error)
                continue
            return state, record, problems
        newest = f"; the newest: {problems[0]}" if problems else ""
        raise CheckpointError(f"none of {len(problems)} checkpoints is whole{newest}")

    def delete_newer(self, step: int) -> None:
        """Deletes the checkpoints after `step`, from which the run will write them anew."""
        for newer in [s for s in self.steps if s > step]:
            self._orbax.delete(newer)
            self._metrics.pop(newer, None)

    def _settle(self) -> None:
        """Waits for the save under way to be committed and sealed."""
        sealing, self._sealing = self._sealing, None
        if sealing:
            sealing()

    def _seal(self, step: int) -> None:
        with self._told(step):
            self._orbax.wait()
            if step in self.steps and parallel.is_first_process():
                proof.seal(self._local / str(step))
                if not isinstance(self._directory, Path):
                    mirror.publish(self._local, self._directory, str(step), proof.SEAL)

    @contextlib.contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Makes one line of what a save that fails raises, which is almost anything."""
        try:
            yield
        except Exception as error:
            self._has_failed = True
            is_elsewhere = (
                isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1
            )  # another process is gone, which was to take part in the save
            if is_elsewhere or isinstance(error, TrainingError):
                raise
            raise TrainingError(
                f"checkpoint {step} in {self._directory} cannot be written: {_first_line(error)}"
            ) from error

    def _read_metadata(self, step: int) -> dict[str, Any]:
        try:
            proof.check_seal(self._local / str(step))  # first: Orbax is loud about what it finds
        except ValueError as error:
            raise self._damaged(step, str(error)) from error
        try:
            with no_logging():
                metadata = proof.opened(self._orbax.checkpointables_metadata(step).custom_metadata)
            Record(**metadata["record"])
            if not all(isinstance(text, str) for text in metadata["leaves"].values()):
                raise ValueError("its digests are no texts")
            if metadata["metrics"]:
                rank(metadata["metrics"])
        except Exception as error:  # as in `restore`
            raise self._damaged(step, f"cannot be read: {_first_line(error)}") from error
        if metadata.get("step", step) != step:
            raise self._renamed(step, metadata["step"])
        return metadata

    def _damaged(self, step: int, why: str) -> DamagedError:
        return DamagedError(f"checkpoint {step} in {self._directory} is damaged: {why}")

    def _renamed(self, step: int, true_step: int) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {step} in {self._directory} is the one of step {true_step}: give its "
            "folder that name back, or move it to another place"
        )


def _check_entries(folder: Path, shown: WorkdirPath) -> None:
    """Makes sure that what Orbax takes for a checkpoint is a folder of plain files.

    It lists every name that is a number to a regular expression, digits of other scripts and a line
    break at the end included; and to open a pipe would take for ever.

    Args:
      folder: of the checkpoints.
      shown: its name, for messages.

    Raises:
      CheckpointError: it is not.
    """
    for path in folder.iterdir():
        if not re.search(r"^(0|[1-9]\d*)$", path.name):
            continue
        if not re.fullmatch("[0-9]{1,18}", path.name) or path.is_symlink() or not path.is_dir():
            raise CheckpointError(f"{shown / path.name}: is no checkpoint; move it away")
        for each in path.rglob("*"):
            if not (each.is_file() or each.is_dir()):
                raise CheckpointError(
                    f"{shown / each.relative_to(folder)}: is not a regular file; move it away"
                )


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """A path of the folder that Orbax and TensorStore take for a path.

    They take one with brackets in it for a pattern, and a backslash for something else.
    """
    if re.fullmatch(r"[\w/.,:;=+~@#%&()' -]*", str(folder)):
        yield folder
        return
    if jax.process_count() > 1:  # they would tell each other of paths that only one of them has
        raise UserError(
            f"{folder}: many processes cannot save in a path of such characters; choose another"
        )
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "checkpoints"
        link.symlink_to(folder)
        yield link


def _first_line(error: Exception) -> str:
    # Orbax's may hold the text of a whole state.
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
