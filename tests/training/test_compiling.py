"""The options that programs are compiled with."""

import jax
import jax.numpy as jnp
import pytest

from googlenet_jax import parallel


@pytest.fixture
def lowered():
    return jax.jit(lambda x: x + 1).lower(jnp.float32(1))


def test_only_a_tpu_s_programs_have_a_tpu_s_options(lowered, monkeypatch):
    noted, program = [], lowered.compile()

    def note(self, *options):
        noted.append(options)
        return program

    monkeypatch.setattr(type(lowered), "compile", note)
    for platform in ("tpu", "gpu", "cpu"):
        assert parallel.compiled(lowered, platform) is program
    assert noted == [(parallel.TPU_OPTIONS,), (), ()]


def test_an_option_that_the_compiler_does_not_know_is_left_out(lowered):
    """A CPU's compiler knows none of a TPU's."""
    assert parallel.compiled(lowered, "tpu")(jnp.float32(1)) == 2


def test_another_error_is_passed_on(lowered, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(type(lowered), "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        parallel.compiled(lowered, "tpu")
