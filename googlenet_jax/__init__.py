"""GoogLeNet (Inception v1) in pure JAX: Flax modules, Optax recipes, Orbax checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from googlenet_jax.loading import Model

__version__ = "0.1.0"


def load(workdir: str | Path, checkpoint: str = "best") -> "Model":
    """A trained network to call: `load(workdir).logits(images)`.

    Args:
      workdir: of `python -m train.main`.
      checkpoint: "best", "latest" or a step.

    Raises:
      CheckpointError: no such run or checkpoint, or a damaged one.
    """
    # JAX takes a second to import, for which a mistake on the command line need not wait.
    from googlenet_jax.loading import load_model

    return load_model(Path(workdir), checkpoint)
