"""The warnings of a run: what looks wrong after an epoch, and what to do about it."""

import math
from typing import Any

import numpy as np

from googlenet_jax.training.metrics import Evaluation, Metrics

# Earlier than this, a healthy network may not have learned anything yet.
EPOCHS, STEPS = 3, 100
SPIKE = 1.5  # times the lowest loss; the rise must also exceed a tenth of the loss of guessing
LAG = 2  # times the training loss, and the loss of guessing
DEAD = 0.5  # share of the ReLU channels
EXAMPLES = 10  # images of a class; with fewer, it may be missed by chance
NAMED = 5  # classes in a message


def check(
    history: list[dict[str, Any]],
    trained: Metrics,
    evaluation: Evaluation | None,
    class_names: tuple[str, ...],
    batch_norm: bool,
) -> dict[str, str]:
    """The warnings that the last epoch gives rise to, by kind.

    Args:
      history: The lines of metrics.jsonl.
      trained: Metrics of the epoch's training steps.
      evaluation: Of the network after the epoch; None if it was not evaluated.
      class_names: Names of the classes, by label.
      batch_norm: Whether the network has BatchNorm.
    """
    entry, found = history[-1], {}
    epoch = entry["epoch"]
    lowest = min(history, key=lambda each: each["train_loss"])
    rise = entry["train_loss"] - lowest["train_loss"]
    guessing = math.log(len(class_names))
    if rise > max((SPIKE - 1) * lowest["train_loss"], 0.1 * guessing):
        found["spike"] = (
            f"the training loss rose from {lowest['train_loss']:.4f} in epoch {lowest['epoch']} to "
            f"{entry['train_loss']:.4f} in epoch {epoch}: if it does not fall again, lower "
            "--config.optimizer.learning_rate"
        )
    for split in ("valid", "test") if batch_norm and epoch <= EPOCHS else ():
        loss = entry.get(f"{split}_loss", 0.0)
        if loss > LAG * max(entry["train_loss"], guessing):
            found["lag"] = (
                f"after epoch {epoch} the {split} loss is {loss:.4g} beside a training loss of "
                f"{entry['train_loss']:.4g}, as often in the first epochs: the running statistics "
                "that BatchNorm uses in evaluation lag behind weights that change fast; if it does "
                "not fall in the next epochs, lower --config.optimizer.learning_rate"
            )
    if epoch < EPOCHS or entry["step"] < STEPS:
        return found
    count = np.asarray(trained.count)
    commonest = count.max() / count.sum()
    error = math.sqrt(commonest * (1 - commonest) / count.sum())
    if entry["train_accuracy"] <= commonest + 3 * error:
        found["chance"] = (
            f"after epoch {epoch} the training accuracy is {entry['train_accuracy']:.4f}, and "
            f"always guessing the most frequent class gives {commonest:.4f}: lower "
            "--config.optimizer.learning_rate, and check the labels with train.contact_sheet"
        )
    if evaluation is None:
        return found
    dead = float((np.asarray(evaluation.active) == 0).mean())
    if dead > DEAD:
        found["dead"] = (
            f"after epoch {epoch} {dead:.0%} of the ReLU channels are 0 for every evaluated image: "
            "lower --config.optimizer.learning_rate or --config.optimizer.weight_decay, or make "
            "the network narrower with --config.model.width_multiplier"
        )
    count, predicted = np.asarray(evaluation.count), np.asarray(evaluation.predicted)
    missed = [class_names[i] for i in np.flatnonzero((predicted == 0) & (count >= EXAMPLES))]
    if missed and "chance" not in found:
        names = ", ".join(missed[:NAMED]) + (", ..." if missed[NAMED:] else "")
        are = "is" if len(missed) == 1 else "are"
        found["missed"] = (
            f"after epoch {epoch} {len(missed)} of {len(class_names)} classes {are} never "
            f"predicted ({names}): check with train.contact_sheet that they have training images "
            "with the right label"
        )
    return found
