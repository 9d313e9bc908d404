"""The training loss."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

ClassWeights = Float[Array | np.ndarray, " classes"]
Targets = Int[Array, " batch"] | Float[Array, "batch classes"]


def cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Targets,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ClassWeights | None = None,
) -> Float[Array, " batch"]:
    """The cross-entropy of each example, in nats.

    Targets are class indices, or the probability of each class, as mixed images have it.

    Label smoothing takes a share of the target away from the label and spreads it evenly over all
    classes (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
    section 7).

    Class weights are factors of the probabilities, as in PyTorch's `CrossEntropyLoss` with
    `reduction="none"`.
    """
    if class_weights is not None:
        shares = targets if targets.ndim == 2 else jax.nn.one_hot(targets, logits.shape[1])
        weighted = optax.smooth_labels(shares, label_smoothing) * class_weights
        return optax.softmax_cross_entropy(logits, weighted)
    if targets.ndim == 1:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    else:
        losses = optax.softmax_cross_entropy(logits, targets)
    mean_over_classes = -jax.nn.log_softmax(logits).mean(axis=-1)
    return (1 - label_smoothing) * losses + label_smoothing * mean_over_classes


def training_loss(
    logits: Float[Array, "batch classes"],
    aux_logits: Sequence[Float[Array, "batch classes"]],
    targets: Targets,
    aux_weight: ArrayLike,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ClassWeights | None = None,
) -> Float[Array, " batch"]:
    """The loss of each example, in nats: cross-entropy + `aux_weight` times each auxiliary head's.

    GoogLeNet's paper has an `aux_weight` of 0.3.
    """
    losses = cross_entropy(logits, targets, label_smoothing, class_weights)
    for aux in aux_logits:
        losses += aux_weight * cross_entropy(aux, targets, label_smoothing, class_weights)
    return losses
