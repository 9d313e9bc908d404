"""Kills and faults of a run, an export and a report. The seed determines each case."""

import dataclasses
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import lives
from tests.faults.lives import Ended, live

SAMPLE = str(Path(__file__).parents[2] / "googlenet_jax/storage/pretrained/digits/samples/3.png")
KILLS = {
    "a run is killed at a moment": 3,
    "a run is killed at a change of a file": 4,
    "a run is killed three times": 2,
    "an export is killed": 1,
    "a report is killed": 1,
}
FAULTS = {
    "SIGTERM": 2,
    "SIGINT": 2,
    "SIGTERM twice": 1,
    "SIGINT twice": 1,
    "SIGSTOP, SIGCONT": 1,
    "ENOSPC": 2,
    "EIO": 2,
    "EACCES": 2,
    "files may not grow": 1,
    "a file is truncated": 2,
    "a bit of a file is flipped": 2,
    "a file is deleted": 2,
    "a folder is half removed": 1,
    "an export is damaged": 2,
}

READ = "a run is read while it saves"
KINDS = {"kill": KILLS, "fault": FAULTS, "read": {READ: 1}}


@dataclasses.dataclass(frozen=True)
class Base:
    """The results of undisturbed programs.

    Attributes:
      folder: Holds a finished run ("run"), its export ("export") and its report ("report").
      result: `lives.result` of the run.
      seconds: Duration of each program.
      changes: Number of file changes that each program makes.
      prediction: What `train.predict` prints with the export.
    """

    folder: Path
    result: str
    seconds: dict[str, float]
    changes: dict[str, int]
    prediction: str


