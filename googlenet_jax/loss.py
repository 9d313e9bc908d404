"""The training loss."""

from collections.abc import Sequence

import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """The negative log-likelihood of each label, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def training_loss(
    logits: Float[Array, "batch classes"],
    aux_logits: Sequence[Float[Array, "batch classes"]],
    labels: Int[Array, " batch"],
    aux_weight: float,
) -> Float[Array, " batch"]:
    """Each image's cross-entropy, plus `aux_weight` times that of each auxiliary head, in nats.

    The paper's weight is 0.3.
    """
    losses = cross_entropy(logits, labels)
    for aux in aux_logits:
        losses += aux_weight * cross_entropy(aux, labels)
    return losses
