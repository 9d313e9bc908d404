"""Injects hundreds of kills and faults into programs, and runs each command again.

    python -m tests.faults --kills 200 --faults 200 --reads 20 --jobs 2 --out runs/faults

Each finished case is a line in the output folder; the same command again runs only the rest.
The second run of a case must be bit-identical to an undisturbed run, or be refused with a
one-line error and no file changed. Otherwise the exit status is 1.
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
    """Runs the missing cases and prints a table."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument(
        "--reads", type=int, default=20, help="runs that are loaded while they save"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--case", help="run only this one, such as kill-7, and keep its folder")
    parser.add_argument("--table", action="store_true", help="print the results, run nothing")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    cases = [f"kill-{i}" for i in range(arguments.kills)]
    cases += [f"fault-{i}" for i in range(arguments.faults)]
    cases += [f"read-{i}" for i in range(arguments.reads)]
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
    """Exits if the folder holds results of other sources, whose runs may have other bits."""
    paths = sorted([*ROOT.glob("googlenet_jax/**/*.py"), *ROOT.glob("train/*.py")])
    here = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    noted = out / "sources"
    if noted.exists() and noted.read_text() != here:
        sys.exit(f"--out={out}: was begun with other sources; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    noted.write_text(here)


def environment(out: Path) -> dict[str, str]:
    """Returns the environment of the programs: fast compilation and a shared cache."""
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
    """Makes the undisturbed base run (worker -1), or runs every n-th missing case."""
    from tests.faults import lives
    from tests.faults.cases import KINDS, Base, choose, make_base, run_case

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
        kind = choose(KINDS[case.partition("-")[0]], rng)
        folder = out / case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.monotonic()
        try:
            outcome = run_case(kind, rng, base, folder)
        except Exception as error:  # for example unreadable files
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
    """Appends a line, after removing an incomplete last line."""
    before = path.read_text() if path.exists() else ""
    path.write_text(before[: before.rfind("\n") + 1] + json.dumps(line) + "\n")


def lines(out: Path) -> list[dict]:
    """Returns the results of the finished cases."""
    files = sorted(out.glob("cases-*.jsonl"))
    whole = [
        line for file in files for line in file.read_text().splitlines(True) if line[-1] == "\n"
    ]
    return [json.loads(line) for line in whole]


def report(out: Path) -> int:
    """Prints a table of kinds and outcomes and returns the exit status."""
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
