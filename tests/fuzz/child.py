"""Reads inputs in a process of its own: `python -m tests.fuzz.child TARGET OUT SEED`.

The input numbers come from stdin. It prints one line of JSON when it is ready, and one per input.
"""

import contextlib
import gc
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from googlenet_jax.errors import UserError, one_line, printable
from tests.fuzz import mutate, targets
from train import console

SECONDS = 5.0  # of CPU time, which does not depend on the load of the machine
WALL_SECONDS = 10.0
BYTES = 2**30  # memory limit of one input
FINE = ("refused", "same", "changed")
FAILED = 70  # exit status if the fuzzer itself fails
ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / name) + os.sep for name in ("googlenet_jax", "train", "tests"))

HARM = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
_harm: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: records actions that no reader of data needs."""
    if event in HARM:
        _harm.append(f"{event} {str(arguments)[:100]}")


class Importer:
    """Records imports of modules that only an input names."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Finds nothing."""
        if name.startswith("fuzz_evil"):
            _harm.append(f"import {name}")


class SlowError(BaseException):
    """The input took too long. `except Exception` does not catch it."""


def too_slow(number: int, frame: Any) -> None:
    """Signal handler of the time limits."""
    raise SlowError


def samples(name: str, out: Path) -> dict[str, dict[str, bytes]]:
    """Returns the files of each sample of a target; makes the samples if missing."""
    folder = out / "samples" / name
    if not folder.exists():
        new = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        targets.find(name).make(new)
        new.rename(folder)
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sample, _, name = path.relative_to(folder).as_posix().partition("/")
            found.setdefault(sample, {})[name] = path.read_bytes()
    return found


def choose(
    name: str, seed: int, index: int, found: dict[str, dict[str, bytes]]
) -> tuple[str, str, bytes | str]:
    """Returns a sample, one of its files, and its new content or the kind of its replacement."""
    target, rng = targets.find(name), random.Random(f"{seed} {name} {index}")
    sample = rng.choice(list(found))
    mutations = {file: mutation_of(target, file) for file in found[sample]}
    file = rng.choice([file for file in mutations if mutations[file]])
    if target.is_file and rng.random() < 0.02:
        return sample, file, rng.choice(["absent", "empty", "folder", "pipe", "loop", "device"])
    return sample, file, mutations[file](rng, found[sample][file])  # type: ignore[misc]


def mutation_of(target: targets.Target, name: str) -> mutate.Mutation | None:
    """Returns the mutation for a file of that name, or None."""
    for part, mutation in target.mutations.items():
        if name.endswith(part) or (part.endswith("/") and part in f"/{name}"):
            return mutation
    return None


