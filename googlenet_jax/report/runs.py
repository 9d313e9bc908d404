"""The runs of a report: read from their working directories, grouped by config, ranked."""

import dataclasses
import itertools
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax

from googlenet_jax import fileio
from googlenet_jax.config import Config
from googlenet_jax.data import DatasetInfo
from googlenet_jax.errors import CheckpointError, UserError
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage.checkpoint import Checkpoints, Record, rank
from googlenet_jax.storage.loading import abstract_state, read_checkpoints, read_info
from googlenet_jax.storage.summary import best_entry, selection_metrics, selection_split
from googlenet_jax.storage.workdir import check_recorded, read_config

WITHOUT_EFFECT = {name for name, field, _ in Config().options() if field.metadata["resumable"]} - {
    "train.epochs",
    "train.steps",
}
"""Settings that change no figure of a run, and so keep no two runs apart."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a working directory says of its run.

    Attributes:
      name: short, and another one for each run of a report.
      workdir: as it was given.
      config: of the run.
      history: as its newest checkpoint has it, with proof: of metrics.jsonl anybody could have
        changed a line; at least one of which has been evaluated.
      info: of its images and classes.
      provenance: of its data.
      device: its kind; empty before the run has ended.
      warnings: of its epochs, see `report.health`.
    """

    name: str
    workdir: WorkdirPath
    config: Config
    history: list[dict[str, Any]]
    info: DatasetInfo
    provenance: dict[str, Any]
    device: str
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> dict[str, Any]:
        """The best epoch's line."""
        return best_entry(self.history)

    @property
    def final(self) -> dict[str, Any]:
        """The last epoch's line; it lacks the figures of an evaluation that is yet to come."""
        return self.history[-1]

    @property
    def seconds(self) -> float:
        """Of all epochs, evaluation included."""
        return sum(entry["seconds"] for entry in self.history)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that makes another run of it, but for the seed."""
        options = ((name, value) for name, _, value in self.config.options())
        return {name: value for name, value in options if name not in {"seed", *WITHOUT_EFFECT}}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
      mean: of the values.
      std: sample standard deviation, with n - 1; None of a single value.
    """

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
      runs: in the order of their seeds.
      parameters: trainable numbers of the network.
    """

    runs: list[Run]
    parameters: int

    @property
    def name(self) -> str:
        """The name of its first run, which stands for all."""
        return self.runs[0].name

    @property
    def representative(self) -> Run:
        """The run that is best on the split that best is chosen on."""
        return max(self.runs, key=lambda run: rank(selection_metrics(run.best) or {}))

    def best(self, name: str) -> Spread:
        """A figure such as "test_accuracy" at each run's best epoch."""
        return Spread.of([run.best[name] for run in self.runs])

    def final(self, name: str) -> Spread | None:
        """The same at each run's last epoch; None where one of them was not evaluated there."""
        values = [run.final[name] for run in self.runs if name in run.final]
        return Spread.of(values) if len(values) == len(self.runs) else None


def read_groups(workdirs: Sequence[WorkdirPath]) -> list[Group]:
    """The runs of working directories, grouped, the best group first (see `deciding_split`).

    Args:
      workdirs: at least one.

    Raises:
      UserError: one holds no run that was evaluated, or they cannot be compared.
    """
    # Unlike Path.resolve, realpath takes links that lead in a circle.
    resolved = [
        Path(os.path.realpath(path)) if isinstance(path, Path) else path for path in workdirs
    ]
    for i, workdir in enumerate(workdirs):
        if resolved[i] in resolved[:i]:
            raise UserError(f"{workdir}: given twice")
    short = [path.name for path in resolved]
    names = short if len(set(short)) == len(short) else [str(workdir) for workdir in workdirs]
    runs = [read_run(workdir, name) for workdir, name in zip(workdirs, names, strict=True)]
    for run in runs[1:]:
        check_comparable(runs[0], run)
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(run.settings), []).append(run)
    groups = [_group(each) for each in members.values()]
    deciding = f"{deciding_split(groups)}_accuracy"
    return sorted(groups, key=lambda group: group.best(deciding).mean, reverse=True)


def deciding_split(groups: Sequence[Group]) -> str:
    """The split that ranks groups: validation where all of them have one, else test."""
    has_all = all(selection_split(run.best) == "valid" for group in groups for run in group.runs)
    return "valid" if has_all else "test"


def read_run(workdir: WorkdirPath, name: str) -> Run:
    """A run that has a checkpoint and an evaluated epoch.

    Raises:
      UserError: it has none, or a file of it is damaged.
    """
    config = read_config(workdir)

    def read(checkpoints: Checkpoints) -> tuple[Record, Record]:
        best, newest = (checkpoints.read_record(checkpoints.resolve(n)) for n in ("best", "latest"))
        return best, newest

    record, newest = read_checkpoints(workdir, read)
    check_recorded(workdir, config, record.config)
    try:
        best_entry(newest.history)
        float(sum(entry["seconds"] for entry in newest.history))
        warnings = tuple(map(str, newest.warnings.values()))
    except IndexError:
        raise CheckpointError(f"{workdir}: no epoch has been evaluated") from None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{workdir}: its checkpoint holds no history of a run") from error
    try:
        device = str(fileio.read_json(workdir / "summary.json")["device"]["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        device = ""
    info = read_info(workdir, record)
    return Run(name, workdir, config, newest.history, info, record.provenance, device, warnings)


def check_comparable(first: Run, second: Run) -> None:
    """Checks that two runs were measured on the same images.

    Raises:
      UserError: they were not.
    """
    for what, one, other in (
        ("data set", first.info.name, second.info.name),
        ("classes", first.info.class_names, second.info.class_names),
        ("data's sha256", identity(first.provenance), identity(second.provenance)),
    ):
        if one != other:
            shown = f" ({one} and {other})" if isinstance(one, str) else ""
            raise UserError(
                f"{first.workdir} and {second.workdir}: not comparable, their {what} differ{shown}"
            )


def identity(provenance: dict[str, Any]) -> str:
    """What two sources of the same images have in common."""
    # The official ones have several sums: those of a binary and of a Python archive.
    return "official" if provenance["official"] else str(provenance["sha256"])


def _group(runs: list[Run]) -> Group:
    runs = sorted(runs, key=lambda run: run.config.seed)
    for one, other in itertools.pairwise(runs):
        if one.config.seed == other.config.seed:
            raise UserError(
                f"{one.workdir} and {other.workdir}: the same run twice "
                f"(one config, seed {one.config.seed})"
            )
    params = abstract_state(runs[0].config, runs[0].info).params
    return Group(runs, sum(leaf.size for leaf in jax.tree.leaves(params)))


def differing(groups: Sequence[Group]) -> list[str]:
    """The names of the settings in which groups differ."""
    first, *others = [group.runs[0].settings for group in groups]
    return [name for name in first if any(other[name] != first[name] for other in others)]


def shared(groups: Sequence[Group]) -> dict[str, Any]:
    """The settings that all groups share and that are not the defaults."""
    apart = differing(groups)
    defaults = {name: value for name, _, value in Config().options()}
    settings = groups[0].runs[0].settings.items()
    return {n: value for n, value in settings if n not in apart and value != defaults[n]}


def standard_error(accuracy: float, examples: int) -> float:
    """Of an accuracy that was measured on so many images: the binomial one."""
    return math.sqrt(accuracy * (1 - accuracy) / examples)
