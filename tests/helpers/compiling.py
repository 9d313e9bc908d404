"""Compiler settings for tests."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

FLAG = "jax_disable_most_optimizations"


def environment() -> dict[str, str]:
    """Returns an environment for programs of this clone that compile quickly."""
    return os.environ | {FLAG.upper(): "1", "PYTHONPATH": str(Path(__file__).parents[2])}


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Turns off most of XLA's optimisations, for programs that run only a few steps."""
    before = jax.config.read(FLAG)
    jax.config.update(FLAG, True)
    try:
        yield
    finally:
        jax.config.update(FLAG, before)


def with_all_emitters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `lower(...).compile()` use XLA's newer emitters, which conftest.py turns off.

    For tests that need the same bits from two programs: without those emitters it depends on the
    program which products and sums are fused into one rounding.
    """
    compile_ = jax.stages.Lowered.compile
    options = {"xla_cpu_use_fusion_emitters": True}
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda lowered: compile_(lowered, compiler_options=options)
    )
