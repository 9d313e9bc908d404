"""Data parallelism: one mesh axis over all devices of all processes.

A batch is split over the devices; parameters, statistics and the data set lie on each of them.
From that, `jax.jit` derives the rest: what is summed over a batch, BatchNorm's statistics and the
gradients, is summed over the devices. Everything random is a function of the seed and the step,
whatever the number of devices.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from googlenet_jax.errors import ConfigError, UserError

AXIS = "data"
Tree = TypeVar("Tree")


def create_mesh() -> Mesh:
    """All devices of all processes, in one row."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def platform(mesh: Mesh | None = None) -> str:
    """Of the devices for which a program is compiled: "cpu", "gpu" or "tpu"."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """Puts arrays on every device of the mesh.

    Args:
      tree: of arrays or JAX keys on this process; every process gives the same.
      mesh: of the devices; None is the first device.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(leaf: jax.Array | np.ndarray) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
        if mesh.is_multi_process:
            return jax.make_array_from_process_local_data(everywhere, np.asarray(leaf))
        return jax.device_put(leaf, everywhere)

    return jax.tree.map(place, tree)


def rows(size: int, mesh: Mesh | None) -> Int[np.ndarray, " rows"]:
    """Which examples of a batch of that size this process's devices have, in rising order."""
    every = np.arange(size)
    if mesh is None:
        return every
    parts = NamedSharding(mesh, PartitionSpec(AXIS)).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([every[index] for index in parts.values() if index]))


def from_rows(tree: PyTree[np.ndarray], size: int, mesh: Mesh | None) -> PyTree[jax.Array]:
    """Puts a batch on the devices, its leading axis split over them.

    Args:
      tree: of arrays with this process's `rows` of the batch.
      size: of the whole batch.
      mesh: of the devices; None is the first device.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding, own = NamedSharding(mesh, PartitionSpec(AXIS)), rows(size, mesh)

    def place(leaf: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None, "asked for this process's devices only"
            start, stop, _ = index[0].indices(size)
            return leaf[np.searchsorted(own, start) : np.searchsorted(own, stop)]

        return jax.make_array_from_callback((size, *leaf.shape[1:]), sharding, part)

    return jax.tree.map(place, tree)


def split(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside a compiled program: has the leading axis of arrays split over the devices."""
    return _constrain(tree, mesh, PartitionSpec(AXIS))


def whole(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside a compiled program: has arrays whole on each device."""
    return _constrain(tree, mesh, PartitionSpec())


def _constrain(tree: Tree, mesh: Mesh | None, spec: PartitionSpec) -> Tree:
    return tree if mesh is None else lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


def divisible(size: int, mesh: Mesh | None) -> int:
    """The least size of a batch, from `size` up, that the devices divide."""
    devices = 1 if mesh is None else mesh.size
    return -(-size // devices) * devices


def check_batch_size(size: int, mesh: Mesh) -> None:
    """Makes sure that the devices divide a training batch.

    Raises:
      ConfigError: they do not; names the nearest sizes that would do.
    """
    above = divisible(size, mesh)
    if above != size:
        below = above - mesh.size
        would_do = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"train.batch_size={size}: {mesh.size} devices do not divide it; {would_do} would do"
        )


def is_first_process() -> bool:
    """Whether this is the process that prints and writes reports."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_process_first(what: str) -> Iterator[None]:
    """Lets the first process do something, and then the others, who find it done.

    Args:
      what: a name for it; every process says the same.
    """
    if not is_first_process():
        multihost_utils.sync_global_devices(what)
    yield
    if is_first_process():
        multihost_utils.sync_global_devices(what)


def check_same(what: str, text: str) -> None:
    """Makes sure that every process has the same.

    Args:
      what: for the error.
      text: such as a config, or the sha256 of data.

    Raises:
      UserError: this process has another one than the first.
    """
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    if not np.array_equal(multihost_utils.broadcast_one_to_all(own), own):
        raise UserError(f"process {jax.process_index()}: its {what} is not that of process 0")


def total(number: int) -> int:
    """The sum of what every process gives."""
    return int(multihost_utils.process_allgather(np.int32(number)).sum())


def agreed(number: int) -> int:
    """The number that the first process gives, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
