"""Reads thousands of broken inputs: python -m tests.fuzz --out DIR; see docs/reliability.md."""

import argparse
import collections
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz import child, targets

READY_SECONDS = 600.0  # to import JAX and make samples
INPUTS_OF_A_CHILD = 2500  # then a new process, because libraries leak memory
FAULTS = ("changed unnoticed", "traceback", "slow", "memory", "died", "ran code", "noisy")


def main(argv: list[str]) -> int:
    """Runs the missing inputs; the exit status is 1 if a reader fails."""
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="targets run in parallel")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--target", action="append", choices=[*targets.TARGETS, "itself"])
    parser.add_argument("--only", type=int, help="run one input of one target again, and show it")
    parser.add_argument("--table", action="store_true", help="print the results, run nothing")
    arguments = parser.parse_args(argv)
    names = arguments.target or list(targets.TARGETS)
    out = arguments.out.absolute()
    (out / "work").mkdir(parents=True, exist_ok=True)
    if arguments.only is not None:
        for answer in read(names[0], out, arguments.seed, [arguments.only]):
            print(json.dumps(answer, indent=2))
        return 0
    if not arguments.table:
        indices = range(arguments.inputs)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for name in pool.map(lambda name: run(name, out, arguments.seed, indices), names):
                print(f"done: {name}", file=sys.stderr, flush=True)
    rows = {name: results(out, name, arguments.seed) for name in names}
    print(table(rows))
    return int(any(each["outcome"] in FAULTS for row in rows.values() for each in row.values()))


def results_file(out: Path, name: str, seed: int) -> Path:
    """Returns the path of a target's results."""
    return out / f"{name}-{seed}.jsonl"


def results(out: Path, name: str, seed: int) -> dict[int, dict[str, Any]]:
    """Returns the known results by input number."""
    path = results_file(out, name, seed)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # The last line of a run that was killed may be cut short.
    found = [json.loads(line) for line in lines if line.endswith("}\n")]
    return {each["index"]: each for each in found}


def run(name: str, out: Path, seed: int, indices: Sequence[int]) -> str:
    """Runs the inputs of a target that have no result yet."""
    known = results(out, name, seed)
    left = [index for index in indices if index not in known]
    path = results_file(out, name, seed)
    path.write_text("".join(json.dumps(each) + "\n" for each in known.values()))
    with path.open("a") as file:
        while left:
            done = set()
            for answer in read(name, out, seed, left[:INPUTS_OF_A_CHILD]):
                if "broken" in answer:
                    raise SystemExit(f"{name}: a whole sample is not read: {answer['broken']}")
                if "index" in answer:
                    file.write(json.dumps(answer) + "\n")
                    file.flush()
                    done.add(answer["index"])
            left = [index for index in left if index not in done]
    return name


def read(name: str, out: Path, seed: int, indices: list[int]) -> Iterator[dict[str, Any]]:
    """Yields a child process's answers; if it dies, also one for the input that killed it."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "MALLOC_ARENA_MAX": "2",  # each thread's arena takes 64 MB of the limited address space
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HOME": str(out / "work"),
        "XDG_CACHE_HOME": str(out / "work" / "cache"),
        "TFDS_DATA_DIR": str(out / "work" / "tfds"),
    }
    command = [sys.executable, "-m", "tests.fuzz.child", name, str(out), str(seed)]
    waiting = iter(indices)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=child.ROOT, env=environment, text=True, **pipes) as process:
        assert process.stdin
        assert process.stdout
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            process.kill()

        watchdog = threading.Timer(READY_SECONDS, kill)
        watchdog.start()
        process.stdin.write(json.dumps(indices))
        process.stdin.close()
        is_ready = False
        for line in process.stdout:
            watchdog.cancel()
            answer = json.loads(line)
            is_ready |= "ready" in answer
            if "index" in answer:
                next(waiting)
            yield answer
            watchdog = threading.Timer(1.5 * child.WALL_SECONDS, kill)
            watchdog.start()
        watchdog.cancel()
        status = process.wait()
    if not is_ready or status == child.FAILED:
        raise SystemExit(
            f"{name}: its process ended with status {status} and it is the fuzzer's fault"
        )
    if (index := next(waiting, None)) is not None:
        what = ("slow", "killed") if killed.is_set() else ("died", f"exit status {status}")
        chosen = child.choose(name, seed, index, child.samples(name, out))
        kept = child.keep(out, f"{name}-{seed}-{index}", *chosen)
        yield {"index": index, "seconds": 0.0, "outcome": what[0], "more": what[1], **kept}


def table(rows: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Returns the results as Markdown, and for each kind of fault an input that shows it."""
    kinds = [*child.FINE, *FAULTS]
    lines = [
        f"| target | inputs | {' | '.join(kinds)} | ms an input |",
        "|---|" + "---:|" * (len(kinds) + 2),
    ]
    faults: dict[tuple[str, ...], list[int]] = {}
    for name, found in rows.items():
        counts = collections.Counter(each["outcome"] for each in found.values())
        seconds = sum(each["seconds"] for each in found.values()) / max(len(found), 1)
        cells = [f"{counts[kind]:,}" for kind in kinds]
        lines.append(f"| {name} | {len(found):,} | {' | '.join(cells)} | {seconds * 1000:.1f} |")
        for index, each in sorted(found.items()):
            if each["outcome"] in FAULTS:
                key = (name, each["outcome"], each.get("more", "")[:45])
                faults.setdefault(key, []).append(index)
    lines += [""] * bool(faults)
    lines += [
        f"- {name}, {kind}: {len(indices)} times, first --only {indices[0]}: {more}"
        for (name, kind, more), indices in faults.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
