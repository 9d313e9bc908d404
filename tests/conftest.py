"""Runs every test on the CPU, with shapes checked and implicit type promotion refused."""

import atexit
import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any, Self

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

# A test session compiles each program once: its workers and the programs that it starts share this
# cache. It is empty at first, so a test never gets a program that another version compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Most tests spend their time compiling, and XLA compiles twice as fast without its newer emitters
# of fused kernels. XLA aborts on an unknown flag, so a subprocess tries it first. Set `XLA_FLAGS=`,
# or other flags, before pytest to run XLA as users have it.
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

# Every call checks the library's annotations. Beartype accepts `Self` only when it decorates whole
# classes, but jaxtyping passes it single methods, so `Self` is replaced by Any. The PEP 484 tower
# accepts an int where a float is expected.
checked = beartype.beartype(
    conf=beartype.BeartypeConf(
        hint_overrides=beartype.FrozenDict({Self: Any}), is_pep484_tower=True
    )
)
jaxtyping.install_import_hook("googlenet_jax", "conftest.checked")

# jax_numpy_rank_promotion keeps its default, because biases are added to images on purpose.
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def programs_freed():
    """Frees compiled programs after each module, before the worker runs out of memory maps.

    XLA's CPU backend maps each kernel separately: about 4,000 for a training step of the whole
    network, 1,000 without the newer emitters. Beyond the operating system's limit of 65,530 maps a
    process, jaxlib crashes.
    """
    yield
    jax.clear_caches()
    # What is left now, such as imported modules, stays to the end. A read that fails collects
    # garbage (`errors.no_logging`). To look at all of that again took it half a second each time.
    gc.collect()
    gc.freeze()


@pytest.fixture
def programs_freed_at_once():
    """Frees them after each test, for modules that compile many whole networks."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly():
    """For modules whose programs run only briefly."""
    with compiling.quickly():
        yield


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keeps tests away from the user's files and from the network."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def connect(*args, **kwargs):
        raise OSError("tests have no network")

    monkeypatch.setattr(socket, "create_connection", connect)
