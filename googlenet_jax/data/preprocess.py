"""From stored pixels to what a network sees, as a config and a data set describe it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, UInt8

from googlenet_jax.config import DataConfig
from googlenet_jax.data import DatasetInfo, augment

Images = Float[Array, "batch height width channels"]
Pixels = UInt8[Array, "batch ..."]  # images, or each image as one row of bytes

CUTOUT, MIX = 2, 3  # folded into a step's key; `augment` splits it, which uses up 0 and 1


class Batch(NamedTuple):
    """Stored images of one training step.

    Attributes:
      pixels: Images, or rows of bytes.
      labels: Class indices.
      mirrored: Which images `augment.alternating` mirrors in this epoch; None for a stream.
    """

    pixels: Pixels
    labels: Int[Array, " batch"]
    mirrored: Bool[Array, " batch"] | None = None


ForTraining = Callable[[PRNGKeyArray, Batch], tuple[Images, Float[Array, "batch classes"] | None]]
"""(key, batch) -> (normalised images, the probability of each class if images are mixed)."""
ForEvaluation = Callable[[Pixels], Images]
"""Stored images -> normalised images."""


def normalize(
    images: Num[Array, "batch height width channels"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "batch height width channels"]:
    """Scales pixels from 0..255 to 0..1, then subtracts `mean` and divides by `std` per channel."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def augmentation(config: DataConfig) -> Callable[[PRNGKeyArray, Array, Array | None], Array]:
    """The random change of pixels that a config describes: (key, images, mirrored) -> images."""

    def change(key: PRNGKeyArray, images: Array, mirrored: Array | None) -> Array:
        return augment.augment(
            key,
            images,
            pad=config.pad,
            pad_mode=config.pad_mode,
            random_flip=config.flip and not config.alternate_flip,
            mirrored=mirrored if config.flip and config.alternate_flip else None,
        )

    return change


def for_training(config: DataConfig, info: DatasetInfo) -> ForTraining:
    """Augments, normalises, cuts out and mixes."""
    augmented, normalized = augmentation(config), for_evaluation(info)

    def preprocess(key: PRNGKeyArray, batch: Batch) -> tuple[Array, Array | None]:
        pixels = batch.pixels.reshape(-1, *info.image_shape)
        images = normalized(augmented(key, pixels, batch.mirrored))
        if config.cutout:
            images = augment.cutout(jax.random.fold_in(key, CUTOUT), images, config.cutout)
        if not config.mixup and not config.cutmix:
            return images, None
        targets = jax.nn.one_hot(batch.labels, info.num_classes)
        mix_key = jax.random.fold_in(key, MIX)
        return augment.mix(mix_key, images, targets, mixup=config.mixup, cutmix=config.cutmix)

    return preprocess


def for_evaluation(info: DatasetInfo) -> ForEvaluation:
    """Normalises."""
    return lambda pixels: normalize(pixels.reshape(-1, *info.image_shape), info.mean, info.std)
