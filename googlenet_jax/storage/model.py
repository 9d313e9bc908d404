"""A trained network that can be called."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from googlenet_jax.config import ModelConfig, TrainConfig
from googlenet_jax.data import DatasetInfo
from googlenet_jax.data.preprocess import normalize
from googlenet_jax.errors import DataError, UserError
from googlenet_jax.storage.checkpoint import Record
from googlenet_jax.training.state import TrainState

BATCH_SIZE = 64
TOP_K = 5

File: TypeAlias = str | Path | bytes
"""The path of a picture, or the content of its file."""
Images: TypeAlias = (
    UInt8[Array | np.ndarray, "batch height width channels"]
    | Float[Array | np.ndarray, "batch height width channels"]
)
"""Images of a network's `info.image_shape`; uint8 from 0 to 255, or floats from 0 to 1."""
T = TypeVar("T")


class Prediction(NamedTuple):
    """A class that a picture may belong to.

    Attributes:
      label: Index of the class.
      class_name: Its name.
      probability: From 0 to 1.
    """

    label: int
    class_name: str
    probability: float


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

    def read(self, *files: File) -> UInt8[np.ndarray, "batch height width channels"]:
        """Pictures, cropped and resized as in evaluation, as a batch for `logits`.

        Args:
          *files: Paths, or the content of files; see `decoding.read`.

        Raises:
          DataError: A file is not a picture, or is damaged.
        """
        return np.stack([self._read(file) for file in files])

    def _read(self, file: File) -> UInt8[np.ndarray, "height width channels"]:
        return self.info.read(Path(file) if isinstance(file, str) else file)

    def predict(
        self,
        images: File | Sequence[File | np.ndarray] | Images,
        top_k: int | None = None,
        tta: str = "none",
    ) -> list[list[Prediction]]:
        """The most probable classes of each picture, the most probable first.

        Args:
          images: One file or several, as for `read`; or a batch of arrays, as for `logits`.
          top_k: Classes per picture; by default 5, or all if there are fewer.
          tta: Test-time augmentation, see `augment.views`.

        Raises:
          DataError: See `read`.
          UserError: See `logits`; or there are fewer classes than `top_k`.
        """
        top_k = self.check_top_k(top_k)
        probabilities = functools.partial(self.probabilities, tta=tta)
        return [self.ranked(row, top_k) for row in self._map(probabilities, images)]

    def features(
        self, images: File | Sequence[File | np.ndarray] | Images, layer: str
    ) -> Float[np.ndarray, "batch ..."]:
        """What a layer makes of each picture: `features(files, "inception4e")`.

        Args:
          images: As for `predict`.
          layer: As for `activations`.

        Raises:
          DataError: See `read`.
          UserError: See `logits`; or there is no such layer, or no picture.
        """
        activations = functools.partial(self.activations, layer=layer)
        found = list(self._map(activations, images))
        if not found:
            raise UserError("there are no images")
        return np.stack(found)

    def check_top_k(self, top_k: int | None, name: str = "top_k") -> int:
        """`top_k`, or its default if it is None.

        Raises:
          UserError: There are not so many classes; the message calls it `name`.
        """
        if top_k is None:
            return min(TOP_K, self.info.num_classes)
        if not 1 <= top_k <= self.info.num_classes:
            raise UserError(
                f"{name}={top_k}: must be 1 to {self.info.num_classes}, the number of classes"
            )
        return top_k

    def ranked(self, probabilities: Float[np.ndarray, " classes"], top_k: int) -> list[Prediction]:
        """The `top_k` most probable classes; equal ones in the order of the classes."""
        return [
            Prediction(int(label), self.info.class_names[label], float(probabilities[label]))
            for label in (-probabilities).argsort(stable=True)[:top_k]
        ]

    def _map(
        self,
        function: Callable[[Images], PyTree],
        images: File | Sequence[File | np.ndarray] | Images,
    ) -> Iterator[PyTree]:
        """`map`, of one file, several files or a batch of arrays; raises the first error."""
        given: Any = [images] if isinstance(images, File) else images
        if not all(isinstance(image, File) for image in given):
            shapes = dict.fromkeys(map(np.shape, given))
            if len(shapes) > 1:
                raise UserError(f"images of different shapes: {', '.join(map(str, shapes))}")
            given = np.asarray(given)
            self._check_shape(given.shape)
        for number, result in enumerate(self.map(function, given)):
            if isinstance(result, DataError):
                name = f"picture {number}" if isinstance(given[number], bytes) else given[number]
                raise DataError(f"{name}: {result}") from result
            yield result[1]

    def map(
        self,
        function: Callable[[Images], PyTree],
        images: Sequence[File | DataError | np.ndarray] | np.ndarray,
    ) -> Iterator[tuple[np.ndarray, PyTree] | DataError]:
        """Yields each picture's pixels and its part of what `function` computes for a batch.

        For any number of pictures, of which it holds three batches in memory. Threads decode the
        next batch while the device computes the current one. All batches have the same size, so
        the network is compiled once.

        Args:
          function: From a batch of images to arrays with a first axis of the same size.
          images: Files, or arrays of `info.image_shape`. For one that cannot be read, or that is
            an error, the error takes the place of the result.
        """
        if not len(images):
            return
        batches = -(-len(images) // BATCH_SIZE)
        size = -(-len(images) // batches)  # equal batches need little padding

        def decode(image: File | DataError | np.ndarray) -> np.ndarray | DataError:
            try:
                return image if isinstance(image, DataError | np.ndarray) else self._read(image)
            except DataError as error:
                return error

        def compute(decoding: list[Future]) -> tuple[list, PyTree]:
            decoded = [future.result() for future in decoding]
            blank = np.zeros(self.info.image_shape, np.uint8)
            pixels = [blank if isinstance(each, DataError) else each for each in decoded]
            return decoded, function(np.stack(pixels + [blank] * (size - len(pixels))))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = _one_ahead(
                [pool.submit(decode, image) for image in images[start : start + size]]
                for start in range(0, len(images), size)
            )
            for decoded, computed in _one_ahead(map(compute, futures)):
                found = jax.device_get(computed)
                for row, each in enumerate(decoded):
                    if isinstance(each, DataError):
                        yield each
                    else:
                        yield each, jax.tree.map(lambda leaf, row=row: leaf[row], found)

    def probabilities(self, images: Images, tta: str = "none") -> Float[Array, "batch classes"]:
        """The probability of each class; arguments and errors are those of `logits`."""
        return jax.nn.softmax(self.logits(images, tta))

    def logits(self, images: Images, tta: str = "none") -> Float[Array, "batch classes"]:
        """The logits in inference mode; their softmax is the class probabilities.

        Args:
          images: A batch of images of `info.image_shape`; uint8 from 0 to 255, or floats from 0
            to 1.
          tta: Test-time augmentation, see `augment.views`.

        Raises:
          UserError: The images have another shape or type, or floats outside 0 to 1.
        """
        return _logits(self.state, self._check(images), self.info, tta)

    def activations(self, images: Images, layer: str) -> Float[Array, "batch ..."]:
        """The output of a layer in inference mode, in float32.

        Args:
          images: As for `logits`.
          layer: Its path as `train.summarize` prints it, or a part of that: inception4e,
            inception4e.conv3x3. A convolution counts with its BatchNorm and ReLU. "dropout" is
            the vector that GoogLeNet's classifier gets: the mean over the last block's pixels.

        Raises:
          UserError: See `logits`; or there is no such layer.
        """
        return _activations(self.state, self._check(images), self.info, layer)

    def explain(
        self, images: Images
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch map_height map_width"]]:
        """The logits, and where each image looks like its most probable class.

        Args:
          images: As for `logits`.

        Returns:
          See `TrainState.class_maps`.
        """
        return _class_maps(self.state, self._check(images), self.info)

    def _check(self, images: Any) -> Array:
        """The images with pixels of 0 to 255; raises as `logits` does."""
        images = jnp.asarray(images)
        self._check_shape(images.shape)
        if jnp.issubdtype(images.dtype, jnp.floating):
            if images.size and not isinstance(images, jax.core.Tracer):
                low, high = float(images.min()), float(images.max())
                if not 0 <= low <= high <= 1:  # NaN as well
                    raise UserError(
                        f"images of type {images.dtype} with values from {low:.4g} to {high:.4g}: "
                        "floats must lie in 0 to 1; pixels of 0 to 255 must be uint8"
                    )
            return images * 255
        if images.dtype != jnp.uint8:
            raise UserError(f"images of type {images.dtype}: must be uint8 or a float type")
        return images

    def _check_shape(self, shape: tuple[Any, ...]) -> None:
        if shape[1:] != self.info.image_shape:
            sides = ", ".join(map(str, self.info.image_shape))
            raise UserError(f"images of shape {shape}: must be (batch, {sides})")


@functools.partial(jax.jit, static_argnames=("info", "tta"))
def _logits(state: TrainState, images: Array, info: DatasetInfo, tta: str) -> Array:
    return state.logits(normalize(images, info.mean, info.std), tta)


@functools.partial(jax.jit, static_argnames=("info", "layer"))
def _activations(state: TrainState, images: Array, info: DatasetInfo, layer: str) -> Array:
    found = state.activations(normalize(images, info.mean, info.std))
    if layer in found:
        return found[layer].astype(jnp.float32)
    parent = layer.rpartition(".")[0]
    names = [name for name in found if name.rpartition(".")[0] == parent]
    names = names or [name for name in found if "." not in name]
    part = next((f"; a part is named like {name}" for name in found if "." in name), "")
    raise UserError(f"layer {layer!r}: must be one of {', '.join(names)}{part}")


@functools.partial(jax.jit, static_argnames=("info",))
def _class_maps(state: TrainState, images: Array, info: DatasetInfo) -> tuple[Array, Array]:
    return state.class_maps(normalize(images, info.mean, info.std))


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the same items, each one after the next has been taken from `items`."""
    for item, _ in itertools.pairwise(itertools.chain(items, [None])):
        yield item  # type: ignore[misc]
