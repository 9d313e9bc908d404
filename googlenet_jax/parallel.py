"""Data parallelism: one mesh axis over all devices of all processes.

Each batch is split over the devices; each device has a whole copy of the parameters, the BatchNorm
statistics and the data set. `jax.jit` derives the communication: sums over a batch, in BatchNorm
and in the gradients, become sums over the devices. Random numbers depend on the seed and the step
only, not on the number of devices.
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
    """A mesh with all devices of all processes on one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def platform(mesh: Mesh | None = None) -> str:
    """The kind of device that a program is compiled for: "cpu", "gpu" or "tpu"."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


TPU_OPTIONS: dict[str, str | bool] = {
    "xla_tpu_memory_bound_loop_optimizer_options": "enabled:false"
}
"""libtpu 0.0.42 ends the process in this pass when it compiles a step of ResNet-164 for a v5e."""


def compiled(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Compiles a program for devices of that kind, see `platform`; a TPU's with `TPU_OPTIONS`.

    Raises:
      JaxRuntimeError: It cannot be compiled, for example for lack of memory.
    """
    if platform == "tpu":
        try:
            return lowered.compile(TPU_OPTIONS)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):  # as in another libtpu
                raise
    return lowered.compile()


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """Puts a whole copy of each array on every device.

    Args:
      tree: Arrays or JAX keys of this process; the same in every process.
      mesh: The devices; None for the first device.
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
    """The positions, in a batch of that size, of the examples for this process's devices."""
    every = np.arange(size)
    if mesh is None:
        return every
    parts = NamedSharding(mesh, PartitionSpec(AXIS)).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([every[index] for index in parts.values() if index]))


def from_rows(tree: PyTree[np.ndarray], size: int, mesh: Mesh | None) -> PyTree[jax.Array]:
    """Puts a batch on the devices, with its leading axis split over them.

    Args:
      tree: Arrays with this process's `rows` of the batch.
      size: Examples in the whole batch.
      mesh: The devices; None for the first device.
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
    """In a compiled program: splits the leading axis of arrays over the devices."""
    return _constrain(tree, mesh, PartitionSpec(AXIS))


def whole(tree: Tree, mesh: Mesh | None) -> Tree:
    """In a compiled program: keeps a whole copy of arrays on each device."""
    return _constrain(tree, mesh, PartitionSpec())


def _constrain(tree: Tree, mesh: Mesh | None, spec: PartitionSpec) -> Tree:
    return tree if mesh is None else lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


def divisible(size: int, mesh: Mesh | None) -> int:
    """The batch size rounded up to a multiple of the number of devices."""
    devices = 1 if mesh is None else mesh.size
    return -(-size // devices) * devices


def check_batch_size(size: int, mesh: Mesh, parts: int = 1) -> None:
    """Checks that a training batch can be split evenly over the devices.

    Args:
      size: Of the whole batch.
      mesh: The devices.
      parts: In which the batch is computed, one after the other, each on all devices.

    Raises:
      ConfigError: It cannot; names the nearest sizes that can.
    """
    unit = mesh.size * parts
    above = -(-size // unit) * unit
    if above != size:
        below = above - unit
        nearest = f"{below} or {above}" if below else str(above)
        times = f" times train.accumulate={parts}" if parts > 1 else ""
        raise ConfigError(
            f"train.batch_size={size}: must be a multiple of the {mesh.size} devices{times}, such "
            f"as {nearest}"
        )


def is_first_process() -> bool:
    """Whether this process prints and writes the reports."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_process_first(what: str) -> Iterator[None]:
    """Runs a block in the first process, then in the others, which find its result.

    Args:
      what: A name for the block, the same in every process.
    """
    if not is_first_process():
        multihost_utils.sync_global_devices(what)
    yield
    if is_first_process():
        multihost_utils.sync_global_devices(what)


def check_same(what: str, text: str) -> None:
    """Checks that every process has the same text.

    Args:
      what: What the text is, for the error.
      text: For example a config, or the sha256 of the data.

    Raises:
      UserError: The text differs from that of the first process.
    """
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    if not np.array_equal(multihost_utils.broadcast_one_to_all(own), own):
        raise UserError(f"process {jax.process_index()}: its {what} differs from that of process 0")


def total(number: int) -> int:
    """The sum of a number over all processes."""
    return int(multihost_utils.process_allgather(np.int32(number)).sum())


def agreed(number: int) -> int:
    """Process 0's value of `number`, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
