"""Stored pixels to network input: pure functions on batches, run on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, UInt8

Pixels = UInt8[Array, "batch height width channels"]


def normalize(
    images: Num[Array, "batch height width channels"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "batch height width channels"]:
    """Scales pixels from 0..255 to 0..1, then subtracts `mean` and divides by `std` per channel."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def crop(images: Pixels, offsets: Int[Array, "batch 2"], pad: int, mode: str) -> Pixels:
    """Pads each image on all sides and crops it back to its original size.

    Args:
      images: Pixels, NHWC.
      offsets: Row and column of each crop's corner in the padded image, 0 to 2 * pad.
      pad: Pixels added on each side.
      mode: "reflect" (the border pixel is not repeated) or "zeros" (black).
    """
    widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = jnp.pad(images, widths, mode="reflect" if mode == "reflect" else "constant")

    def cut(image: Array, offset: Array) -> Array:
        return lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def flip(images: Pixels, chosen: Bool[Array, " batch"]) -> Pixels:
    """Mirrors the chosen images left to right."""
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def augment(
    key: PRNGKeyArray, images: Pixels, *, pad: int, pad_mode: str, random_flip: bool
) -> Pixels:
    """The article's augmentation: a random crop of the padded image, then a random mirror."""
    crop_key, flip_key = jax.random.split(key)
    if pad:
        offsets = jax.random.randint(crop_key, (len(images), 2), 0, 2 * pad + 1)
        images = crop(images, offsets, pad, pad_mode)
    if random_flip:
        images = flip(images, jax.random.bernoulli(flip_key, shape=(len(images),)))
    return images
