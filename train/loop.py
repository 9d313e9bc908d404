"""The training loop: data, state, restore, compile, epochs, reports."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from googlenet_jax import augment, data, models, optimizer, state, step
from googlenet_jax.checkpoint import Checkpoints, Record
from googlenet_jax.config import Config
from googlenet_jax.data import Dataset, Split
from googlenet_jax.errors import TrainingError
from googlenet_jax.metrics import Metrics
from googlenet_jax.report.curves import draw_curves
from googlenet_jax.report.summary import selection_metrics, summarize
from googlenet_jax.report.tensorboard import TensorBoard
from googlenet_jax.state import TrainState
from googlenet_jax.step import StepReport
from googlenet_jax.workdir import CHECKPOINTS, lock, write_atomically, write_config, write_metrics
from train.console import Progress, StopRequest, duration
from train.resume import Plan, restore_or_start

# A call of the compiled steps lasts about this long: long enough to hide the way to the device
# and back, short enough to serve signals and the bar. Its length changes no bit of the result.
CALL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last.

    Attributes:
      config: of the run.
      plan: its steps and epochs.
      dataset: on the device.
      schedule: the learning rate by step.
      order_key: of the epochs' orders.
      step_key: of augmentation and dropout.
      checkpoints: in the workdir.
      stop: the signal that asks for an end, if one came.
    """

    config: Config
    plan: Plan
    dataset: Dataset
    schedule: optax.Schedule
    order_key: PRNGKeyArray
    step_key: PRNGKeyArray
    checkpoints: Checkpoints
    stop: StopRequest


