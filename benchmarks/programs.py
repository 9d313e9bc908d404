"""Compiles a config's step for a device that this machine lacks, and prints what it costs.

    python -m benchmarks.programs --config cifar10 --target h100 --config.model.dtype=bfloat16

XLA's compilers run without their devices: `pip install 'jax[cuda12]'` installs the one for GPUs,
`pip install 'jax[tpu]'` the one for TPUs. The output is the number of kernels (GPU) or the
compiler's estimate of cycles (TPU), the bytes moved, memory, collectives and the costliest
operations by layer; no time is measured. Autotuning is off, so the convolution algorithms that a
GPU would choose are not known.
"""

import argparse
import collections
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.hlo import COLLECTIVES, Kernel, Program
from benchmarks.targets import COMPILERS, TARGETS, Target


def main(argv: list[str]) -> int:
    """Compiles and prints; the exit status is 2 without the compiler or with a wrong config."""
    parser = argparse.ArgumentParser(prog="benchmarks.programs", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--work", choices=["training", "evaluation"], default="training")
    parser.add_argument(
        "--top", type=int, default=15, help="how many of the costliest operations to list"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--text", type=Path, help="file for the text of the compiled program")
    arguments, rest = parser.parse_known_args(argv)
    target = TARGETS[arguments.target]
    package, extra = COMPILERS[target.platform]
    if importlib.util.find_spec(package) is None:
        print(f"error: {target.name}: needs pip install 'jax[{extra}]'", file=sys.stderr)
        return 2
    os.environ.update(target.environment())  # before JAX is imported
    from benchmarks import absent_device
    from googlenet_jax.errors import UserError

    try:
        program, flops = absent_device.compile_program(
            target, arguments.devices, arguments.work, rest
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = program.as_text()
    if arguments.text:
        arguments.text.write_text(text)
    found = describe(target, Program(text), program, flops)
    found |= {"target": target.name, "devices": arguments.devices, "arguments": argv}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    print(render(target, found, arguments.top))
    return 0


def describe(target: Target, program: Program, compiled: Any, flops: float) -> dict[str, Any]:
    """The costs of a step and of a call on one device, and its memory, as JSON values."""
    step = program.loop or program.entry
    memory = compiled.memory_analysis()
    arguments, working = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    needed = arguments + working + memory.output_size_in_bytes - memory.alias_size_in_bytes
    found: dict[str, Any] = {
        "flops": flops,
        "bytes": sum(kernel.bytes for kernel in step),
        "arguments_bytes": arguments,
        "working_bytes": working,
        "fits": needed <= target.memory,
        "collectives": collectives(step),
        "costliest": costliest(step),
    }
    if target.platform == "tpu":
        costs = compiled.cost_analysis()
        found |= {
            "bytes": costs["bytes accessed"],
            "cycles": sum(kernel.cycles for kernel in step),
            "cycles_of_a_call": sum(kernel.cycles for kernel in program.entry)
            if program.loop
            else 0,
        }
        if target.clock:
            found["milliseconds_estimated"] = 1e3 * found["cycles"] / target.clock
    else:  # not for a TPU, whose copies between memories are no kernels
        found["kernels"] = len(step)
    found["milliseconds_of_products"] = flops / target.tflops / 1e9
    found["milliseconds_of_bandwidth"] = 1e3 * found["bytes"] / target.bandwidth
    return found


def collectives(kernels: list[Kernel]) -> dict[str, dict[str, int]]:
    """The number of collectives of each kind, and the bytes of their operands and results."""
    found: dict[str, dict[str, int]] = {}
    for kernel in kernels:
        for name in COLLECTIVES:
            if kernel.kind in (name, f"{name}-start"):
                sums = found.setdefault(name, {"number": 0, "bytes": 0})
                sums["number"] += 1
                sums["bytes"] += kernel.bytes
    return found


def costliest(kernels: list[Kernel]) -> list[dict[str, Any]]:
    """Sums by layer and kind, sorted by cycles, then by bytes, the largest first."""
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for kernel in kernels:
        total = sums[kernel.layer, kernel.kind]
        total[0] += 1
        total[1] += kernel.bytes
        total[2] += kernel.cycles
    rows = [
        {"layer": layer, "kind": kind, "number": number, "bytes": moved, "cycles": cycles}
        for (layer, kind), (number, moved, cycles) in sums.items()
    ]
    return sorted(rows, key=lambda row: (row["cycles"], row["bytes"]), reverse=True)


def render(target: Target, found: dict[str, Any], top: int) -> str:
    """The costs as text."""
    lines = [f"{target.name}, {found['devices']} device{'s' * (found['devices'] > 1)}"]
    lines.append(f"{found['flops'] / 1e9:,.0f} GFLOP a step")
    if "kernels" in found:
        lines.append(f"{found['kernels']:,} kernels a step")
    else:
        cycles = f"{found['cycles'] / 1e6:,.2f} M cycles a step by XLA's estimate"
        if found["cycles_of_a_call"]:
            cycles += f", and {found['cycles_of_a_call'] / 1e6:,.2f} M a call"
        lines.append(cycles)
    lines += [
        f"{found['bytes'] / 1e9:,.2f} GB moved a step",
        f"{found['arguments_bytes'] / 1e6:,.0f} MB of arguments, "
        f"{found['working_bytes'] / 1e6:,.0f} MB of working memory: "
        f"{'fits' if found['fits'] else 'does not fit'}",
    ]
    lines += [
        f"{found[key]:.2f} ms {key.removeprefix('milliseconds_').replace('_', ' ')}"
        for key in found
        if key.startswith("milliseconds_")
    ]
    lines += [
        f"{name}: {sums['number']}, {sums['bytes'] / 1e6:,.1f} MB"
        for name, sums in found["collectives"].items()
    ]
    lines += ["", f"{'number':>6} {'MB':>9} {'k cycles':>9}  layer, kind"]
    lines += [
        f"{row['number']:6d} {row['bytes'] / 1e6:9.1f} {row['cycles'] / 1e3:9.1f}  "
        f"{row['layer'] or '-'}, {row['kind']}"
        for row in found["costliest"][:top]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
