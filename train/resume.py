"""Where a run starts: at step 0, or at the newest checkpoint of its working directory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from googlenet_jax import parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Dataset, Split, Stream
from googlenet_jax.errors import CheckpointError, ConfigError, DataError
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.storage.loading import start_from
from googlenet_jax.storage.workdir import check_recorded
from googlenet_jax.training.plan import Plan
from googlenet_jax.training.state import TrainState
from train import console


def start(
    config: Config, dataset: Dataset | Stream, fresh: TrainState, mesh: Mesh
) -> tuple[TrainState, Record]:
    """The state at step 0, with another run's weights if `train.init_from` is set, and its record.

    Raises:
      UserError: The weights of `train.init_from` cannot be used.
    """
    if config.train.init_from:
        started, taken = start_from(fresh, config.train.init_from, dataset.info, config.model)
        fresh = parallel.replicate(started, mesh)
        console.say(f"starting from {taken}")
    elif config.optimizer.trunk and not config.optimizer.trunk_factor:
        console.say("warning: the frozen trunk has random weights: set train.init_from")
    return fresh, Record([], dataset.info.to_dict(), dataset.provenance, config=config.to_dict())


def restore(
    config: Config,
    saved: Config,
    workdir: WorkdirPath,
    checkpoints: Checkpoints,
    dataset: Dataset | Stream,
    like: TrainState,
) -> tuple[TrainState, Record]:
    """The newest checkpoint that verifies; prints a line that says which one.

    Args:
      config: The run's config now.
      saved: The config that the run was saved with; it differs in resumable settings only.
      workdir: Of the run.
      checkpoints: In the working directory; at least one.
      dataset: Of the run.
      like: A state with the right shapes.

    Returns:
      The state and its record.

    Raises:
      UserError: No checkpoint is whole, the data have changed, or the run cannot have its new
        length.
    """
    state, record, problems = checkpoints.restore_newest(like)
    if "imported" in record.provenance:
        raise CheckpointError(
            f"--workdir={workdir}: holds imported weights, not a run; start a run from them in "
            f"another directory, with --config.train.init_from={workdir}"
        )
    check_recorded(workdir, saved, record.config)
    found, before = dataset.provenance["sha256"], record.provenance["sha256"]
    if found != before:
        raise DataError(f"{dataset.info.name}: sha256 is {found}; the run began with {before}")
    num_examples = Split.TRAIN.num_examples(dataset)
    check_extension(saved, config, num_examples, int(state.step))
    plan = Plan.of(config, num_examples)
    # In an extended run, the last epoch may have been cut short: it is continued.
    whole = [
        entry for entry in record.history if entry["step"] == plan.epoch_end(entry["epoch"] - 1)
    ]
    if whole != record.history:
        cut = record.history[-1]
        images = cut["step"] % plan.steps_per_epoch * config.train.batch_size
        record = dataclasses.replace(record, epoch_seconds=images / cut["images_per_second"])
        checkpoints.forget_metrics(cut["step"])
    checkpoints.delete_newer(int(state.step))  # damaged ones, now that all checks have passed
    for problem in problems:
        console.say(f"warning: {problem}; using the one before it")
    for problem in checkpoints.damage.values():  # of older ones: the best one may be among them
        console.say(f"warning: {problem}; the run goes on without it, and will delete it")
    console.say(f"resuming {workdir} at step {state.step} of {plan.total_steps}")
    return state, dataclasses.replace(record, history=whole, config=config.to_dict())


def check_extension(saved: Config, config: Config, num_examples: int, steps_done: int) -> None:
    """Checks that a run may get another length: its past steps must stay what they were.

    Raises:
      ConfigError: The run has already taken more steps, or the new length would change the
        learning rates of steps already taken.
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
    rates = [jax.vmap(plan.schedule)(steps) for plan in (old, new)]
    if not np.array_equal(*rates):
        raise ConfigError(
            f"{change}: optimizer.schedule={config.optimizer.schedule!r} would have had other "
            f"learning rates in the {steps_done} steps already taken; start a new --workdir, "
            "with train.init_from to keep the weights"
        )
