"""Runs one epoch in calls of half a second; after each, checks the loss and for signals."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator

from googlenet_jax import parallel
from googlenet_jax.config import Config
from googlenet_jax.errors import DataError, DivergedError, TrainingError
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.training.feeds import Feed
from googlenet_jax.training.plan import Plan
from googlenet_jax.training.state import TrainState
from train import console, messages
from train.progress import Progress
from train.stop import StopRequest

# A call of the compiled steps takes about this long: long enough to hide the latency of a call,
# short enough to serve signals and the progress bar. It changes no bit of the result.
CALL_SECONDS = 0.5
LONG_SECONDS = 8 * 3600.0
"""A run that will take longer says so, once it has a pace."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last.

    Attributes:
      config: Of the run.
      plan: Its steps, epochs and learning rates.
      feed: Its images and compiled programs.
      checkpoints: In the working directory.
      stop: Knows whether a signal has asked the run to end.
      first_step: The step at which this process began.
    """

    config: Config
    plan: Plan
    feed: Feed
    checkpoints: Checkpoints
    stop: StopRequest
    first_step: int


def train_epoch(
    run: Run, train_state: TrainState, record: Record, epoch: int
) -> tuple[TrainState, float]:
    """Takes the remaining steps of an epoch.

    Args:
      run: The epoch's run.
      train_state: At any step of the epoch.
      record: The record of the epochs before.
      epoch: Counted from 0.

    Returns:
      The state after the epoch, and the seconds that all of its steps took.

    Raises:
      TrainingError: The loss or the gradient is not finite (nothing is saved), or a process that
        decodes images has died (the state is saved).
      DataError: An image cannot be read; the state is saved.
      SystemExit: A signal came; the state is saved.
    """
    every, steps_per_call = run.config.checkpoint.every_steps, run.config.train.steps_per_call
    plan = run.plan
    start, end = epoch * plan.steps_per_epoch, plan.epoch_end(epoch)
    steps_done, call_steps = int(train_state.step), steps_per_call or 1
    epoch_seconds, is_first = record.epoch_seconds, steps_done == run.first_step

    def save() -> None:
        unfinished = dataclasses.replace(record, epoch_seconds=epoch_seconds)
        run.checkpoints.save(train_state, unfinished)

    calls = 0

    with Progress(f"epoch {epoch + 1}/{plan.epochs}", steps_done - start, end - start) as bar:
        while steps_done < end:
            run.stop.check(save, steps_done)
            until = min(end, steps_done + call_steps)
            if every:
                until = min(until, (steps_done // every + 1) * every)
            called = time.monotonic()
            with saved_if_data_fail(save):
                train_state = run.feed.train(train_state, until - steps_done)
            seen = train_state.metrics.compute()  # waits for the devices
            seconds = time.monotonic() - called
            check_finite(run, train_state)

            until = int(train_state.step)
            num_steps = until - steps_done
            if run.checkpoints.preempted(range(steps_done + 1, until + 1)):
                run.stop.signal = signal.SIGTERM
            steps_done, epoch_seconds = until, epoch_seconds + seconds
            if not steps_per_call:
                call_steps = max(1, round(min(CALL_SECONDS / seconds, 2) * num_steps))
                call_steps = parallel.agreed(call_steps)  # all processes take the same steps
            if every and steps_done % every == 0 and steps_done < end:
                save()
            shown = {
                "loss": f"{seen['loss']:.4f}",
                "lr": f"{float(plan.schedule(steps_done - 1)):.3g}",
                "img/s": f"{num_steps * run.config.train.batch_size / seconds:.0f}",
            }
            bar.update(steps_done - start, shown)
            calls += 1
            if calls == 2 and is_first:  # the first one is slower
                left = (plan.total_steps - steps_done) * seconds / num_steps
                if left > LONG_SECONDS:
                    console.say(messages.long_run(left))
        run.stop.check(save, steps_done)
    return train_state, epoch_seconds


@contextlib.contextmanager
def saved_if_data_fail(save: Callable[[], None]) -> Iterator[None]:
    """Saves the state if images cannot be read, then lets the error end the run.

    With several processes, all of them get here at the same step, see `feeds.Streamed`.
    """
    try:
        yield
    except (DataError, TrainingError):
        save()
        raise


def check_finite(run: Run, train_state: TrainState) -> None:
    """Ends a run that has diverged.

    Raises:
      DivergedError: Loss or gradient of the last step are not finite.
    """
    step_number = int(train_state.step)
    loss, grad_norm = float(train_state.report.loss), float(train_state.report.grad_norm)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        last = f"the last good checkpoint is step {max(run.checkpoints.steps, default=None)}"
        raise DivergedError(
            f"not finite at step {step_number}: loss {loss}, gradient norm {grad_norm}, learning "
            f"rate {float(run.plan.schedule(step_number - 1)):.4g}; "
            f"{last if run.checkpoints.steps else 'there is no checkpoint yet'}"
        )
