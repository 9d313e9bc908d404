"""Gradient accumulation: the gradient of a large batch in the memory of a small one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray, PyTree


def in_parts(gradient_of: Callable[..., PyTree], parts: int, old: PyTree) -> Callable[..., PyTree]:
    """A `gradient_of` that computes a batch part after part.

    Loss, gradients and new BatchNorm statistics are the means over the parts. Without BatchNorm and
    dropout these are the numbers of the whole batch, up to rounding. BatchNorm normalises by a
    part's statistics, and the running variance lacks the variance between the parts' means.

    Args:
      gradient_of: Of the parameters, images, labels or targets, and key.
      parts: Their number; it divides the batch.
      old: The BatchNorm statistics before the step.
    """

    def cut(x: Array) -> Array:
        # Part i has the images i, i + parts, ...: with several devices, no image has to move.
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    def compute(params: PyTree, images: Array, wanted: Array, key: PRNGKeyArray) -> PyTree:
        def add(total: PyTree, part: tuple[Array, Array, Array]) -> tuple[PyTree, PyTree]:
            *batch, number = part
            part_key = jax.random.fold_in(key, number)
            (loss, (losses, logits, stats)), gradients = gradient_of(params, *batch, part_key)
            # The change, not the value: the mean of equal values need not be that value.
            change = jax.tree.map(jnp.subtract, stats, old)
            return jax.tree.map(jnp.add, total, (loss, change, gradients)), (losses, logits)

        zero = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
        start = (zero, *jax.tree.map(jnp.zeros_like, (old, params)))
        cuts = cut(images), cut(wanted), jnp.arange(parts)
        totals, (losses, logits) = lax.scan(add, start, cuts)
        loss, change, gradients = jax.tree.map(lambda total: total / parts, totals)
        stats = jax.tree.map(jnp.add, old, change)
        return (loss, (join(losses), join(logits), stats)), gradients

    return compute
