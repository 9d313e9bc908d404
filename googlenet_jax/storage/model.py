"""A trained network that can be called."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from googlenet_jax.config import ModelConfig, TrainConfig
from googlenet_jax.data import DatasetInfo
from googlenet_jax.data.preprocess import normalize
from googlenet_jax.errors import UserError
from googlenet_jax.storage.checkpoint import Record
from googlenet_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A trained network with its normalisation and classes.

    Attributes:
      info: Image shape, class names and normalisation.
      state: The weights, and the step at which they were saved.
      record: The run's history up to that step; an export has at most the last entry of it.
      weights: Which weights they are, see `TrainConfig.weights`.
      network: The settings of the network.
    """

    info: DatasetInfo
    state: TrainState
    record: Record
    weights: str = TrainConfig().weights
    network: ModelConfig = dataclasses.field(default_factory=ModelConfig)

    def __repr__(self) -> str:
        height, width, channels = self.info.image_shape
        return (
            f"<Model of {self.info.name}: {self.info.num_classes} classes, images of {height}x"
            f"{width}x{channels}, {self.state.num_parameters:,} parameters, "
            f"step {int(self.state.step)}>"
        )

    def read(self, *files: str | Path | bytes) -> UInt8[np.ndarray, "batch height width channels"]:
        """Pictures, cropped and resized as in evaluation, as a batch for `logits`.

        Args:
          *files: Paths, or the content of files; see `decoding.read`.

        Raises:
          DataError: A file is not a picture, or is damaged.
        """
        images = [self.info.read(Path(f) if isinstance(f, str) else f) for f in files]
        return np.stack(images)

    def logits(
        self,
        images: UInt8[Array | np.ndarray, "batch height width channels"]
        | Float[Array | np.ndarray, "batch height width channels"],
        tta: str = "none",
    ) -> Float[Array, "batch classes"]:
        """The logits in inference mode; their softmax is the class probabilities.

        Args:
          images: A batch of images of `info.image_shape`; uint8 from 0 to 255, or floats from 0
            to 1.
          tta: Test-time augmentation, see `augment.views`.

        Raises:
          UserError: The images have another shape or type, or floats outside 0 to 1.
        """
        images = jnp.asarray(images)
        if images.shape[1:] != self.info.image_shape or images.ndim != 4:
            raise UserError(
                f"images of shape {images.shape}: must be (batch, *{self.info.image_shape})"
            )
        if jnp.issubdtype(images.dtype, jnp.floating):
            if images.size and not isinstance(images, jax.core.Tracer):
                low, high = float(images.min()), float(images.max())
                if not 0 <= low <= high <= 1:  # NaN as well
                    raise UserError(
                        f"images of type {images.dtype} with values from {low:.4g} to {high:.4g}: "
                        "floats must lie in 0 to 1; pixels of 0 to 255 must be uint8"
                    )
            images = images * 255
        elif images.dtype != jnp.uint8:
            raise UserError(f"images of type {images.dtype}: must be uint8 or a float type")
        return _logits(self.state, images, self.info, tta)


@functools.partial(jax.jit, static_argnames=("info", "tta"))
def _logits(state: TrainState, images: Array, info: DatasetInfo, tta: str) -> Array:
    return state.logits(normalize(images, info.mean, info.std), tta)