def place(path: Path, content: bytes | str) -> None:
    """Replaces a file by new content, or by something that is not a regular file."""
    remove(path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "empty":
        path.touch()
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "loop":
        path.symlink_to(path.name)
    elif content == "device":
        path.symlink_to("/dev/zero")


def remove(path: Path) -> None:
    """Removes a file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Limits the time, and the memory beyond what the process has now.

    The limit is on address space, so an allocation fails before any memory is filled.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def outcome(target: targets.Target, folder: Path, same: str | None) -> tuple[str, str]:
    """Reads a sample and returns the kind of outcome and a detail.

    Args:
      target: The sample's target.
      folder: The sample's folder.
      same: The answer for the undamaged sample; None to find it out.
    """
    try:
        # The first read also loads libraries, so it has no limits.
        with limits() if same is not None else contextlib.nullcontext():
            found = repr(target.read(folder))
    except SlowError:
        return "slow", ""
    except BaseException as error:
        chain: list[BaseException] = [error]
        while inner := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(inner)
        if any(isinstance(each, SlowError) for each in chain):
            return "slow", ""
        if any(isinstance(each, MemoryError) for each in chain):
            return "memory", printable(error)[:200]
        if not isinstance(error, UserError):
            frames = traceback.extract_tb(error.__traceback__)
            where = [f for f in frames if f.filename.startswith(OURS)][-1]
            what = f"{type(error).__name__}: {printable(error)[:200]}"
            return "traceback", f"{Path(where.filename).name}:{where.lineno} {what}"
        return "refused", one_line(error)[:300]
    if same is None or found == same:
        return "same", found
    return "changed", ""


def main(name: str, out: Path, seed: int) -> None:
    """Reads the inputs whose numbers are on stdin."""
    indices = json.loads(sys.stdin.read())
    answers, complaints = os.fdopen(os.dup(1), "w"), os.dup(2)
    work = out / "work" / f"{name}.{os.getpid()}"
    # Readers must not print between the lines of the answers.
    with Path(f"{work}.printed").open("wb+") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
        console.mute_libraries()
        # What the library itself logs is meant to be read; `console` prints it in one line.
        logging.getLogger("googlenet_jax").setLevel(logging.CRITICAL)
        sys.unraisablehook = console.take_lost
        sys.addaudithook(watch)
        sys.meta_path.insert(0, Importer())  # type: ignore[arg-type]
        try:
            for answer in answer_all(name, out, work, seed, indices, printed.fileno()):
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
                if "ready" in answer or answer.get("index", 1) % 100 == 0:
                    # A failed read collects garbage (`errors.no_logging`), and need not look at
                    # the libraries' objects and at what they have cached.
                    gc.collect()
                    gc.freeze()
        except Exception:
            os.dup2(complaints, 2)
            traceback.print_exc()
            os._exit(FAILED)
    shutil.rmtree(work)
    Path(f"{work}.printed").unlink()


def answer_all(
    name: str, out: Path, work: Path, seed: int, indices: list[int], printed: int
) -> Iterator[dict[str, Any]]:
    """Yields {"ready": ...} after making the samples, then an answer for each input."""
    target = targets.find(name)
    found = samples(name, out)
    shutil.copytree(out / "samples" / name, work)
    signal.signal(signal.SIGPROF, too_slow)
    signal.signal(signal.SIGALRM, too_slow)
    same = {}
    for sample in found:
        kind, same[sample] = outcome(target, work / sample, None)
        if kind != "same":
            yield {"broken": f"{sample}: {kind}: {same[sample]}"}
    yield {"ready": len(found)}
    for index in indices:
        sample, file, content = choose(name, seed, index, found)
        folder = work / sample
        place(folder / file, content)
        touched = [file]
        if target.forge and isinstance(content, bytes):
            touched += target.forge(folder)
        before = os.fstat(printed).st_size
        _harm.clear()
        mutate.CALLED.clear()
        started = time.monotonic()
        kind, more = outcome(target, folder, same[sample])
        answer = {"index": index, "seconds": round(time.monotonic() - started, 4)}
        sys.stdout.flush()
        sys.stderr.flush()
        if mutate.CALLED or (_harm and not target.runs_code):
            kind, more = "ran code", "; ".join(_harm) or "call_me"
        elif kind == "changed" and target.is_proven:
            kind = "changed unnoticed"
        elif kind in FINE and os.fstat(printed).st_size > before:
            text = os.pread(printed, 500, before)
            kind, more = "noisy", printable(text.decode(errors="replace"))
        answer |= {"outcome": kind, "more": more if kind != "same" else ""}
        if kind not in FINE:
            answer |= keep(out, f"{name}-{seed}-{index}", sample, file, content)
        yield answer
        for each in touched:
            if each in found[sample]:
                place(folder / each, found[sample][each])
            else:
                remove(folder / each)


def keep(out: Path, name: str, sample: str, file: str, content: bytes | str) -> dict[str, str]:
    """Saves an input that broke a reader, and returns its sample and file."""
    (out / "findings").mkdir(exist_ok=True)
    if isinstance(content, bytes):
        (out / "findings" / name).write_bytes(content)
        return {"sample": sample, "file": file}
    return {"sample": sample, "file": f"{file} ({content})"}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
