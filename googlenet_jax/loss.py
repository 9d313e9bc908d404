"""The training loss."""

import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """The negative log-likelihood of each label, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
