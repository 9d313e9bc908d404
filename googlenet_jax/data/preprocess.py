"""Builds the function from stored pixels to network input for a config and a data set."""

from collections.abc import Callable

from jaxtyping import Array, PRNGKeyArray

from googlenet_jax.config import DataConfig
from googlenet_jax.data import DatasetInfo, augment

Preprocess = Callable[[PRNGKeyArray | None, Array], Array]
"""(key, uint8 images or rows of pixels) -> normalized images. In evaluation the key is None."""


def augmentation(config: DataConfig) -> Callable[[PRNGKeyArray, Array], Array]:
    """The random augmentation that a config asks for, from uint8 images to uint8 images."""
    return lambda key, images: augment.augment(
        key, images, pad=config.pad, pad_mode=config.pad_mode, random_flip=config.flip
    )


def for_training(config: DataConfig, info: DatasetInfo) -> Preprocess:
    """Augments and normalizes."""
    augmented, normalized = augmentation(config), for_evaluation(info)

    def preprocess(key: PRNGKeyArray | None, images: Array) -> Array:
        assert key is not None, "augmentation needs a key"
        return normalized(None, augmented(key, images.reshape(-1, *info.image_shape)))

    return preprocess


def for_evaluation(info: DatasetInfo) -> Preprocess:
    """Normalizes only."""
    return lambda key, images: augment.normalize(
        images.reshape(-1, *info.image_shape), info.mean, info.std
    )
