"""How programs are compiled, where it matters to a test."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

FLAG = "jax_disable_most_optimizations"


def environment() -> dict[str, str]:
    """That of a program which is this clone's, whatever is installed, and compiles quickly."""
    return os.environ | {FLAG.upper(): "1", "PYTHONPATH": str(Path(__file__).parents[2])}


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """XLA compiles without most of its optimisations: for programs that run a few steps only."""
    before = jax.config.read(FLAG)
    jax.config.update(FLAG, True)
    try:
        yield
    finally:
        jax.config.update(FLAG, before)


def with_all_emitters(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lower(...).compile()` takes XLA's newer emitters, which conftest.py does without.

    For tests that ask two programs for the same bits: without those emitters it depends on the
    program where a product and a sum are rounded once.
    """
    compile_ = jax.stages.Lowered.compile
    options = {"xla_cpu_use_fusion_emitters": True}
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda lowered: compile_(lowered, compiler_options=options)
    )
