"""What a run says while it waits for the compiler."""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from tqdm import tqdm

from googlenet_jax import fileio
from googlenet_jax.storage.summary import environment
from googlenet_jax.training.feeds import Feed
from googlenet_jax.training.state import TrainState
from train import console

FILE = "googlenet_jax_seconds.json"
"""Beside JAX's compiled programs: how long it took to compile each, by the program's sha256."""
KEPT = 100  # programs in the file


def compile_steps(feed: Feed, state: TrainState) -> bool:
    """Compiles the training steps; returns whether they came from the cache.

    Before, it says whether they are there, and how long such a compilation took.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    seconds = _read(folder) if folder else {}
    key = ""

    def tell(lowered: jax.stages.Lowered) -> None:
        nonlocal key
        compiler = json.dumps([environment(), os.environ.get("XLA_FLAGS")])
        key = hashlib.sha256((lowered.as_text() + compiler).encode()).hexdigest()
        where = "not in the cache"
        if key in seconds:
            where = f"in the cache; it took {seconds[key]:.0f} s to compile them"
        elif seconds:
            where += f"; the last ones took {[*seconds.values()][-1]:.0f} s"
        console.say(f"compiling the training steps: {where}")

    started = time.monotonic()
    with counting("compiling"):
        was_kept = feed.compile(state, tell)
    if folder and jax.process_index() == 0 and not (was_kept and key in seconds):
        seconds.pop(key, None)
        newest = [*seconds.items(), (key, time.monotonic() - started)][-KEPT:]
        with contextlib.suppress(OSError):  # JAX does without a cache that cannot be written, too
            fileio.write_json(Path(folder, FILE), dict(newest))
    return was_kept


def _read(folder: str) -> dict[str, float]:
    """The seconds in the file; {} if there is none, or not what this module writes."""
    try:
        found = fileio.read_json(Path(folder, FILE))
        return {key: float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@contextlib.contextmanager
def counting(title: str) -> Iterator[None]:
    """Counts the seconds of the block on a terminal."""
    ended = threading.Event()
    form, hidden = "{desc} {elapsed}", not sys.stderr.isatty()
    with tqdm(desc=title, bar_format=form, leave=False, disable=hidden) as bar:

        def count() -> None:
            while not ended.wait(1):
                bar.refresh()

        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
