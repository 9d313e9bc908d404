"""GoogLeNet (Inception v1) in pure JAX: Flax modules, Optax recipes, Orbax checkpoints."""

from typing import TYPE_CHECKING

from googlenet_jax.version import __version__

if TYPE_CHECKING:
    from googlenet_jax.fileio import WorkdirPath
    from googlenet_jax.storage.model import Model

__all__ = ["__version__", "load"]


def load(folder: "str | WorkdirPath", checkpoint: str = "best") -> "Model":
    """A trained network: `load("digits").logits(images)`.

    Args:
      folder: A working directory of `train.main`, an export of `train.export`, or the name of a
        network that ships with the package: "digits".
      checkpoint: Which one of a run: "best", "latest" or a step.

    Raises:
      CheckpointError: There is no such run, checkpoint or export, or it is damaged.
    """
    # JAX takes a second to import, for which a mistake on the command line need not wait.
    from googlenet_jax.storage.loading import load_model

    return load_model(folder, checkpoint)