def train_and_evaluate(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains as `config` says; a workdir that holds checkpoints is resumed, exactly.

    Args:
      config: of the run.
      workdir: where everything about it is kept.

    Returns:
      What summary.json holds.

    Raises:
      UserError: config, data or workdir cannot be used.
      TrainingError: the loss or the gradient is no longer finite.
      SystemExit: a signal came and a checkpoint was written; the status is 128 + its number.
    """
    config.validate()
    with lock(workdir), StopRequest.listen() as stop:
        dataset = data.load(config.data, config.seed).on_device()
        print(f"data: {describe_data(dataset)}", flush=True)
        plan = Plan.of(config, Split.TRAIN.num_examples(dataset))
        schedule = plan.schedule(config)
        # A key for each use: drawing more weights must not change the order of the images.
        init_key, order_key, step_key = jax.random.split(jax.random.key(config.seed), 3)
        train_state = state.create(
            init_key,
            lambda: models.create(
                config.model, dataset.info.image_shape[-1], dataset.info.num_classes
            ),
            optimizer.create(config.optimizer, schedule),
            dataset.info.num_classes,
        )
        parameters = sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
        print(f"model: {describe_model(config, parameters)}", flush=True)

        with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
            train_state, record = restore_or_start(
                config, workdir, checkpoints, dataset, train_state
            )
            write_config(workdir, config)
            write_metrics(workdir, record.history)
            run = Run(config, plan, dataset, schedule, order_key, step_key, checkpoints, stop)
            record = train_epochs(run, workdir, train_state, record)

    summary = summarize(config, record, parameters)
    write_atomically(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    draw_curves(record.history, workdir / "curves.png", str(workdir))
    print(describe_result(summary, workdir))
    return summary


def train_epochs(run: Run, workdir: Path, train_state: TrainState, record: Record) -> Record:
    """Trains, evaluates and saves until the plan is done; returns the whole record."""
    if len(record.history) == run.plan.epochs:
        return record
    train_steps, preprocess = compile_steps(run, train_state)
    started, first_step = time.monotonic(), int(train_state.step)
    with TensorBoard(workdir / "tensorboard", record.history) as board:
        # The history has a line for each finished epoch, so it says which one comes next.
        for epoch in range(len(record.history), run.plan.epochs):
            epoch_started = time.monotonic() - record.epoch_seconds
            train_state, images_per_second = train_epoch(
                run, train_steps, train_state, record, epoch
            )
            steps_done = int(train_state.step)
            entry: dict[str, Any] = {
                "epoch": epoch + 1,
                "step": steps_done,
                **measure("train", train_state.metrics),
            }
            if (epoch + 1) % run.config.eval.every_epochs == 0 or epoch + 1 == run.plan.epochs:
                for split in (Split.VALID, Split.TEST):
                    if split in run.dataset.splits:
                        metrics = step.evaluate(
                            train_state,
                            run.dataset.splits[split],
                            batch_size=run.config.eval.batch_size,
                            preprocess=preprocess,
                        )
                        entry |= measure(split, metrics)
            entry |= {
                "learning_rate": float(run.schedule(steps_done - 1)),
                "images_per_second": images_per_second,
                "seconds": time.monotonic() - epoch_started,
            }
            record = dataclasses.replace(
                record, history=[*record.history, entry], epoch_seconds=0.0
            )
            # The checkpoint first: a line of metrics.jsonl never runs ahead of it for good.
            run.checkpoints.save(train_state, record, selection_metrics(entry))
            write_metrics(workdir, record.history)
            board.write(entry)
            pace = (time.monotonic() - started) / (steps_done - first_step or 1)
            left = pace * (run.plan.total_steps - steps_done)
            print(epoch_line(entry, run.plan.epochs, left), flush=True)
    return record


def train_epoch(
    run: Run,
    train_steps: Callable[..., tuple[TrainState, StepReport]],
    train_state: TrainState,
    record: Record,
    epoch: int,
) -> tuple[TrainState, float | None]:
    """Takes the steps that are left of an epoch (from 0); returns images/s as well.

    Raises:
      TrainingError: loss or gradient are not finite; nothing is saved.
      SystemExit: a signal came; the state is saved.
    """
    train = run.dataset.splits[Split.TRAIN]
    order = data.epoch_order(run.order_key, epoch, len(train.labels))
    start, end = epoch * run.plan.steps_per_epoch, run.plan.epoch_end(epoch)
    steps_done, call_steps = int(train_state.step), 1
    timed_steps, timed_seconds = 0, 0.0
    epoch_started = time.monotonic() - record.epoch_seconds

    def save() -> None:
        seconds = time.monotonic() - epoch_started
        run.checkpoints.save(train_state, dataclasses.replace(record, epoch_seconds=seconds))

    with Progress(f"epoch {epoch + 1}/{run.plan.epochs}", steps_done - start, end - start) as bar:
        while steps_done < end:
            run.stop.check(save, steps_done)
            until = min(end, steps_done + call_steps)
            if every := run.config.checkpoint.every_steps:
                until = min(until, (steps_done // every + 1) * every)
            call_started = time.monotonic()
            train_state, report = train_steps(
                train_state, train, order, jnp.int32(until - steps_done), run.step_key
            )
            seen = train_state.metrics.compute()  # waits for the device
            seconds = time.monotonic() - call_started
            check_finite(run, int(train_state.step), report)
            timed_steps, timed_seconds = timed_steps + until - steps_done, timed_seconds + seconds
            longest = (until - steps_done) * CALL_SECONDS / seconds
            call_steps = max(1, round(min(longest, 2 * (until - steps_done))))
            steps_done = until
            bar.update(
                steps_done - start,
                loss=f"{seen['loss']:.4f}",
                accuracy=f"{seen['accuracy']:.4f}",
                learning_rate=f"{float(run.schedule(steps_done - 1)):.4g}",
            )
            if every and steps_done % every == 0 and steps_done < end:
                save()
        run.stop.check(save, steps_done)
    batch_size = run.config.train.batch_size
    return train_state, timed_steps * batch_size / timed_seconds if timed_steps else None


def compile_steps(
    run: Run, train_state: TrainState
) -> tuple[Callable[..., tuple[TrainState, StepReport]], step.Preprocess]:
    """The compiled training steps, and the preprocessing for evaluation."""
    info, config = run.dataset.info, run.config.data

    def normalize(key: PRNGKeyArray | None, images: Array) -> Array:
        return augment.normalize(images, info.mean, info.std)

    def augment_and_normalize(key: PRNGKeyArray | None, images: Array) -> Array:
        assert key is not None, "training images are augmented"
        augmented = augment.augment(
            key, images, pad=config.pad, pad_mode=config.pad_mode, random_flip=config.flip
        )
        return normalize(None, augmented)

    train = run.dataset.splits[Split.TRAIN]
    started = time.monotonic()
    compiled = step.train_steps.lower(
        train_state,
        train,
        data.epoch_order(run.order_key, 0, len(train.labels)),
        jnp.int32(1),
        run.step_key,
        batch_size=run.config.train.batch_size,
        preprocess=augment_and_normalize,
    ).compile()
    print(f"compiled in {time.monotonic() - started:.1f} s", flush=True)
    return compiled, normalize


def measure(split: str, metrics: Metrics) -> dict[str, float]:
    """The loss and the accuracy of a split, under metrics.jsonl's names."""
    values = metrics.compute()
    return {f"{split}_{name}": values[name] for name in ("loss", "accuracy")}


def check_finite(run: Run, step_number: int, report: StepReport) -> None:
    """Ends a run that has diverged.

    Raises:
      TrainingError: names the step, its loss, learning rate and gradient norm.
    """
    loss, grad_norm = float(report.loss), float(report.grad_norm)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        last = f"the last good checkpoint is step {max(run.checkpoints.steps, default=None)}"
        raise TrainingError(
            f"not finite at step {step_number}: loss {loss}, gradient norm {grad_norm}, learning "
            f"rate {float(run.schedule(step_number - 1)):.4g}; "
            f"{last if run.checkpoints.steps else 'there is no checkpoint yet'}"
        )


def describe_data(dataset: Dataset) -> str:
    """Name, sizes and provenance in one line."""
    sizes = [f"{s.num_examples(dataset):,} {s}" for s in Split if s in dataset.splits]
    official = "official" if dataset.provenance["official"] else "NOT the official data"
    return f"{dataset.info.name}, {', '.join(sizes)} images, {official}"


def describe_model(config: Config, parameters: int) -> str:
    """Name, size, precision and device in one line."""
    return (
        f"{config.model.name}, {parameters:,} parameters, {config.model.dtype} with "
        f"{config.model.matmul_precision} precision, on {jax.devices()[0].device_kind}"
    )


def epoch_line(entry: dict[str, Any], epochs: int, seconds_left: float) -> str:
    """The line that a finished epoch prints."""
    values = [
        f"{name} {value:.4f}"
        for name, value in entry.items()
        if name.endswith(("_loss", "_accuracy"))
    ]
    speed = entry["images_per_second"]
    return (
        f"[epoch {entry['epoch']}/{epochs}] {' '.join(values)} "
        f"learning_rate {entry['learning_rate']:.4g} "
        f"images/s {f'{speed:.0f}' if speed else '-'} left {duration(seconds_left)}"
    )


def describe_result(summary: dict[str, Any], workdir: Path) -> str:
    """Final and best accuracy, each with its epoch."""
    final, best = summary["final"], summary["best"]
    return (
        f"done in {duration(summary['wall_seconds'])}: test accuracy "
        f"{final['test_accuracy']:.4f} at the end (epoch {final['epoch']}), "
        f"{best['test_accuracy']:.4f} at epoch {best['epoch']}, "
        f"which is best on the {summary['best_chosen_on']} split; {workdir}/curves.png"
    )