def make_base(folder: Path) -> Base:
    """Runs every program twice and keeps the second: the first fills the compilation cache."""
    note = folder / "changes"
    seconds, changes = {}, {}
    for _ in range(2):
        for name in ("run", "export", "report"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for program, arguments, changed in _programs(folder):
            note.unlink(missing_ok=True)
            count = lives.count_changes(folder / changed, note)
            ended = live(program, arguments, folder, count)
            if ended.status or ended.errors:
                raise SystemExit(f"undisturbed, {program} ends with {ended.status}: {ended.errors}")
            seconds[program], changes[program] = ended.seconds, note.stat().st_size
    predicted = live("train.predict", ["--model", str(folder / "export"), SAMPLE], folder)
    if predicted.status or predicted.errors:
        raise SystemExit(f"undisturbed, train.predict ends with {predicted.errors}")
    values = {
        "seconds": seconds,
        "changes": changes,
        "result": lives.result(folder / "run"),
        "prediction": (folder / "stdout").read_text(),
    }
    (folder / "base.json").write_text(json.dumps(values))
    return Base(folder, **values)


def _programs(folder: Path) -> list[tuple[str, list[str], str]]:
    run, export, report = (str(folder / name) for name in ("run", "export", "report"))
    return [
        ("train.main", [*lives.TRAIN, "--workdir", run], "run"),
        ("train.export", ["--workdir", run, "--out", export], ""),
        ("train.report", [run, "--out", report], ""),
    ]


def choose(kinds: dict[str, int], rng: random.Random) -> str:
    """Draws a kind with probability proportional to its weight."""
    return rng.choices([*kinds], [*kinds.values()])[0]


def run_case(kind: str, rng: random.Random, base: Base, folder: Path) -> str:
    """Runs a case. Returns "equal", "refused, untouched", or what went wrong."""
    if kind in ("an export is killed", "a report is killed"):
        return _kill_other(kind.split()[1], rng, base, folder)
    if kind == "an export is damaged":
        return _damage_export(rng, base, folder)
    workdir = folder / "run"
    again = ("train.main", [*lives.TRAIN, "--workdir", str(workdir)], folder)
    damage = DAMAGES.get(kind)
    if damage:
        if rng.random() < 0.5:  # half of the runs are finished
            shutil.copytree(base.folder / "run", workdir)
        else:
            live(*again, _kill_at(rng, base, workdir))
        if not workdir.exists():
            workdir.mkdir()
        damage(rng, workdir)
    else:
        for first in _disturbed(kind, rng, base, workdir, again):
            if unsound := first.unsound():
                return unsound
    before = lives.contents(workdir) if workdir.exists() else ""
    ended = live(*again)
    if unsound := ended.unsound():
        return unsound
    if ended.status == 2 and damage:
        return "refused, untouched" if lives.contents(workdir) == before else "refused, touched"
    if ended.status:
        return f"exit {ended.status}: {ended.errors[:300]}"
    if kind == READ and not (folder / "loads").stat().st_size:
        return "was not loaded"
    found = lives.result(workdir, are_all_whole=not damage)
    return "equal" if found == base.result else f"another result: {found[:200]}"


def _kill_at(rng: random.Random, base: Base, workdir: Path) -> Callable[[], None]:
    number = rng.randint(1, base.changes["train.main"])
    return lives.die_at(number, workdir)


def _disturbed(kind: str, rng: random.Random, base: Base, workdir: Path, again: Any) -> list[Ended]:
    """Runs the disturbed programs of a case and returns how they ended."""
    seconds = base.seconds["train.main"]
    if kind == "a run is killed at a moment":
        return [live(*again, meddle=lives.send(rng, seconds, signal.SIGKILL))]
    if kind == "a run is killed at a change of a file":
        return [live(*again, _kill_at(rng, base, workdir))]
    if kind == "a run is killed three times":
        return [live(*again, _kill_at(rng, base, workdir)) for _ in range(3)]
    if kind == READ:
        return [live(*again, lives.read_meanwhile(workdir))]
    if kind.startswith("SIG"):
        names = kind.replace(" twice", "").split(", ")
        signals = [signal.Signals[name] for name in names] * (1 + kind.endswith("twice"))
        return [live(*again, meddle=lives.send(rng, seconds, *signals))]
    if kind == "files may not grow":
        size = round(10 ** rng.uniform(1, 5))
        return [live(*again, lambda: lives.limit_files(size))]
    number = rng.randint(1, base.changes["train.main"])
    return [live(*again, lives.refuse_at(number, workdir, lives.ERRORS[kind]))]


def _kill_other(name: str, rng: random.Random, base: Base, folder: Path) -> str:
    """Kills an export or a report. A second run, if one is needed, must complete it."""
    program, out = f"train.{name}", folder / name
    source = str(base.folder / "run")
    arguments = [*(["--workdir", source] if name == "export" else [source]), "--out", str(out)]
    number = rng.randint(1, base.changes[program] + 1)
    first = live(program, arguments, folder, lives.die_at(number, folder))
    if unsound := first.unsound():
        return unsound
    if not (out.exists() and name == "export"):
        ended = live(program, arguments, folder)
        if ended.status or ended.errors:
            return f"exit {ended.status}: {ended.errors[:300]}"
    if name == "report":
        found = {path.name for path in out.iterdir()}
        expected = {path.name for path in (base.folder / "report").iterdir()}
        return "equal" if found == expected else f"files of the report: {sorted(found ^ expected)}"
    same = all(
        (out / file).read_bytes() == (base.folder / "export" / file).read_bytes()
        for file in ("model.safetensors", "model.jaxexport")
    )
    return "equal" if same and (out / "config.json").exists() else "ANOTHER RESULT"


def _damage_export(rng: random.Random, base: Base, folder: Path) -> str:
    """Damages an export. Reading it must be refused, unless the damaged file is not needed."""
    shutil.copytree(base.folder / "export", folder / "export")
    damage = rng.choice([_truncate, _flip, _delete])
    name = damage(rng, folder / "export")
    before = lives.contents(folder / "export")
    ended = live("train.predict", ["--model", str(folder / "export"), SAMPLE], folder)
    if unsound := ended.unsound():
        return unsound
    if lives.contents(folder / "export") != before:
        return "touched"
    if ended.status == 2:
        return "refused, untouched"
    # Prediction needs neither the model card nor the exported program.
    is_gone = not (folder / "export" / name).exists()
    is_whole = name == "README.md" or (name == "model.jaxexport" and is_gone)
    said = (folder / "stdout").read_text()
    if ended.status == 0 and is_whole and said == base.prediction:
        return "equal"
    return f"{name}: read with exit {ended.status}: {said[:100]}"


def _some_file(rng: random.Random, folder: Path) -> Path | None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return rng.choice(files) if files else None


def _truncate(rng: random.Random, folder: Path) -> str:
    if path := _some_file(rng, folder):
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content) or 1)])
    return path.name if path else ""


def _flip(rng: random.Random, folder: Path) -> str:
    if (path := _some_file(rng, folder)) and (content := bytearray(path.read_bytes())):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    return path.name if path else ""


def _delete(rng: random.Random, folder: Path) -> str:
    if path := _some_file(rng, folder):
        path.unlink()
    return path.name if path else ""


def _half_remove(rng: random.Random, folder: Path) -> str:
    places = [path for path in sorted(folder.rglob("*")) if path.is_dir()] or [folder]
    chosen = rng.choice(places)
    for path in sorted(chosen.rglob("*"), reverse=True):
        if path.is_file() and rng.random() < 0.5:
            path.unlink()
    return chosen.name


DAMAGES = {
    "a file is truncated": _truncate,
    "a bit of a file is flipped": _flip,
    "a file is deleted": _delete,
    "a folder is half removed": _half_remove,
}
