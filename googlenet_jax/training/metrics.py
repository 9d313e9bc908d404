"""Counts and sums over an epoch or an evaluation. Counts merge exactly, losses up to rounding."""

import dataclasses
import typing
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@typing.no_type_check  # JAX also builds it of shapes and other stand-ins for arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """Counts by true class, and the total loss, of the examples seen so far.

    Attributes:
      loss_sum: Sum of the losses of all examples, in nats.
      correct: Examples whose most likely class is the true one.
      correct_top5: Examples whose true class is among the five most likely.
      count: Examples.
    """

    loss_sum: Float[Array, ""]
    correct: Int[Array, " classes"]
    correct_top5: Int[Array, " classes"]
    count: Int[Array, " classes"]

    @classmethod
    def empty(cls, num_classes: int) -> Self:
        """The metrics of no examples."""
        zeros = jnp.zeros(num_classes, jnp.int32)
        return cls(jnp.zeros((), jnp.float32), zeros, zeros, zeros)

    @classmethod
    def of_batch(
        cls,
        logits: Float[Array, "batch classes"],
        labels: Int[Array, " batch"],
        losses: Float[Array, " batch"],
        mask: Bool[Array, " batch"] | None = None,
    ) -> Self:
        """The metrics of one batch; examples whose `mask` is false do not count."""
        if mask is None:
            mask = jnp.ones(labels.shape, bool)
        true_logit = jnp.take_along_axis(logits, labels[:, None], axis=1)
        # The rank is the number of classes placed before the true one; 0 is correct. Ties go to the
        # lower class, as in argmax. NaN is never less likely, so a network of NaN is never correct.
        is_after = jnp.arange(logits.shape[1]) >= labels[:, None]
        is_less_likely = (logits < true_logit) | ((logits == true_logit) & is_after)
        rank = jnp.sum(~is_less_likely, axis=1)

        def by_class(chosen: Bool[Array, " batch"]) -> Int[Array, " classes"]:
            return jnp.zeros(logits.shape[1], jnp.int32).at[labels].add(chosen.astype(jnp.int32))

        return cls(
            loss_sum=jnp.sum(jnp.where(mask, losses, 0)).astype(jnp.float32),
            correct=by_class(mask & (rank == 0)),
            correct_top5=by_class(mask & (rank < 5)),
            count=by_class(mask),
        )

    def merge(self, other: Self) -> Self:
        """The metrics of both sets of examples."""
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> dict[str, Any]:
        """Mean loss in nats; top-1, top-5 and per-class accuracy as fractions of 1."""
        seen = jax.device_get(self)
        count = int(seen.count.sum())
        per_class = seen.correct / np.maximum(seen.count, 1)
        return {
            "loss": float(seen.loss_sum / count),
            "accuracy": float(seen.correct.sum() / count),
            "top5_accuracy": float(seen.correct_top5.sum() / count),
            "per_class_accuracy": [float(accuracy) for accuracy in per_class],
            "examples": count,
        }


@typing.no_type_check  # as above
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation(Metrics):
    """The metrics of a split in inference mode, with counts that show a sick network.

    Attributes:
      predicted: For each class, the examples for which it is the most likely.
      active: For each channel of each ReLU, the examples for which it is above 0 at any position.
    """

    predicted: Int[Array, " classes"]
    active: Int[Array, " relus"]

    @classmethod
    def of_inference(
        cls,
        logits: Float[Array, "batch classes"],
        labels: Int[Array, " batch"],
        losses: Float[Array, " batch"],
        active: Bool[Array, "batch relus"],
        mask: Bool[Array, " batch"] | None = None,
    ) -> Self:
        """The evaluation of one batch; examples whose `mask` is false do not count."""
        metrics = Metrics.of_batch(logits, labels, losses, mask)
        counted = jnp.ones(labels.shape, bool) if mask is None else mask
        guesses = jnp.zeros_like(metrics.count).at[logits.argmax(axis=1)]
        return cls(
            **vars(metrics),
            predicted=guesses.add(counted.astype(jnp.int32)),
            active=jnp.sum(active & counted[:, None], axis=0, dtype=jnp.int32),
        )
