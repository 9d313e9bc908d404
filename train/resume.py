"""Where a run starts: at step 0, or where its working directory says it stopped."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from googlenet_jax import parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Dataset, Split, Stream
from googlenet_jax.errors import CheckpointError, ConfigError, DataError
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.storage.loading import start_from
from googlenet_jax.storage.workdir import check_recorded
from googlenet_jax.training import optimizer
from googlenet_jax.training.state import TrainState
from train import console


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a run is divided.

    Attributes:
      steps_per_epoch: whole batches of the training split.
      total_steps: of the run.
    """

    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: Config, num_examples: int) -> Self:
        """The plan of a run on so many training images.

        Raises:
          ConfigError: they do not fill one batch.
        """
        steps_per_epoch = num_examples // config.train.batch_size
        if not steps_per_epoch:
            raise ConfigError(
                f"train.batch_size={config.train.batch_size}: there are {num_examples} images"
            )
        return cls(steps_per_epoch, config.train.steps or config.train.epochs * steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs of the run, the last of which may end early."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_end(self, epoch: int) -> int:
        """The number of steps taken when epoch (from 0) is over."""
        return min((epoch + 1) * self.steps_per_epoch, self.total_steps)

    def schedule(self, config: Config) -> optax.Schedule:
        """The learning rate by step."""
        return optimizer.create_schedule(config.optimizer, self.steps_per_epoch, self.total_steps)


def start(
    config: Config, dataset: Dataset | Stream, fresh: TrainState, mesh: Mesh
) -> tuple[TrainState, Record]:
    """The state at step 0, with the weights of another run if the config names one.

    Raises:
      UserError: that run's best checkpoint cannot be used.
    """
    if config.train.init_from:
        names = dataset.info.class_names
        started, taken = start_from(fresh, config.train.init_from, names)
        fresh = parallel.replicate(started, mesh)
        console.say(f"starting from {taken}")
    return fresh, Record([], dataset.info.to_dict(), dataset.provenance, config=config.to_dict())


def restore(
    config: Config,
    saved: Config,
    workdir: WorkdirPath,
    checkpoints: Checkpoints,
    dataset: Dataset | Stream,
    like: TrainState,
) -> tuple[TrainState, Record]:
    """The newest state that verifies, and what stands beside it; says on the terminal which it is.

    Args:
      config: of the run, now.
      saved: of the run, before; they differ in resumable fields at the most.
      workdir: of the run.
      checkpoints: in it; there is at least one.
      dataset: of the run.
      like: a state of the right shapes.

    Raises:
      UserError: no checkpoint is whole, the data have changed, or the new length will not do.
    """
    state, record, problems = checkpoints.restore_newest(like)
    if "imported" in record.provenance:
        raise CheckpointError(
            f"--workdir={workdir}: holds imported weights, not a run; start one from them, in "
            f"another directory, with --config.train.init_from={workdir}"
        )
    check_recorded(workdir, saved, record.config)
    found, before = dataset.provenance["sha256"], record.provenance["sha256"]
    if found != before:
        raise DataError(f"{dataset.info.name}: sha256 is {found}; the run began with {before}")
    num_examples = Split.TRAIN.num_examples(dataset)
    check_extension(saved, config, num_examples, int(state.step))
    plan = Plan.of(config, num_examples)
    # An epoch that the old end cut short is not over in a longer run.
    whole = [
        entry for entry in record.history if entry["step"] == plan.epoch_end(entry["epoch"] - 1)
    ]
    checkpoints.delete_newer(int(state.step))  # damaged, and not before all is checked
    for problem in problems:
        console.say(f"warning: {problem}; going back to the one before")
    console.say(f"resuming {workdir} at step {state.step} of {plan.total_steps}")
    return state, dataclasses.replace(record, history=whole, config=config.to_dict())


def check_extension(saved: Config, config: Config, num_examples: int, steps_done: int) -> None:
    """Lets a run go on with another length if that changes nothing of what it has done.

    Raises:
      ConfigError: the new length is over already, or the schedule would have been another one.
    """
    old, new = Plan.of(saved, num_examples), Plan.of(config, num_examples)
    if new == old:
        return
    change = (
        f"train.epochs={config.train.epochs}, train.steps={config.train.steps} (were "
        f"{saved.train.epochs}, {saved.train.steps})"
    )
    if new.total_steps < steps_done:
        raise ConfigError(f"{change}: the run has already taken {steps_done} steps")
    steps = jnp.arange(steps_done)
    rates = [jax.vmap(plan.schedule(config))(steps) for plan in (old, new)]
    if not np.array_equal(*rates):
        raise ConfigError(
            f"{change}: optimizer.schedule={config.optimizer.schedule!r} would have had other "
            f"learning rates in the {steps_done} steps already taken; start a new --workdir, "
            "with train.init_from to keep the weights"
        )
