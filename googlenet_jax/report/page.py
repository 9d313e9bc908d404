"""A page about runs: which is best, on what it fails, and everything that says so."""

import base64
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from googlenet_jax.errors import UserError, printable
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.report import figures, published
from googlenet_jax.report.diagnostics import MISTAKES, Diagnosis, Predictions, predict
from googlenet_jax.report.runs import (
    Group,
    Run,
    Spread,
    deciding_split,
    differing,
    read_groups,
    shared,
    standard_error,
)
from googlenet_jax.storage.summary import selection_split
from googlenet_jax.version import __version__

if TYPE_CHECKING:
    import jinja2

PAGE = "index.html"
TEMPLATE = "page.html.jinja"
SPLITS = {"train": "training", "valid": "validation", "test": "test"}
NORMS = {"grad_norm": "gradient", "param_norm": "parameters", "update_norm": "update"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What is to be written.

    Attributes:
      files: contents by name: the page, and the pictures that it holds as data URIs.
      verdict: the page's first sentence.
    """

    files: dict[str, bytes]
    verdict: str


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A picture that was taken for something else.

    Attributes:
      picture: its file.
      truth: its class's name.
      guess: the likeliest class's name.
      probability: of the guess.
    """

    picture: str
    truth: str
    guess: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Section:
    """What one run of a group gets wrong.

    Attributes:
      number: of the group, from 1.
      run: the one.
      epoch: of its best checkpoint.
      examples: test images.
      diagnosis: all figures.
      mistakes: the most confident ones.
      kernel: sides of the first layer's filters, and their number.
    """

    number: int
    run: Run
    epoch: int
    examples: int
    diagnosis: Diagnosis
    mistakes: list[Mistake]
    kernel: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Lead:
    """The best group's distance to the next one.

    Attributes:
      points: of accuracy, in percent points.
      error: standard error of a difference of two such accuracies on so many images.
      examples: images that they were measured on.
    """

    points: float
    error: float
    examples: int

    @property
    def is_clear(self) -> bool:
        """Whether chance in the choice of images hardly explains it."""
        return self.points > 2 * self.error


def build(workdirs: Sequence[WorkdirPath], data_path: str) -> Report:
    """Reads runs, evaluates the best checkpoint of one of each group, and draws the page.

    Args:
      workdirs: of the runs; at least one.
      data_path: of the data, if they are elsewhere now; else "".

    Raises:
      UserError: a run or the data cannot be used, or the runs cannot be compared.
    """
    template = _template()
    groups = read_groups(workdirs)
    pictures = charts(groups)
    sections = []
    for number, group in enumerate(groups, 1):
        predictions = predict(group.representative, data_path)
        section, more = diagnose(number, group.representative, predictions)
        sections.append(section)
        pictures |= more
    names = groups[0].runs[0].info.class_names
    recall = np.stack([section.diagnosis.per_class.recall for section in sections])
    pictures |= _by_theme("recall", figures.recalls(groups, names, recall))
    deciding = deciding_split(groups)
    text = template.render(
        groups=groups,
        runs=[run for group in groups for run in group.runs],
        sections=sections,
        best=groups[0],
        deciding=deciding,
        lead=lead(groups, deciding, sections[0].examples) if groups[1:] else None,
        differing=differing(groups),
        shared=shared(groups),
        info=groups[0].runs[0].info,
        provenance=groups[0].runs[0].provenance,
        published=published,
        splits=SPLITS,
        selection_split=selection_split,
        version=__version__,
        has_norms="norms-light.png" in pictures,
        uri=lambda name: "data:image/png;base64," + base64.b64encode(pictures[name]).decode(),
    )
    # Jinja has escaped what would be HTML, but not what turns a line around or is not to be seen.
    text = "\n".join(line if line.isprintable() else printable(line) for line in text.split("\n"))
    verdict = f"best: {groups[0].name}, {describe(groups[0], deciding)}"
    return Report({PAGE: text.encode(), **pictures}, verdict)


def describe(group: Group, split: str) -> str:
    """A group's accuracy on a split with all that belongs to it."""
    return f"{SPLITS[split]} accuracy {spread(group.best(f'{split}_accuracy'))}, {terms(group)}"


def terms(group: Group) -> str:
    """What its best accuracies stand on: epochs, the split that chose them, seeds."""
    chosen = " and ".join(sorted({SPLITS[selection_split(run.best)] for run in group.runs}))
    n = len(group.runs)
    seeds = f"mean of {n} seeds" if n > 1 else "one seed"
    return f"best epoch {epochs(group)}, chosen on the {chosen} split, {seeds}"


def epochs(group: Group) -> str:
    """Each run's best epoch."""
    found = [f"{run.best['epoch']} of {run.final['epoch']}" for run in group.runs]
    return " and ".join(dict.fromkeys(found))


def lead(groups: Sequence[Group], split: str, test_examples: int) -> Lead:
    """How far the first group is ahead of the second."""
    first, second = (group.best(f"{split}_accuracy").mean for group in groups[:2])
    valid_examples = min(group.runs[0].config.data.valid_examples for group in groups[:2])
    examples = valid_examples if split == "valid" else test_examples
    error = math.hypot(*(standard_error(mean, examples) for mean in (first, second)))
    return Lead(100 * (first - second), 100 * error, examples)


def charts(groups: Sequence[Group]) -> dict[str, bytes]:
    """The pictures of all runs' histories; those of figures that no run has are left out."""
    pictures = {
        "accuracy": figures.curves(groups, "accuracy"),
        "loss": figures.curves(groups, "loss"),
        "learning-rate": figures.series(groups, {"learning_rate": "learning rate"}),
        "throughput": figures.series(groups, {"images_per_second": "images/s"}),
    }
    entries = [entry for group in groups for run in group.runs for entry in run.history]
    norms = {n: label for n, label in NORMS.items() if any(n in entry for entry in entries)}
    if norms:
        pictures["norms"] = figures.series(groups, norms)
    return {
        name: png
        for stem, drawn in pictures.items()
        for name, png in _by_theme(stem, drawn).items()
    }


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
        pictures[picture] = figures.image(predictions.mistakes[index])
        probabilities = predictions.probabilities[index]
        truth, guess = names[predictions.labels[index]], names[probabilities.argmax()]
        mistakes.append(Mistake(picture, truth, guess, float(probabilities.max())))
    rows, columns, _, count = predictions.filters.shape
    section = Section(
        number,
        run,
        predictions.epoch,
        len(predictions.labels),
        diagnosis,
        mistakes,
        (rows, columns, count),
    )
    return section, pictures


def percent(share: float) -> str:
    """Two digits behind the point: one of 10,000 images is 0.01 %."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def spread(value: Spread) -> str:
    """Mean and standard deviation, of more than one value."""
    deviation = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{deviation} %".replace(" ", "\N{NO-BREAK SPACE}")


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
        autoescape=True,  # names of classes and folders are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        each.__name__: each for each in (percent, spread, duration, terms, describe)
    }
    environment.filters |= filters
    return environment.get_template(TEMPLATE)
