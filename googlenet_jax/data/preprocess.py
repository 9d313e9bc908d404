"""From stored pixels to what a network sees, as a config and a data set have it."""

from collections.abc import Callable

from jaxtyping import Array, PRNGKeyArray

from googlenet_jax.config import DataConfig
from googlenet_jax.data import DatasetInfo, augment

Preprocess = Callable[[PRNGKeyArray | None, Array], Array]
"""(key, uint8 images or rows) -> normalised images; at evaluation the key is None."""


def augmentation(config: DataConfig) -> Callable[[PRNGKeyArray, Array], Array]:
    """The random change of stored pixels that a config describes."""
    return lambda key, images: augment.augment(
        key, images, pad=config.pad, pad_mode=config.pad_mode, random_flip=config.flip
    )


def for_training(config: DataConfig, info: DatasetInfo) -> Preprocess:
    """Augments and normalises."""
    augmented, normalized = augmentation(config), for_evaluation(info)

    def preprocess(key: PRNGKeyArray | None, images: Array) -> Array:
        assert key is not None, "training images are augmented"
        return normalized(None, augmented(key, images.reshape(-1, *info.image_shape)))

    return preprocess


def for_evaluation(info: DatasetInfo) -> Preprocess:
    """Normalises."""
    return lambda key, images: augment.normalize(
        images.reshape(-1, *info.image_shape), info.mean, info.std
    )
