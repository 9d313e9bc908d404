"""The predictions of a network on the test images, and what they say of its mistakes."""

import contextlib
import dataclasses
import heapq
from typing import Self

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from sklearn import metrics as sklearn_metrics

from googlenet_jax.data import Split
from googlenet_jax.errors import CheckpointError, DataError
from googlenet_jax.report.runs import Run, identity
from googlenet_jax.storage.loading import load_data, load_model

MISTAKES = 24  # whose images are kept
BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (2017), section 5


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a run's best checkpoint on all test images.

    Attributes:
      epoch: Epochs finished when the checkpoint was written.
      labels: The true classes.
      probabilities: Softmax of the logits, in inference mode.
      mistakes: Pixels of the `MISTAKES` most confident mistakes, by index of the image.
      maps: What speaks for their predicted class, see `TrainState.class_maps`.
      filters: Kernel of the first convolution.
    """

    epoch: int
    labels: Int[np.ndarray, " examples"]
    probabilities: Float[np.ndarray, "examples classes"]
    mistakes: dict[int, UInt8[np.ndarray, "height width channels"]]
    maps: dict[int, Float[np.ndarray, "map_height map_width"]]
    filters: Float[np.ndarray, "rows columns channels filters"]


def predict(run: Run, data_path: str) -> Predictions:
    """Runs the best checkpoint on every test image.

    Args:
      run: Its config says which data to load.
      data_path: Where the data are now, if they have moved; else "".

    Raises:
      UserError: The checkpoint or the data cannot be used.
    """
    model = load_model(run.workdir, "best")
    dataset = load_data(run.config, data_path)
    if identity(dataset.provenance) != identity(run.provenance):
        raise DataError(
            f"{dataset.provenance['source']}: not the data of {run.workdir}: sha256 is "
            f"{dataset.provenance['sha256']}, expected {run.provenance['sha256']}; pass the run's "
            "own data with --data-path"
        )
    batch_size = min(run.config.eval.batch_size, len(dataset.splits[Split.TEST]))
    seen = 0
    labels, parts = [], []
    # Confidence, negative index, image, map.
    mistakes: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    with contextlib.closing(dataset.batches(Split.TEST, batch_size)) as batches:
        for batch in batches:
            # The last batch is padded by repetition, so that all have one shape: one compilation.
            images = np.resize(batch.images, (batch_size, *batch.images.shape[1:]))
            logits, maps = model.explain(images)
            found, maps = jax.device_get((jax.nn.softmax(logits)[: len(batch)], maps))
            for row in np.flatnonzero(found.argmax(axis=1) != batch.labels).tolist():
                # Views would keep the whole batch.
                image, class_map = np.array(batch.images[row]), np.array(maps[row])
                mistakes.append((float(found[row].max()), -(seen + row), image, class_map))
            mistakes = heapq.nlargest(MISTAKES, mistakes)
            labels.append(batch.labels)
            parts.append(found)
            seen += len(batch)
    probabilities = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise CheckpointError(
            f"{run.workdir}: the best checkpoint's logits are not finite; leave this run out"
        )
    first = model.state.params["conv1"]
    return Predictions(
        len(model.record.history),
        np.concatenate(labels),
        probabilities,
        {-index: image for _, index, image, _ in mistakes},
        {-index: class_map for _, index, _, class_map in mistakes},
        np.asarray(first.get("conv", first)["kernel"], np.float64),
    )


@dataclasses.dataclass(frozen=True)
class PerClass:
    """Each class against the rest.

    Attributes:
      precision: Share of the images predicted as the class that belong to it; 0 if there are none.
      recall: Share of the class's images that are predicted as it.
      accuracy: One-vs-rest accuracy, over all images.
      support: Images of the class.
    """

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    accuracy: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Accuracy by confidence, which is the probability of the predicted class.

    Bin b of `BINS` holds the confidences in (b / BINS, (b + 1) / BINS].

    Attributes:
      count: Images in each bin.
      confidence: Their mean confidence; NaN in an empty bin.
      accuracy: Their accuracy; NaN in an empty bin.
      error: Expected calibration error: the gap between a bin's confidence and accuracy, averaged
        over all images (Guo et al., 2017, equation 3).
    """

    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    error: float


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A class that is mistaken for another.

    Attributes:
      truth: The true class.
      guess: The predicted class.
      count: Images of `truth` predicted as `guess`.
      share: Their share of the images of `truth`.
    """

    truth: int
    guess: int
    count: int
    share: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All that one set of predictions shows.

    Attributes:
      accuracy: Share of the images that are classified correctly.
      matrix: Images by true class (rows) and predicted class (columns).
      per_class: Each class against the rest.
      calibration: Accuracy by confidence.
      confusions: The pairs of classes that were confused, the most frequent first.
      mistakes: Indices of the misclassified images, the most confident first.
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
        """The diagnosis of at least one image."""
        guesses, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
        is_right = guesses == labels
        classes = np.arange(probabilities.shape[1])
        matrix = sklearn_metrics.confusion_matrix(labels, guesses, labels=classes)
        wrong = np.flatnonzero(~is_right)
        return cls(
            float(is_right.mean()),
            matrix,
            per_class(labels, guesses, len(classes)),
            calibration(confidences, is_right),
            confusions(matrix),
            wrong[np.argsort(-confidences[wrong], kind="stable")],
        )


def per_class(
    labels: Int[np.ndarray, " examples"], guesses: Int[np.ndarray, " examples"], num_classes: int
) -> PerClass:
    """Precision, recall and one-vs-rest accuracy of each class."""
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
    """Accuracy by confidence, of at least one image."""
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidences, side="left")
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):  # the mean of an empty bin is NaN
        confidence = np.bincount(bins, confidences, BINS) / count
        accuracy = np.bincount(bins, is_right, BINS) / count
    gaps = np.nan_to_num(np.abs(confidence - accuracy))
    return Calibration(count, confidence, accuracy, float(np.average(gaps, weights=count)))


def confusions(matrix: Int[np.ndarray, "classes classes"]) -> list[Confusion]:
    """The pairs of classes that were confused, the most frequent first; ties in class order."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    found = [
        Confusion(truth, guess, int(matrix[truth, guess]), float(shares[truth, guess]))
        for truth, guess in np.argwhere(matrix).tolist()
        if truth != guess
    ]
    return sorted(found, key=lambda pair: -pair.count)
