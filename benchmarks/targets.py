"""Descriptions of devices for XLA's compilers, which need no device to compile for it.

A TPU's compiler comes with libtpu, a GPU's with JAX's CUDA plugin.
"""

import dataclasses
from typing import Any

COMPILERS = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda12_plugin", "cuda12")}
"""By platform: the module with the compiler, and the extra of JAX that installs it."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A device, by its vendor's data sheet.

    Attributes:
      name: Name of the product.
      platform: "tpu" or "cuda", as in `jax.stages.Traced.lower`.
      tflops: Peak of dense bfloat16 products in TFLOP/s.
      bandwidth: Memory bandwidth in bytes/s.
      memory: Memory in bytes.
      clock: Cycles/s of XLA's estimates; None if not known.
      topologies: TPU only: names of topologies by their number of devices.
      description: GPU only: fields of XLA's `GpuDeviceInfoProto`.
    """

    name: str
    platform: str
    tflops: float
    bandwidth: float
    memory: float
    clock: float | None = None
    topologies: dict[int, str] = dataclasses.field(default_factory=dict)
    description: dict[str, Any] = dataclasses.field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Environment variables to set before JAX is imported."""
        if self.platform == "cuda":
            return {
                "JAX_PLATFORMS": "",
                "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
                # Autotuning needs the device, and without it choosing tiles for Triton fails for
                # some products.
                "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def devices(self, number: int) -> list[Any]:
        """Stand-ins for `number` devices, for use in a mesh.

        Raises:
          ValueError: There is no topology with so many devices.
        """
        from jax.experimental import topologies  # after the environment is set

        if self.platform == "cuda":
            text = description_text(self.name, self.description)
            topology = topologies.get_topology_desc(
                self.name, "cuda", target_config=text, topology=f"1x1x{number}"
            )
            return list(topology.devices)
        wired = [size for size in self.topologies if size >= number]
        if not wired:
            raise ValueError(f"must be at most {max(self.topologies)} for {self.name}")
        layout = self.topologies[min(wired)]
        topology = topologies.get_topology_desc(platform="tpu", topology_name=layout)
        return list(topology.devices)[:number]


def description_text(name: str, fields: dict[str, Any]) -> str:
    """XLA's target configuration of a GPU, as protocol buffer text."""
    info = " ".join(f"{field}: {value}" for field, value in fields.items() if field != "major")
    return (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ major: {fields['major']} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } '
        f'runtime_version {{ major: 12 minor: 8 }} device_description_str: "{name}"'
    )


_GPU = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}


def _gpu(name: str, tflops: float, **own: Any) -> Target:
    bandwidth, memory = own["memory_bandwidth"], own["device_memory_size"]
    return Target(name, "cuda", tflops, bandwidth, memory, description=_GPU | own)


def _tpu(generation: str, layouts: dict[int, str]) -> dict[int, str]:
    return {number: f"{generation}:{layout}" for number, layout in layouts.items()}


TARGETS = {
    "h100": _gpu(
        *("NVIDIA H100 80GB HBM3", 989),
        core_count=132,
        fpus_per_core=128,
        shared_memory_per_core=233472,
        shared_memory_per_block_optin=232448,
        memory_bandwidth=3352320000000,
        l2_cache_size=52428800,
        clock_rate_ghz=1.98,
        device_memory_size=84929347584,
        major=9,
    ),
    "a100": _gpu(
        *("NVIDIA A100-SXM4-80GB", 312),
        core_count=108,
        fpus_per_core=64,
        shared_memory_per_core=167936,
        shared_memory_per_block_optin=166912,
        memory_bandwidth=2039000000000,
        l2_cache_size=41943040,
        clock_rate_ghz=1.41,
        device_memory_size=84987740160,
        major=8,
    ),
    "v4": Target("TPU v4", "tpu", 275, 1.228e12, 32e9, 1.05e9, _tpu("v4", _CUBE)),
    "v5e": Target("TPU v5e", "tpu", 197, 0.819e12, 16e9, 0.94e9, _tpu("v5e", _FLAT)),
    "v5p": Target("TPU v5p", "tpu", 459, 2.765e12, 95e9, None, _tpu("v5p", _CUBE)),
    "v6e": Target("TPU v6e", "tpu", 918, 1.64e12, 32e9, None, _tpu("v6e", _FLAT)),
}
