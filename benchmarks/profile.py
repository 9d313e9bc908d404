"""Where the time of a training step goes, by operation, from a profiler trace.

    python -m benchmarks.profile --batch-size 32
    taskset --cpu-list 0 python -m benchmarks.profile --batch-size 32   # on a CPU: one at a time

Overlapping operations are each counted in full, so on several cores their sum exceeds the step's
time. The names are JAX's primitives; a fusion has the name of its last one.
"""

import argparse
import collections
import re
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import jax_step
from train import allocator

Rows = list[tuple[str, int, float]]
"""(operation, calls, seconds), the longest first."""


def primitives(program: str) -> dict[str, str]:
    """The JAX primitive of each instruction; ", gradient" marks the backward pass.

    Calls are left out: their operations are instructions, too.
    """
    found: dict[str, str] = {}
    for name, rest in re.findall(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$", program, re.MULTILINE):
        if " call(" in rest:
            continue
        source = re.search(r'op_name="([^"]*)"', rest)
        path = source.group(1) if source else ""
        kind = path.rpartition("/")[2] or re.sub(r"[.\d]+$", "", name)
        found[name] = f"{kind}, gradient" if "transpose(" in path else kind
    return found


def spent(trace: Path, operation_of: dict[str, str]) -> Rows:
    """Calls and seconds of each operation in a profiler trace."""
    seconds: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for file in trace.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for event in (event for line in plane.lines for event in line.events):
                name = event.name.partition(" ")[0].lstrip("%")
                if name in operation_of and not name.startswith("while"):
                    seconds[operation_of[name]] += event.duration_ns / 1e9
                    calls[operation_of[name]] += 1
    return [(name, calls[name], total) for name, total in seconds.most_common()]


def main() -> None:
    """Prints a Markdown table of a training step's operations."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rows", type=int, default=20, help="operations to show")
    arguments = parser.parse_args()

    take_steps, program = jax_step.compile_steps(arguments.batch_size, arguments.dtype)
    take_steps(1)  # the first step allocates memory
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            started = time.perf_counter()
            take_steps(1)
            wall = time.perf_counter() - started
        rows = spent(Path(folder), primitives(program.as_text()))
    total = sum(seconds for _, _, seconds in rows)
    print(f"one step: {wall * 1e3:,.0f} ms; sum of its operations: {total * 1e3:,.0f} ms")
    print("| operation | calls | ms | share |")
    print("|---|---|---|---|")
    for name, calls, seconds in rows[: arguments.rows]:
        print(f"| {name} | {calls} | {seconds * 1e3:,.1f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    allocator.restart_tuned()
    main()
