"""The training loop: data, state, restore, compile, epochs, reports."""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from typing import Any

import jax

from googlenet_jax import data, fileio, parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Split
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.report.curves import draw_curves
from googlenet_jax.report.loggers import Logger
from googlenet_jax.report.tensorboard import TensorBoard
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.storage.summary import selection_metrics, selection_split, summarize
from googlenet_jax.storage.workdir import (
    CHECKPOINTS,
    check_same_run,
    reports,
    write_config,
    write_metrics,
)
from googlenet_jax.training import feeds, health, memory, state
from googlenet_jax.training.metrics import Evaluation, Metrics
from googlenet_jax.training.state import Keys, TrainState
from train import allocator, console, messages
from train.epoch import Run, saved_if_data_fail, train_epoch
from train.resume import restore, start
from train.stop import StopRequest
from train.waiting import compile_steps


def train_and_evaluate(
    config: Config, workdir: WorkdirPath, started: float | None = None
) -> dict[str, Any]:
    """Trains a network; if the working directory holds checkpoints, the run resumes exactly.

    Args:
      config: Of the run.
      workdir: Keeps everything about the run.
      started: When the program started, by `time.monotonic`; None for now.

    Returns:
      The content of summary.json.

    Raises:
      UserError: The config, the data or the working directory cannot be used.
      DivergedError: The loss or the gradient is not finite.
      SystemExit: A signal came and a checkpoint was written, of the finished run if there was no
        step left; the status is 128 + the signal's number.
    """
    started = time.monotonic() if started is None else started
    start_up = messages.StartUp(started)
    start_up.lap("import")
    config.validate()
    allocator.keep_memory()
    if config.train.compilation_cache:
        keep_programs()
    mesh = parallel.create_mesh()
    parallel.check_batch_size(config.train.batch_size, mesh, config.train.accumulate)
    parallel.check_same("config", json.dumps(config.to_dict()))
    # With several processes JAX handles SIGTERM, see `Checkpoints.preempted`.
    is_alone = not jax.distributed.is_initialized()
    signals = [signal.SIGTERM, signal.SIGINT] if is_alone else []
    with (
        contextlib.ExitStack() as stack,
        contextlib.nullcontext() if is_alone else StopRequest.pass_on(),
        reports(workdir) as folder,
        StopRequest.listen(signals) as stop,
    ):
        saved_config = check_same_run(workdir, config)
        with parallel.first_process_first("data"):  # it may have to prepare the files
            dataset = data.load(config.data, config.seed)
        parallel.check_same("data set", dataset.provenance["sha256"])
        feed = stack.enter_context(contextlib.closing(feeds.create(dataset, config, mesh)))
        plan = feed.plan  # here: it refuses batches that the training images do not fill
        console.say(f"data: {messages.describe_data(dataset)}")
        start_up.lap("data")

        init_key = parallel.replicate(Keys.of(config.seed).init, mesh)
        train_state = state.initialize(init_key, config, dataset.info)
        console.say(f"model: {messages.describe_model(config, train_state.num_parameters)}")

        with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
            if checkpoints.steps and saved_config:
                train_state, record = restore(
                    config, saved_config, workdir, checkpoints, dataset, train_state
                )
            else:
                train_state, record = start(config, dataset, train_state, mesh)
            start_up.lap("state")
            logger = stack.enter_context(Logger(config, folder))
            write_config(folder, config)
            write_metrics(folder, record.history)
            logger.write(record.history)
            run = Run(config, plan, feed, checkpoints, stop, int(train_state.step))
            with memory.told(feed, config):
                record = train_epochs(run, folder, train_state, record, start_up, logger)

        summary = summarize(config, record, train_state.num_parameters)
        fileio.write_json(folder / "summary.json", summary)
        draw_curves(record.history, folder / "curves.png", str(workdir))
    console.say(messages.describe_result(summary, workdir, time.monotonic() - started))
    if stop.signal:  # it came after the last step
        sys.exit(128 + stop.signal)
    return summary


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX has a cache folder already."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):  # no home folder, or a read-only one: go without
            folder = fileio.cache_folder() / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small ones add up


def train_epochs(
    run: Run,
    folder: WorkdirPath,
    train_state: TrainState,
    record: Record,
    start_up: messages.StartUp,
    logger: Logger,
) -> Record:
    """Trains, evaluates and saves until the end of the run; returns its record."""
    plan = run.plan
    if len(record.history) == plan.epochs:
        return record
    was_kept = compile_steps(run.feed, train_state)
    start_up.lap("compile (from the cache)" if was_kept else "compile")
    console.say(start_up.describe())
    every = run.config.eval.every_epochs
    with TensorBoard(folder / "tensorboard", record.history) as board:
        # The history has one line for each finished epoch.
        for epoch in range(len(record.history), plan.epochs):
            train_state, train_seconds = train_epoch(run, train_state, record, epoch)
            started, steps_done = time.monotonic(), int(train_state.step)
            evaluated: dict[Split, Evaluation] = {}
            if (epoch + 1) % every == 0 or epoch + 1 == plan.epochs:
                unfinished = dataclasses.replace(record, epoch_seconds=train_seconds)
                save = functools.partial(run.checkpoints.save, train_state, unfinished)
                with saved_if_data_fail(save):
                    evaluated = evaluate_splits(run, train_state)
            steps_taken = steps_done - epoch * plan.steps_per_epoch
            entry: dict[str, Any] = {
                "epoch": epoch + 1,
                "step": steps_done,
                **scalars({Split.TRAIN: train_state.metrics, **evaluated}),
                **norms(train_state),
                "learning_rate": float(plan.schedule(steps_done - 1)),
                "images_per_second": steps_taken * run.config.train.batch_size / train_seconds,
                "seconds": train_seconds + time.monotonic() - started,
            }
            history = [*record.history, entry]
            evaluation = evaluated.get(Split(selection_split(entry)))
            names = run.feed.dataset.info.class_names
            batch_norm = bool(train_state.batch_stats)
            found = health.check(history, train_state.metrics, evaluation, names, batch_norm)
            new = {kind: text for kind, text in found.items() if kind not in record.warnings}
            record = dataclasses.replace(
                record, history=history, epoch_seconds=0.0, warnings=record.warnings | new
            )
            # The checkpoint first: on resume, metrics.jsonl is rewritten from it.
            run.checkpoints.save(train_state, record, selection_metrics(entry))
            write_metrics(folder, record.history)
            board.write(entry)
            logger.write(record.history)
            console.say(messages.epoch_line(history, plan))
            for text in new.values():
                console.say(f"warning: {text}")
    return record


def evaluate_splits(run: Run, train_state: TrainState) -> dict[Split, Evaluation]:
    """Evaluates every split except the training split."""
    splits = (split for split in run.feed.dataset.splits if split is not Split.TRAIN)
    return {split: run.feed.evaluate(train_state, split) for split in splits}


def scalars(metrics: dict[Split, Metrics]) -> dict[str, float]:
    """Loss and accuracy of each split, by their names in metrics.jsonl."""
    values = {split: each.compute() for split, each in metrics.items()}
    return {
        f"{split}_{name}": values[split][name]
        for split in Split
        if split in values
        for name in ("loss", "accuracy")
    }


def norms(train_state: TrainState) -> dict[str, float]:
    """The norms of the last step's gradient, of the parameters and of their update."""
    report = train_state.report._asdict().items()
    return {name: float(value) for name, value in report if name.endswith("_norm")}
