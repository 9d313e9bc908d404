"""What a compiled training step needs in memory, and what helps where that is not there."""

import contextlib
from collections.abc import Iterator

import jax

from googlenet_jax.config import Config
from googlenet_jax.errors import TrainingError
from googlenet_jax.training.feeds import Feed


@contextlib.contextmanager
def told(feed: Feed, config: Config) -> Iterator[None]:
    """Turns XLA's out-of-memory error, at compiling or in any call, into one line.

    Raises:
      TrainingError: The device's memory does not suffice; says what a step needs and what helps.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        raise TrainingError(f"out of memory: {explain(feed.program, config, limit)}") from error


def explain(program: jax.stages.Compiled | None, config: Config, limit: int | None) -> str:
    """What a step needs, and the settings that need less.

    Args:
      program: The training program; None if it could not be compiled.
      config: Of the run.
      limit: Bytes of a device's memory; None if that is not known.
    """
    size, parts = config.train.batch_size, config.train.accumulate
    each = size // jax.device_count()
    # Working memory is nearly proportional to the images that are computed at a time.
    more = [n for n in range(parts + 1, each + 1) if each % n == 0]
    text, about = f"a step of train.batch_size={size}, train.accumulate={parts} ", ""
    memory = None if program is None else program.memory_analysis()
    if memory is None:
        text += "does not fit"
    else:
        working, outputs = memory.temp_size_in_bytes, memory.output_size_in_bytes
        fixed = memory.argument_size_in_bytes + outputs - memory.alias_size_in_bytes
        text += f"needs {_gigabytes(fixed + working)} on each device"
        if limit is not None:
            text += f", which has {_gigabytes(limit)}"
            more = [n for n in more if fixed + working * parts / n <= limit]
        if more:
            about = f" (about {_gigabytes(fixed + working * parts / more[0])})"
    hints = [f"train.accumulate={more[0]}{about}"] if more else []
    hints += [] if config.model.remat else ["model.remat=True"]
    hints.append("a smaller train.batch_size")
    return f"{text}; try {' or '.join(hints)}, and in evaluation a smaller eval.batch_size"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
