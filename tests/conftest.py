"""How every test runs: on the CPU, with shapes checked and silent conversions refused."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any, Self

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

# One test session compiles each program once: its workers and the programs that it starts
# inherit this folder. It starts empty, so a test never sees what another version compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# To compile is what most tests spend their time on, and without XLA's newer emitters of fused
# kernels it takes half of it. An XLA that does not know a flag aborts the process, so another
# process tries. `XLA_FLAGS=` before pytest, or any flags of one's own, leave XLA as users have it.
if "XLA_FLAGS" not in os.environ:
    flags = {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}
    parse = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
    known = subprocess.run(parse, env=os.environ | flags, capture_output=True).returncode == 0
    os.environ["XLA_FLAGS"] = flags["XLA_FLAGS"] if known else ""

import beartype
import compiling
import jax
import jaxtyping
import pytest

# The annotations of the library are checked at every call. Beartype accepts `Self` only where it
# decorates whole classes, and jaxtyping gives it one method at a time: there `Self` means Any.
# The tower is Python's rule that an int is a float.
checked = beartype.beartype(
    conf=beartype.BeartypeConf(
        hint_overrides=beartype.FrozenDict({Self: Any}), is_pep484_tower=True
    )
)
jaxtyping.install_import_hook("googlenet_jax", "conftest.checked")

# jax_numpy_rank_promotion stays as it is: a bias is added to images, on purpose.
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def programs_freed():
    """Lets compiled programs go: a worker that kept all of them would run out of memory maps.

    XLA's CPU backend maps its kernels one by one, some 4,000 for a training step of the whole
    network, 1,000 without the newer emitters, and the operating system's limit is 65,530 a
    process: beyond it jaxlib crashes.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def programs_freed_at_once():
    """The same behind each test of a module that compiles many whole networks."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly():
    """For modules of which no program runs for long."""
    with compiling.quickly():
        yield


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Nothing of the user's own is read or written, and nothing is downloaded."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def connect(*args, **kwargs):
        raise OSError("tests have no network")

    monkeypatch.setattr(socket, "create_connection", connect)
