"""What a network gets wrong, and how sure it is: figures from its predictions on a split."""

import dataclasses
from typing import Self

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from sklearn import metrics as sklearn_metrics

from googlenet_jax import data
from googlenet_jax.data import Split
from googlenet_jax.errors import CheckpointError, DataError
from googlenet_jax.loading import load_model
from googlenet_jax.report.runs import Run, identity

BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (2017), section 5


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the best checkpoint of a run says of the test images.

    Attributes:
      epoch: finished when the checkpoint was written.
      images: as they are stored.
      labels: their classes.
      probabilities: the softmax of the logits, in inference mode.
      filters: the kernel of the first convolution.
    """

    epoch: int
    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int[np.ndarray, " examples"]
    probabilities: Float[np.ndarray, "examples classes"]
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
    test = dataset.arrays(Split.TEST)
    size, batch_size = len(test.labels), run.config.eval.batch_size
    parts = []
    for start in range(0, size, batch_size):
        # The last batch is filled up, so that one program serves all of them.
        chosen = np.minimum(np.arange(start, start + batch_size), size - 1)
        parts.append(np.asarray(jax.nn.softmax(model.logits(np.asarray(test.images)[chosen]))))
    probabilities = np.concatenate(parts)[:size].astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise CheckpointError(f"{run.workdir}: the best checkpoint's logits are not finite")
    first = model.state.params["conv1"]
    kernel = np.asarray(first.get("conv", first)["kernel"], np.float64)
    return Predictions(
        len(model.record.history),
        np.asarray(test.images),
        np.asarray(test.labels),
        probabilities,
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
