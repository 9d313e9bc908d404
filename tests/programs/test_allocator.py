"""A program restarts itself with other allocator settings, once and as the same process."""

import os
import subprocess
import sys

import jax
import pytest

from train import allocator

PROGRAM = """
import os, sys
from train import allocator
before = os.environ.get("GLIBC_TUNABLES")
allocator.restart_tuned()
print(os.getpid(), repr(before), sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize(
    ("given", "found"),
    [(None, allocator.TUNABLES), ("", ""), ("glibc.malloc.check=1",) * 2],
)
def test_restart(given, found):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if given is not None:
        environment["GLIBC_TUNABLES"] = given
    arguments = ["--a b", "c"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == f"{process.pid} {found!r} {arguments}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_a_call_runs_on_the_thread_that_makes_it():
    """So it has ended when the call returns; another thread would be at work still."""
    program = """
from train import allocator
allocator.restart_tuned()
import jax, jax.numpy as jnp
allocator.keep_memory()
x = jnp.eye(512)
run = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda i, y: y @ x, x)).lower(x).compile()
print(run(x).is_ready())
"""
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    output = subprocess.check_output([sys.executable, "-c", program], env=inherited, text=True)
    assert output == "True\n"


def test_jax_is_left_as_it_is_without_the_tuning(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("was changed"))
    allocator.keep_memory()
