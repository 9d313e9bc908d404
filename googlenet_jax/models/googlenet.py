"""GoogLeNet after Szegedy et al., "Going Deeper with Convolutions" (2014), and its variants.

The fields of a `ModelConfig` choose among the paper's network and those that were made of it.
What all of them do otherwise than the paper: no local response normalisation (BatchNorm in every
unit, or nothing, stands in its place), and the auxiliary heads hang on the same two blocks at
every image size.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from googlenet_jax.config import ModelConfig
from googlenet_jax.errors import ConfigError
from googlenet_jax.models import ops
from googlenet_jax.models.layers import (
    Features,
    Images,
    Linear,
    MaxPool,
    Unit,
    apply_together,
    call,
    resize,
    scaled,
)

Logits = Float[Array, "batch classes"]


class Widths(NamedTuple):
    """The channel counts of an Inception block, a row of the paper's Table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


CONV1, CONV2 = 64, 192
INCEPTION = {
    #             1x1  3x3r  3x3  5x5r  5x5  pool
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
AUX_CONV, AUX_HIDDEN = 128, 1024
AUX_SIDE = 4  # of the pooled image in a head, at 224 pixels: 128 x 4 x 4 features


class Inception(nnx.Module):
    """Four branches on one input, concatenated: 1x1 | 1x1-3x3 | 1x1-5x5 | maxpool-1x1."""

    def __init__(self, in_channels: int, widths: Widths, config: ModelConfig):
        self.conv1x1 = Unit(in_channels, widths.conv1x1, 1, config)
        self.reduce3x3 = Unit(in_channels, widths.reduce3x3, 1, config)
        self.conv3x3 = Unit(widths.reduce3x3, widths.conv3x3, 3, config)
        self.reduce5x5 = Unit(in_channels, widths.reduce5x5, 1, config)
        # Not the paper's: torchvision has one 3x3 here, the PyTorch CIFAR zoo two.
        size = 5 if config.conv5x5 == "5x5" else 3
        self.conv5x5 = Unit(widths.reduce5x5, widths.conv5x5, size, config)
        doubled = config.conv5x5 == "two_3x3"
        self.conv5x5_second = Unit(widths.conv5x5, widths.conv5x5, 3, config) if doubled else absent
        self.pool = MaxPool(3, 1, padding=1)
        self.pool_proj = Unit(in_channels, widths.pool_proj, 1, config)
        self.out_channels = widths.conv1x1 + widths.conv3x3 + widths.conv5x5 + widths.pool_proj

    def __call__(self, x: Images, train: bool) -> Features:
        """The four branches' channels, in the paper's order."""
        with jax.named_scope("reduce"):
            conv1x1, reduced3x3, reduced5x5 = apply_together(
                [self.conv1x1, self.reduce3x3, self.reduce5x5], x, train
            )
        conv5x5 = call(self, "conv5x5", reduced5x5, train)
        branches = [
            conv1x1,
            call(self, "conv3x3", reduced3x3, train),
            call(self, "conv5x5_second", conv5x5, train),
            call(self, "pool_proj", call(self, "pool", x), train),
        ]
        return ops.concatenate(branches)


class AuxiliaryPool(nnx.Module):
    """The average pooling of an auxiliary head: 5x5/3, or torchvision's, adaptive to 4x4."""

    def __init__(self, config: ModelConfig):
        self.adaptive = config.aux_pool == "adaptive"
        self.precision = config.matmul_precision

    def out_size(self, size: int) -> int:
        """The side of what comes of images of side `size`.

        Raises:
          ConfigError: they are smaller than the window.
        """
        if self.adaptive:
            return AUX_SIDE
        if size < 5:
            raise ConfigError(
                f"model.aux_heads=True: inception4a's {size}x{size} pixels are fewer than their "
                "5x5 pooling needs"
            )
        return (size - 5) // 3 + 1

    def __call__(self, x: Images) -> Features:
        """The means."""
        rows, columns = (jnp.asarray(self.means(size), x.dtype) for size in x.shape[1:3])
        return jnp.einsum("oh,bhwc,pw->bopc", rows, x, columns, precision=self.precision)

    def means(self, size: int) -> Float[np.ndarray, "out_size size"]:
        """The matrix that averages `size` pixels into the outputs."""
        out = np.arange(self.out_size(size))[:, None]
        start, end = 3 * out, 3 * out + 5
        if self.adaptive:  # as PyTorch divides them: neighbouring windows may overlap
            start, end = out * size // AUX_SIDE, -(-(out + 1) * size // AUX_SIDE)
        pixel = np.arange(size)
        return ((start <= pixel) & (pixel < end)) / (end - start)


class AuxiliaryHead(nnx.Module):
    """A classifier on an inner block, which helps the blocks below it to learn.

    Args:
      in_channels: of the block.
      sides: height and width of its images.
      num_classes: of the logits.
      config: of the network.
    """

    def __init__(self, in_channels: int, sides: list[int], num_classes: int, config: ModelConfig):
        conv, hidden = scaled(AUX_CONV, config), scaled(AUX_HIDDEN, config)
        self.pool = AuxiliaryPool(config)
        self.conv = Unit(in_channels, conv, 1, config)
        pixels = math.prod(self.pool.out_size(side) for side in sides)
        self.fc1 = Linear(conv * pixels, hidden, config)
        self.dropout = nnx.Dropout(config.aux_dropout_rate)
        self.fc2 = Linear(hidden, num_classes, config)

    def __call__(self, x: Images, key: PRNGKeyArray | None) -> Logits:
        """Its logits, in training mode."""
        x = self.conv(self.pool(x), True)
        x = jax.nn.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc2(self.dropout(x, deterministic=False, rngs=key))


class GoogLeNet(nnx.Module):
    """The network that a config describes; its layers carry the paper's names.

    Args:
      config: of the network.
      image_shape: (height, width, channels) of the images, before `config.image_size`.
      num_classes: of the logits.

    Raises:
      ConfigError: the images are too small for it.
    """

    def __init__(self, config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int):
        self.image_size = config.image_size
        channels = image_shape[2]
        sides = [config.image_size or side for side in image_shape[:2]]
        conv1, conv2 = scaled(CONV1, config), scaled(CONV2, config)

        def pool(number: int, window: int = 3) -> Callable[[Images], Features]:
            """The trunk's pool of that number, if the network has it; halves the sides."""
            nonlocal sides
            if str(number) not in config.pools:
                return absent  # left out for small images: inception5b is to see more than a pixel
            found = MaxPool(window, 2, padding=1 if config.pool_padding == "one" else None)
            sides = [found.out_size(side) for side in sides]
            return found

        def inception(name: str) -> Inception:
            nonlocal channels
            widths = Widths(*(scaled(width, config) for width in INCEPTION[name]))
            block = Inception(channels, widths, config)
            channels = block.out_channels
            return block

        def head() -> AuxiliaryHead | None:
            if not config.aux_heads:
                return None
            return AuxiliaryHead(channels, sides, num_classes, config)

        # "single" is the PyTorch CIFAR zoo's stem: 192 channels at once.
        single = config.stem == "single"
        size, stride = (7, 2) if config.stem == "7x7" else (3, 1)
        self.conv1 = Unit(channels, conv2 if single else conv1, size, config, stride)
        sides = [-(-side // stride) for side in sides]
        self.maxpool1 = pool(1)
        self.conv2_reduce = Unit(conv1, conv1, 1, config) if config.conv2_reduce else absent
        self.conv2 = absent if single else Unit(conv1, conv2, 3, config)
        channels = conv2
        self.maxpool2 = pool(2)
        self.inception3a = inception("3a")
        self.inception3b = inception("3b")
        self.maxpool3 = pool(3)
        self.inception4a = inception("4a")
        self.aux1 = head()
        self.inception4b = inception("4b")
        self.inception4c = inception("4c")
        self.inception4d = inception("4d")
        self.aux2 = head()
        self.inception4e = inception("4e")
        self.maxpool4 = pool(4, config.pool4_window)
        self.inception5a = inception("5a")
        self.inception5b = inception("5b")
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.fc = Linear(channels, num_classes, config)

    def __call__(
        self, x: Images, *, train: bool, key: PRNGKeyArray | None = None
    ) -> tuple[Logits, tuple[Logits, ...]]:
        """Logits of normalised images, and those of the auxiliary heads, in training only.

        Args:
          x: images, NHWC.
          train: normalise by the batch's statistics, update the running ones, drop out.
          key: of dropout; needed in training.
        """
        aux_logits: list[Logits] = []
        x = resize(x, self.image_size)
        x = call(self, "conv1", x, train)
        x = call(self, "maxpool1", x)
        x = call(self, "conv2_reduce", x, train)
        x = call(self, "conv2", x, train)
        x = call(self, "maxpool2", x)
        x = call(self, "inception3a", x, train)
        x = call(self, "inception3b", x, train)
        x = call(self, "maxpool3", x)
        x = call(self, "inception4a", x, train)
        if train and self.aux1 is not None:
            aux_logits.append(call(self, "aux1", x, _part(key, 1)))
        x = call(self, "inception4b", x, train)
        x = call(self, "inception4c", x, train)
        x = call(self, "inception4d", x, train)
        if train and self.aux2 is not None:
            aux_logits.append(call(self, "aux2", x, _part(key, 2)))
        x = call(self, "inception4e", x, train)
        x = call(self, "maxpool4", x)
        x = call(self, "inception5a", x, train)
        x = call(self, "inception5b", x, train)
        x = x.mean(axis=(1, 2))
        x = self.dropout(x, deterministic=not train, rngs=key)
        return call(self, "fc", x), tuple(aux_logits)


def absent(x: Images, train: bool = False) -> Images:
    """Stands for a layer that a variant leaves out."""
    return x


def _part(key: PRNGKeyArray | None, number: int) -> PRNGKeyArray | None:
    return None if key is None else jax.random.fold_in(key, number)
