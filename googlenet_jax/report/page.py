"""The page about runs: which is best, what it gets wrong, and the evidence."""

import base64
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from googlenet_jax.errors import UserError, printable
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.report import PAGE, figures, maps, published
from googlenet_jax.report.diagnostics import BINS, MISTAKES, Diagnosis, Predictions, predict
from googlenet_jax.report.runs import (
    Group,
    Run,
    deciding_split,
    differing,
    read_groups,
    shared,
)
from googlenet_jax.report.spread import Spread, binomial_error, paired, show
from googlenet_jax.report.style import THEMES
from googlenet_jax.storage.summary import selection_split
from googlenet_jax.version import __version__

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "page.html.jinja"
SPLITS = {"train": "training", "valid": "validation", "test": "test"}
PICTURES = re.compile(
    r"(accuracy|loss|learning-rate|throughput|norms|recall|\d+-confusion|\d+-reliability)-"
    r"(light|dark)\.png|\d+-(filters|mistake-\d\d(-map)?)\.png"
)
"""The names of a report's pictures."""
NORMS = {
    "grad_norm": "gradient norm",
    "param_norm": "parameter norm",
    "update_norm": "update norm",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that is ready to be written.

    Attributes:
      files: Content by file name: the page, and its pictures, which the page also embeds.
      verdict: One line that says which group is best.
    """

    files: dict[str, bytes]
    verdict: str


@dataclasses.dataclass(frozen=True)
class Section:
    """What one run of a group gets wrong.

    Attributes:
      number: Of the group, from 1.
      run: The group's best run.
      predictions: Of its best checkpoint.
      diagnosis: What they show.
      mistakes: The most confident ones: picture, map, true class, predicted class and its
        probability.
    """

    number: int
    run: Run
    predictions: Predictions
    diagnosis: Diagnosis
    mistakes: list[tuple[str, str, str, str, float]]

    @property
    def examples(self) -> int:
        """Number of test images."""
        return len(self.predictions.labels)


@dataclasses.dataclass(frozen=True)
class Lead:
    """How far the best group is ahead of the second.

    Attributes:
      points: Difference of their accuracies in percentage points.
      error: Standard error of such a difference, in percentage points.
      examples: Images that the accuracies were measured on.
      paired: Difference of the test accuracies at the last epoch, seed by seed; None if the groups
        share no seed.
    """

    points: float
    error: float
    examples: int
    paired: Spread | None

    @property
    def is_clear(self) -> bool:
        """Whether the choice of the images is unlikely to explain the lead."""
        return self.points > 2 * self.error


def build(workdirs: Sequence[WorkdirPath], data_path: str) -> Report:
    """Reads the runs, evaluates the best checkpoint of one run of each group and makes the page.

    Args:
      workdirs: Working directories of at least one run.
      data_path: Where the data are now, if they have moved; else "".

    Raises:
      UserError: A run or the data cannot be used, or the runs cannot be compared.
    """
    template = _template()
    groups = read_groups(workdirs)
    pictures = charts(groups)
    sections = []
    for number, group in enumerate(groups, 1):
        run = group.representative
        section, more = diagnose(number, run, predict(run, data_path))
        sections.append(section)
        pictures |= more
    info = groups[0].runs[0].info
    recall = np.stack([section.diagnosis.per_class.recall for section in sections])
    pictures |= _by_theme("recall", figures.recalls(groups, info.class_names, recall))
    deciding, unequal = deciding_split(groups), lengths(groups)
    text = template.render(
        groups=groups,
        runs=[run for group in groups for run in group.runs],
        sections=sections,
        best=groups[0],
        deciding=deciding,
        unequal=unequal,
        lead=lead(groups, deciding, sections[0].examples) if groups[1:] else None,
        differing=differing(groups),
        shared=shared(groups),
        info=info,
        provenance=groups[0].runs[0].provenance,
        published=published,
        splits=SPLITS,
        bins=BINS,
        max_labelled=figures.MAX_LABELLED,
        themes=THEMES,
        selection_split=selection_split,
        version=__version__,
        has_norms="norms-light.png" in pictures,
        uri=lambda name: "data:image/png;base64," + base64.b64encode(pictures[name]).decode(),
    )
    # Jinja escapes HTML, but not characters that are invisible or reverse the text's direction.
    text = "\n".join(line if line.isprintable() else printable(line) for line in text.split("\n"))
    verdict = f"best: {groups[0].name}, {describe(groups[0], deciding)}"
    if unequal:
        verdict += f"; {unequal}"
    return Report({PAGE: text.encode(), **pictures}, verdict)


def describe(group: Group, split: str) -> str:
    """A group's accuracy on a split, with `terms`."""
    return f"{SPLITS[split]} accuracy {spread(group.best(f'{split}_accuracy'))}, {terms(group)}"


def terms(group: Group) -> str:
    """What a group's best accuracy rests on: epochs, the split that chose them, seeds."""
    found = [f"{run.best['epoch']} of {run.final['epoch']}" for run in group.runs]
    epochs = " and ".join(dict.fromkeys(found))
    chosen = " and ".join(sorted({SPLITS[selection_split(run.best)] for run in group.runs}))
    n = len(group.runs)
    seeds = f"mean of {n} seeds" if n > 1 else "one seed"
    best = "best epochs" if " and " in epochs else "best epoch"
    return f"{best} {epochs}, chosen on the {chosen} split, {seeds}"


def lengths(groups: Sequence[Group]) -> str:
    """A remark if the runs differ in length; else ""."""
    found = sorted({run.final["epoch"] for group in groups for run in group.runs})
    return f"the runs differ in length: {found[0]} to {found[-1]} epochs" if found[1:] else ""


def lead(groups: Sequence[Group], split: str, test_examples: int) -> Lead:
    """How far the first group is ahead of the second."""
    first, second = (group.best(f"{split}_accuracy").mean for group in groups[:2])
    valid_examples = min(group.runs[0].config.data.valid_examples for group in groups[:2])
    examples = valid_examples if split == "valid" else test_examples
    error = math.hypot(*(binomial_error(mean, examples) for mean in (first, second)))
    one, other = (group.by_seed("test_accuracy") for group in groups[:2])
    return Lead(100 * (first - second), 100 * error, examples, paired(one, other))


def charts(groups: Sequence[Group]) -> dict[str, bytes]:
    """The charts of the runs' histories; without norms if no run has them."""
    pictures = {
        **_by_theme("accuracy", figures.curves(groups, "accuracy")),
        **_by_theme("loss", figures.curves(groups, "loss")),
        **_by_theme("learning-rate", figures.series(groups, {"learning_rate": "learning rate"})),
        **_by_theme("throughput", figures.series(groups, {"images_per_second": "images/s"})),
    }
    entries = [entry for group in groups for run in group.runs for entry in run.history]
    norms = {n: label for n, label in NORMS.items() if any(n in entry for entry in entries)}
    if norms:
        pictures |= _by_theme("norms", figures.series(groups, norms))
    return pictures


def diagnose(number: int, run: Run, predictions: Predictions) -> tuple[Section, dict[str, bytes]]:
    """A group's section and its pictures."""
    diagnosis = Diagnosis.of(predictions.labels, predictions.probabilities)
    names = run.info.class_names
    pictures = {
        **_by_theme(f"{number}-confusion", figures.confusion(diagnosis.matrix, names)),
        **_by_theme(f"{number}-reliability", figures.reliability(diagnosis.calibration)),
        f"{number}-filters.png": figures.filters(predictions.filters),
    }
    mistakes = []
    for place, index in enumerate(diagnosis.mistakes[:MISTAKES], 1):
        picture = f"{number}-mistake-{place:02}.png"
        class_map = f"{number}-mistake-{place:02}-map.png"
        pixels = predictions.mistakes[index]
        pictures[picture] = figures.image(pixels)
        pictures[class_map] = figures.image(maps.overlay(pixels, predictions.maps[index]))
        probabilities = predictions.probabilities[index]
        truth, guess = names[predictions.labels[index]], names[probabilities.argmax()]
        mistakes.append((picture, class_map, truth, guess, float(probabilities.max())))
    return Section(number, run, predictions, diagnosis, mistakes), pictures


def percent(share: float) -> str:
    """A percentage with two decimals: one of 10,000 images is 0.01 %."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def spread(value: Spread) -> str:
    """Mean ± standard deviation in percent; only the mean for a single seed."""
    deviation = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{deviation} %".replace(" ", "\N{NO-BREAK SPACE}")


def interval(value: Spread) -> str:
    """The mean's 95 % interval in percent; nothing for a single seed."""
    if value.interval is None:
        return ""
    low, high = value.interval
    return show((100 * low, 100 * high)).replace(" ", "\N{NO-BREAK SPACE}")


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _by_theme(stem: str, drawn: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{stem}-{theme}.png": png for theme, png in drawn.items()}


def _template() -> "jinja2.Template":
    try:
        import jinja2
    except ImportError as error:
        raise UserError("the report needs jinja2: pip install jinja2") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("googlenet_jax", "report"),
        autoescape=True,  # the names of classes and folders may hold HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, spread, interval, counted, duration, terms, describe)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template(TEMPLATE)
