"""A program restarts itself with other allocator settings, once and as the same process."""

import os
import subprocess
import sys

import pytest

from train import allocator

NAME = "JAX_CPU_ENABLE_ASYNC_DISPATCH"
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
    [(None, allocator.ENVIRONMENT["GLIBC_TUNABLES"]), ("", ""), ("glibc.malloc.check=1",) * 2],
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
@pytest.mark.parametrize(("given", "found"), [({}, "0"), ({NAME: "1"}, "1")])
def test_variables_set_by_the_user_are_kept(given, found):
    inherited = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", NAME)}
    program = "import os; from train import allocator; allocator.restart_tuned()"
    output = subprocess.check_output(
        [sys.executable, "-c", f"{program}; print(os.environ['{NAME}'])"],
        env=inherited | given,
        text=True,
    )
    assert output == f"{found}\n"
