"""The runs of a report: read from their working directories, grouped by config, ranked."""

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from googlenet_jax import fileio
from googlenet_jax.config import Config
from googlenet_jax.data import DatasetInfo
from googlenet_jax.errors import CheckpointError, UserError
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.report.spread import Spread
from googlenet_jax.storage.checkpoint import Checkpoints, Record, rank
from googlenet_jax.storage.loading import abstract_state, read_checkpoints, read_info
from googlenet_jax.storage.summary import best_entry, selection_metrics, selection_split
from googlenet_jax.storage.workdir import check_recorded, read_config

WITHOUT_EFFECT = {name for name, field, _ in Config().options() if field.metadata["resumable"]} - {
    "train.epochs",
    "train.steps",
}
"""Settings that do not change a run's results: runs that differ only in these are one group."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a working directory holds about its run.

    Attributes:
      name: Short, and unique in a report.
      workdir: As given by the user.
      config: The run's config.
      history: Lines of metrics.jsonl with at least one evaluated epoch. Taken from the newest
        checkpoint, whose digest is checked; metrics.jsonl itself may have been edited.
      info: Classes and shape of the images.
      provenance: Source and checksum of the data.
      device: Kind of device; "" before the run has ended.
      warnings: From `training.health`.
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
        """The line of the best epoch."""
        return best_entry(self.history)

    @property
    def final(self) -> dict[str, Any]:
        """The line of the last epoch; it has no test accuracy if it was not evaluated."""
        return self.history[-1]

    @property
    def seconds(self) -> float:
        """Duration of all epochs, evaluation included."""
        return sum(entry["seconds"] for entry in self.history)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that change the results, without the seed."""
        options = ((name, value) for name, _, value in self.config.options())
        return {name: value for name, value in options if name not in {"seed", *WITHOUT_EFFECT}}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
      runs: Ordered by seed.
      parameters: Number of trainable parameters.
    """

    runs: list[Run]
    parameters: int

    @property
    def name(self) -> str:
        """The name of the first run."""
        return self.runs[0].name

    @property
    def representative(self) -> Run:
        """The best run, on the split that chose its best epoch."""
        return max(self.runs, key=lambda run: rank(selection_metrics(run.best) or {}))

    def best(self, name: str) -> Spread:
        """A field of metrics.jsonl, such as "test_accuracy", at the best epoch of each run."""
        return Spread.of([run.best[name] for run in self.runs])

    def final(self, name: str) -> Spread | None:
        """The same at the last epoch of each run; None if one of them was not evaluated there."""
        values = self.by_seed(name)
        return Spread.of([*values.values()]) if len(values) == len(self.runs) else None

    def by_seed(self, name: str) -> dict[int, float]:
        """The same of each run that was evaluated at its last epoch, by its seed."""
        return {run.config.seed: run.final[name] for run in self.runs if name in run.final}


def read_groups(workdirs: Sequence[WorkdirPath]) -> list[Group]:
    """Reads at least one run and groups them, the best group first (see `deciding_split`).

    Raises:
      UserError: A run was never evaluated, or the runs cannot be compared.
    """
    # Unlike Path.resolve, realpath accepts links that form a loop.
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
    """The split that ranks the groups: "valid" if every run has one, else "test"."""
    has_all = all(selection_split(run.best) == "valid" for group in groups for run in group.runs)
    return "valid" if has_all else "test"


def read_run(workdir: WorkdirPath, name: str) -> Run:
    """Reads a run that has a checkpoint and an evaluated epoch.

    Raises:
      UserError: The run has none, or one of its files is damaged.
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
        raise CheckpointError(
            f"{workdir}: no epoch has been evaluated yet; train the run for longer"
        ) from None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{workdir}: its checkpoint holds no history of a run") from error
    try:
        device = str(fileio.read_json(workdir / "summary.json")["device"]["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        device = ""
    info = read_info(workdir, record)
    return Run(name, workdir, config, newest.history, info, record.provenance, device, warnings)


def check_comparable(first: Run, second: Run) -> None:
    """Checks that two runs were evaluated on the same images.

    Raises:
      UserError: They were not.
    """
    for what, one, other in (
        ("data sets", first.info.name, second.info.name),
        ("classes", first.info.class_names, second.info.class_names),
        ("sha256 of the data", identity(first.provenance), identity(second.provenance)),
    ):
        if one != other:
            shown = f" ({one} and {other})" if isinstance(one, str) else ""
            raise UserError(
                f"{first.workdir} and {second.workdir}: cannot be compared, different {what}"
                f"{shown}; write a report for each"
            )


def identity(provenance: dict[str, Any]) -> str:
    """A text that is equal for two sources of the same images."""
    # The official images have several checksums: of the binary and of the Python archive.
    return "official" if provenance["official"] else str(provenance["sha256"])


def _group(runs: list[Run]) -> Group:
    runs = sorted(runs, key=lambda run: run.config.seed)
    for one, other in itertools.pairwise(runs):
        if one.config.seed == other.config.seed:
            raise UserError(
                f"{one.workdir} and {other.workdir}: the same run twice (same config, seed "
                f"{one.config.seed}); give only one of them"
            )
    return Group(runs, abstract_state(runs[0].config, runs[0].info).num_parameters)


def differing(groups: Sequence[Group]) -> list[str]:
    """The names of the settings in which the groups differ."""
    first, *others = [group.runs[0].settings for group in groups]
    return [name for name in first if any(other[name] != first[name] for other in others)]


def shared(groups: Sequence[Group]) -> dict[str, Any]:
    """The settings that all groups share and that are not the defaults."""
    apart = differing(groups)
    defaults = {name: value for name, _, value in Config().options()}
    settings = groups[0].runs[0].settings.items()
    return {n: value for n, value in settings if n not in apart and value != defaults[n]}
