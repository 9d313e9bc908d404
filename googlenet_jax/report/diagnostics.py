"""What a network gets wrong, and how sure it is: figures from its predictions on a split."""

import contextlib
import dataclasses
import heapq
from typing import Self

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from sklearn import metrics as sklearn_metrics

from googlenet_jax import data
from googlenet_jax.data import Split
from googlenet_jax.errors import CheckpointError, DataError
from googlenet_jax.report.runs import Run, identity
from googlenet_jax.storage.loading import load_model

MISTAKES = 24  # whose images are kept
BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (2017), section 5


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the best checkpoint of a run says of the test images.

    Attributes:
      epoch: finished when the checkpoint was written.
      labels: of the images.
      probabilities: the softmax of the logits, in inference mode.
      mistakes: the images of the `MISTAKES` most confident mistakes, by number.
      filters: the kernel of the first convolution.
    """

    epoch: int
    labels: Int[np.ndarray, " examples"]
    probabilities: Float[np.ndarray, "examples classes"]
    mistakes: dict[int, UInt8[np.ndarray, "height width channels"]]
    filters: Float[np.ndarray, "rows columns channels filters"]


def predict(run: Run, data_path: str) -> Predictions:
    """Runs the best checkpoint over every test image.

    Args:
      run: whose config says where the data lie.
      data_path: of the data, if they are elsewhere now; else "".

    Raises:
      UserError: checkpoint or data cannot be used.
    """
    model = load_model(run.workdir, "best")
    config = dataclasses.replace(run.config.data, path=data_path or run.config.data.path)
    dataset = data.load(config, run.config.seed)
    if identity(dataset.provenance) != identity(run.provenance):
        raise DataError(
            f"{dataset.provenance['source']}: not the data of {run.workdir}: sha256 is "
            f"{dataset.provenance['sha256']}, there it was {run.provenance['sha256']}"
        )
    batch_size = min(run.config.eval.batch_size, len(dataset.splits[Split.TEST]))
    seen = 0
    labels, parts = [], []
    mistakes: list[tuple[float, int, np.ndarray]] = []  # sorted by confidence, then by number
    with contextlib.closing(dataset.batches(Split.TEST, batch_size)) as batches:
        for batch in batches:
            # Filled up by repetition, so that one program serves all of them.
            images = np.resize(batch.images, (batch_size, *batch.images.shape[1:]))
            found = np.asarray(jax.nn.softmax(model.logits(images)))[: len(batch)]
            for row in np.flatnonzero(found.argmax(axis=1) != batch.labels).tolist():
                image = np.array(batch.images[row])  # a view would keep the whole batch
                mistakes.append((float(found[row].max()), -(seen + row), image))
            mistakes = heapq.nlargest(MISTAKES, mistakes)
            labels.append(batch.labels)
            parts.append(found)
            seen += len(batch)
    probabilities = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise CheckpointError(f"{run.workdir}: the best checkpoint's logits are not finite")
    first = model.state.params["conv1"]
    kernel = np.asarray(first.get("conv", first)["kernel"], np.float64)
    return Predictions(
        len(model.record.history),
        np.concatenate(labels),
        probabilities,
        {-number: image for _, number, image in mistakes},
        kernel,
    )


@dataclasses.dataclass(frozen=True)
class PerClass:
    """How each class fares against all others.

    Attributes:
      precision: of the images that are called so, the share that are; 0 where none is.
      recall: of the images that are, the share that are called so.
      accuracy: of all images, the share of which it is rightly said whether they are.
      support: images that are.
    """

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    accuracy: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Accuracy against confidence, which is the probability of the likeliest class.

    Bin b of `BINS` holds the confidences above b / BINS, up to and with (b + 1) / BINS.

    Attributes:
      count: images in each bin.
      confidence: their mean; NaN in an empty bin.
      accuracy: their share that is right; NaN in an empty bin.
      error: the expected calibration error, the mean over images of their bin's gap between the
        two (Guo et al., 2017, equation 3).
    """

    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    error: float


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A class that is taken for another.

    Attributes:
      truth: the class.
      guess: what it is taken for.
      count: images.
      share: of the class's images.
    """

    truth: int
    guess: int
    count: int
    share: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All figures of one set of predictions.

    Attributes:
      accuracy: share of images that are right.
      matrix: images by true class (rows) and by guess (columns).
      per_class: how each class fares.
      calibration: whether confidence can be believed.
      confusions: pairs of classes, the most frequent one first; those that occur.
      mistakes: images that are wrong, the most confident one first.
    """

    accuracy: float
    matrix: Int[np.ndarray, "classes classes"]
    per_class: PerClass
    calibration: Calibration
    confusions: list[Confusion]
    mistakes: Int[np.ndarray, " wrong"]

    @classmethod
    def of(
        cls,
        labels: Int[np.ndarray, " examples"],
        probabilities: Float[np.ndarray, "examples classes"],
    ) -> Self:
        """The figures of at least one image."""
        guesses, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
        classes = np.arange(probabilities.shape[1])
        matrix = sklearn_metrics.confusion_matrix(labels, guesses, labels=classes)
        wrong = np.flatnonzero(guesses != labels)
        return cls(
            float(sklearn_metrics.accuracy_score(labels, guesses)),
            matrix,
            per_class(labels, guesses, len(classes)),
            calibration(confidences, guesses == labels),
            confusions(matrix),
            wrong[np.argsort(-confidences[wrong], kind="stable")],
        )


def per_class(
    labels: Int[np.ndarray, " examples"], guesses: Int[np.ndarray, " examples"], num_classes: int
) -> PerClass:
    """Precision, recall and one-against-all accuracy of each class, by scikit-learn."""
    classes = np.arange(num_classes)
    precision, recall, _, support = sklearn_metrics.precision_recall_fscore_support(
        labels, guesses, labels=classes, zero_division=0
    )
    tables = sklearn_metrics.multilabel_confusion_matrix(labels, guesses, labels=classes)
    accuracy = tables.trace(axis1=1, axis2=2) / len(labels)
    return PerClass(precision, recall, accuracy, support)


def calibration(
    confidences: Float[np.ndarray, " examples"], is_right: Bool[np.ndarray, " examples"]
) -> Calibration:
    """Confidence and accuracy of at least one image, in bins of confidence.

    Args:
      confidences: the probability of the likeliest class.
      is_right: whether that is the true one.
    """
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidences, side="left")
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):  # an empty bin's mean is NaN
        confidence = np.bincount(bins, confidences, BINS) / count
        accuracy = np.bincount(bins, is_right, BINS) / count
    gaps = np.nan_to_num(np.abs(confidence - accuracy))
    return Calibration(count, confidence, accuracy, float(np.average(gaps, weights=count)))


def confusions(matrix: Int[np.ndarray, "classes classes"]) -> list[Confusion]:
    """The off-diagonal cells that are not empty, the largest first, of equals in their order."""
    found = [
        Confusion(int(truth), int(guess), int(matrix[truth, guess]), share)
        for truth, guess in np.argwhere(matrix)
        if truth != guess
        for share in [float(matrix[truth, guess] / matrix[truth].sum())]
    ]
    return sorted(found, key=lambda each: -each.count)
