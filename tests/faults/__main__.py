"""Kills and faults by the hundred, each followed by the same command again.

    python -m tests.faults --kills 200 --faults 200 --jobs 2 --out runs/faults

A case that has ended is a line in the folder; the same command goes on with those that have not.
Each run must then end equal to the bit to one that nothing disturbed, or be refused in one line
with nothing touched. Exit status 1: one did something else.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RIGHT = ("equal", "refused, untouched")


def main() -> None:
    """Runs what is missing, and prints a table."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--out", type=Path, required=True, help="where all is kept")
    parser.add_argument("--case", help="run this one alone, such as kill-7, and keep its folder")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    cases = [f"kill-{i}" for i in range(arguments.kills)]
    cases += [f"fault-{i}" for i in range(arguments.faults)]
    if arguments.case:
        os.environ.update(environment(out))  # before JAX is imported
    if arguments.worker is not None or arguments.case:
        work(arguments, out, [arguments.case] if arguments.case else cases)
        return
    if not arguments.table:
        refuse_other_sources(out)
        command = [sys.executable, "-m", "tests.faults", *sys.argv[1:], "--worker"]
        base = [] if (out / "base/base.json").exists() else ["-1"]
        for workers in (base, map(str, range(arguments.jobs))):
            processes = [
                subprocess.Popen([*command, worker], cwd=ROOT, env=environment(out))
                for worker in workers
            ]
            statuses = [process.wait() for process in processes]
            if any(statuses):
                sys.exit(1)
    sys.exit(report(out))


def refuse_other_sources(out: Path) -> None:
    """Ends a command whose folder was begun with other sources: their runs have other bits."""
    paths = sorted([*ROOT.glob("googlenet_jax/**/*.py"), *ROOT.glob("train/*.py")])
    here = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    noted = out / "sources"
    if noted.exists() and noted.read_text() != here:
        sys.exit(f"--out={out}: was begun with other sources; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    noted.write_text(here)


def environment(out: Path) -> dict[str, str]:
    """Of the lives: programs that are compiled quickly, once for all of them."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "MPLCONFIGDIR": str(out / "matplotlib"),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(ROOT),
    }


def work(arguments: argparse.Namespace, out: Path, cases: list[str]) -> None:
    """What one process does: it makes the base, or every n-th case that is missing."""
    from tests.faults import lives
    from tests.faults.cases import FAULTS, KILLS, Base, choose, make_base, run_case

    lives.prepare()
    base_folder = out / "base"
    if arguments.worker == -1:
        base_folder.mkdir(parents=True, exist_ok=True)
        make_base(base_folder)
        return
    base = Base(base_folder, **json.loads((base_folder / "base.json").read_text()))
    done = {line["case"] for line in lines(out) if line["seed"] == arguments.seed}
    if not arguments.case:
        cases = [case for case in cases[arguments.worker :: arguments.jobs] if case not in done]
    for case in cases:
        rng = random.Random(f"{arguments.seed} {case}")
        kind = choose(KILLS if case.startswith("kill") else FAULTS, rng)
        folder = out / case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.monotonic()
        try:
            outcome = run_case(kind, rng, base, folder)
        except Exception as error:  # what a run leaves cannot be read, for example
            outcome = f"{type(error).__name__}: {error}"[:300]
        line = {"case": case, "kind": kind, "outcome": outcome, "seed": arguments.seed}
        line |= {"seconds": round(time.monotonic() - started, 1)}
        if arguments.case:
            print(json.dumps(line))
            return
        append(out / f"cases-{arguments.worker}.jsonl", line)
        if outcome in RIGHT:
            shutil.rmtree(folder)


def append(path: Path, line: dict) -> None:
    """Adds a line; one that an earlier process could not end is cut off."""
    before = path.read_text() if path.exists() else ""
    path.write_text(before[: before.rfind("\n") + 1] + json.dumps(line) + "\n")


def lines(out: Path) -> list[dict]:
    """The cases that have ended."""
    files = sorted(out.glob("cases-*.jsonl"))
    whole = [
        line for file in files for line in file.read_text().splitlines(True) if line[-1] == "\n"
    ]
    return [json.loads(line) for line in whole]


def report(out: Path) -> int:
    """Prints a table of kinds and outcomes; returns the exit status."""
    found = lines(out)
    counts = collections.Counter((line["kind"], line["outcome"]) for line in found)
    print("| what happens | cases | equal to the bit | refused, untouched | wrong |")
    print("|---|---|---|---|---|")
    for kind in sorted({line["kind"] for line in found}):
        row = [counts[kind, outcome] for outcome in RIGHT]
        total = sum(count for (each, _), count in counts.items() if each == kind)
        print(f"| {kind} | {total} | {row[0]} | {row[1]} | {total - sum(row)} |")
    wrong = [line for line in found if line["outcome"] not in RIGHT]
    seconds = sum(line["seconds"] for line in found)
    print(f"\n{len(found)} cases, {len(wrong)} wrong, {seconds / 60:.0f} minutes, added up")
    for line in wrong:
        print(f"{line['case']}: {line['kind']}: {line['outcome']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
