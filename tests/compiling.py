"""Programs that run a few steps only: to optimise them takes longer."""

import contextlib
from collections.abc import Iterator

import jax

FLAG = "jax_disable_most_optimizations"


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """XLA compiles without most of its optimisations."""
    before = jax.config.read(FLAG)
    jax.config.update(FLAG, True)
    try:
        yield
    finally:
        jax.config.update(FLAG, before)
