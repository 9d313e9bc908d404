"""Augmentation: pure functions on batches of images, run on the device."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

Images = Float[Array, "batch height width channels"]
Pixels = UInt8[Array, "batch height width channels"]


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
    key: PRNGKeyArray,
    images: Pixels,
    *,
    pad: int,
    pad_mode: str,
    random_flip: bool,
    mirrored: Bool[Array, " batch"] | None = None,
) -> Pixels:
    """The article's augmentation: a random crop of the padded image, and a random mirror.

    Args:
      key: For the crop and the mirror.
      images: Pixels, NHWC.
      pad: Pixels added on each side.
      pad_mode: See `crop`.
      random_flip: Mirror a random half of the images.
      mirrored: Mirror these images; None: none beside the random half.
    """
    crop_key, flip_key = jax.random.split(key)
    if pad:
        offsets = jax.random.randint(crop_key, (len(images), 2), 0, 2 * pad + 1)
        images = crop(images, offsets, pad, pad_mode)
    if random_flip:
        images = flip(images, jax.random.bernoulli(flip_key, shape=(len(images),)))
    if mirrored is not None:
        images = flip(images, mirrored)
    return images


def alternating(
    key: PRNGKeyArray, index: Int[Array, " batch"], epoch: Int[Array, ""]
) -> Bool[Array, " batch"]:
    """Which images to mirror: a random half in the first epoch, then the others, in turn.

    Two epochs in a row show both sides of every image (Jordan, "94% on CIFAR-10 in 3.29 Seconds
    on a Single GPU", 2024, section 3.6).

    Args:
      key: The run's key, the same in every step.
      index: Positions of the images in the data set.
      epoch: Counted from 0.
    """
    first = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(index)
    return first ^ (epoch % 2 == 1)


def views(images: Images, tta: str) -> list[tuple[float, Images]]:
    """Views of images for test-time augmentation, each with its weight; the weights sum to 1.

    After airbench (Jordan, 2024): "mirror" has the image and its mirror image. "shifts" has in
    addition both of them moved by one pixel to the upper left and to the lower right, filled by
    reflection, with half of the weight.

    Args:
      images: Normalised, NHWC.
      tta: "none", "mirror" or "shifts".
    """
    if tta == "none":
        return [(1, images)]
    found = [(1.0, images)]
    if tta == "shifts":
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        moved = [padded[:, i : i + height, i : i + width] for i in (0, 2)]
        found = [(0.5, images), *((0.25, each) for each in moved)]
    return [(w / 2, side) for w, view in found for side in (view, view[:, :, ::-1])]


def cutout(key: PRNGKeyArray, images: Images, size: int) -> Images:
    """Sets a square to 0 in each image (DeVries & Taylor, "Improved Regularization...", 2017).

    The square's centre is anywhere in the image, so that part of it may lie outside.

    Args:
      key: For the centres.
      images: Normalised, so that 0 is the mean colour.
      size: Side of the square, in pixels.
    """
    height, width = images.shape[1:3]
    centers = jax.random.randint(key, (len(images), 2), 0, jnp.array([height, width]))
    inside = _boxes(centers, jnp.full((2,), size), height, width)
    return jnp.where(inside[..., None], 0, images)


def mix(
    key: PRNGKeyArray,
    images: Images,
    targets: Float[Array, "batch classes"],
    *,
    mixup: float,
    cutmix: float,
) -> tuple[Images, Float[Array, "batch classes"]]:
    """Mixes each image of a batch with the one before it, by mixup or CutMix.

    Mixup adds share x image + (1 - share) x other (Zhang et al., "mixup: Beyond Empirical Risk
    Minimization", 2018). CutMix puts a box of the other image in, 1 - share of the area (Yun et
    al., "CutMix", 2019). The share is drawn once for the batch from Beta(alpha, alpha); the targets
    are mixed in the same shares.

    Args:
      key: For the share, the box, and which of the two is used.
      images: Normalised, NHWC.
      targets: The probability of each class.
      mixup: Its alpha; 0: never.
      cutmix: Its alpha; 0: never. If both are above 0, each batch has either with probability 1/2.
    """
    share_key, box_key, which_key = jax.random.split(key, 3)
    others, other_targets = jnp.roll(images, 1, axis=0), jnp.roll(targets, 1, axis=0)

    def mixed_up() -> tuple[Array, Array]:
        share = jax.random.beta(share_key, mixup, mixup)
        return share * images + (1 - share) * others, share

    def cut_and_mixed() -> tuple[Array, Array]:
        share = jax.random.beta(share_key, cutmix, cutmix)
        height, width = images.shape[1:3]
        center = jax.random.randint(box_key, (1, 2), 0, jnp.array([height, width]))
        sides = jnp.sqrt(1 - share) * jnp.array([height, width], jnp.float32)
        inside = _boxes(center, sides.astype(jnp.int32), height, width)
        return jnp.where(inside[..., None], others, images), 1 - inside.mean(dtype=jnp.float32)

    if mixup and cutmix:
        which = jax.random.bernoulli(which_key)
        images, share = lax.cond(which, mixed_up, cut_and_mixed)
    else:
        images, share = mixed_up() if mixup else cut_and_mixed()
    return images, share * targets + (1 - share) * other_targets


def _boxes(
    centers: Int[Array, "boxes 2"], sides: Int[Array, "2"], height: int, width: int
) -> Bool[Array, "boxes height width"]:
    """Which pixels lie in a box of those sides around each centre."""

    def within(size: int, center: Array, side: Array) -> Array:
        start = center[:, None] - side // 2
        return (jnp.arange(size) >= start) & (jnp.arange(size) < start + side)

    rows = within(height, centers[:, 0], sides[0])
    columns = within(width, centers[:, 1], sides[1])
    return rows[:, :, None] & columns[:, None, :]
