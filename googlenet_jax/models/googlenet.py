"""GoogLeNet for 32x32 images, after Szegedy et al., "Going Deeper with Convolutions" (2014).

Deviations from the paper, all of them the article's for CIFAR-10: BatchNorm in every unit in
place of local response normalisation, a 3x3/1 stem in place of 7x7/2, no 1x1 reduction before
conv2, no maxpool1 and maxpool2 (so that inception5b still sees 8x8), and no auxiliary heads.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from googlenet_jax import ops

Images = Float[Array, "batch height width channels"]
Features = Float[Array, "batch height width out_channels"]


class Widths(NamedTuple):
    """The channel counts of an Inception block, a row of the paper's Table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


STEM = {"conv1": 64, "conv2": 192}
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


def uniform(bound: float, *shape: int) -> nnx.Param:
    """A parameter that starts uniform within `bound`.

    It holds zeros until `state.create` fills all parameters from one draw: compiling a random
    generator for each shape of this network takes most of a minute on a CPU.
    """
    return nnx.Param(jnp.zeros(shape), init_bound=bound)


class Conv(nnx.Module):
    """A convolution with bias that keeps the image size.

    Its initial weights are Kaiming uniform over the fan-out for a ReLU, and PyTorch's default
    for the bias, as in the article.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, dtype: DTypeLike, precision: str
    ):
        self.kernel = uniform(
            math.sqrt(6 / (size * size * out_channels)), size, size, in_channels, out_channels
        )
        self.bias = uniform(1 / math.sqrt(size * size * in_channels), out_channels)
        self.padding = ops.same_padding(size)
        self.dtype = dtype
        self.precision = precision

    def __call__(self, x: Images) -> Features:
        """The convolved images, in the compute type."""
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        return ops.conv(x.astype(self.dtype), kernel, 1, self.padding, self.precision) + bias


class Linear(nnx.Module):
    """A fully connected layer, with `Conv`'s initial weights; its product is in float32."""

    def __init__(self, in_features: int, out_features: int, precision: str):
        self.kernel = uniform(math.sqrt(6 / out_features), in_features, out_features)
        self.bias = uniform(1 / math.sqrt(in_features), out_features)
        self.precision = precision

    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """The weighted sums, in the parameters' type."""
        # float32, or the float64 of a test: a loss in bfloat16 would lose what it measures.
        x = x.astype(self.kernel.dtype)
        return jnp.matmul(x, self.kernel[...], precision=self.precision) + self.bias


class Unit(nnx.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, dtype: DTypeLike, precision: str
    ):
        self.conv = Conv(in_channels, out_channels, size, dtype, precision)
        # Flax's momentum is the share that is kept: PyTorch's 0.1. The running variance is the
        # biased one here and the unbiased one in PyTorch, a factor of n / (n - 1).
        self.bn = nnx.BatchNorm(
            out_channels, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=nnx.Rngs(0)
        )

    def __call__(self, x: Images, train: bool) -> Features:
        """The unit's response; in training, by the batch's statistics."""
        return jax.nn.relu(self.bn(self.conv(x), use_running_average=not train))


class Inception(nnx.Module):
    """Four branches on one input, concatenated: 1x1 | 1x1-3x3 | 1x1-5x5 | maxpool-1x1."""

    def __init__(self, in_channels: int, widths: Widths, dtype: DTypeLike, precision: str):
        def unit(in_channels: int, out_channels: int, size: int) -> Unit:
            return Unit(in_channels, out_channels, size, dtype, precision)

        self.conv1x1 = unit(in_channels, widths.conv1x1, 1)
        self.reduce3x3 = unit(in_channels, widths.reduce3x3, 1)
        self.conv3x3 = unit(widths.reduce3x3, widths.conv3x3, 3)
        self.reduce5x5 = unit(in_channels, widths.reduce5x5, 1)
        self.conv5x5 = unit(widths.reduce5x5, widths.conv5x5, 5)
        self.pool_proj = unit(in_channels, widths.pool_proj, 1)
        self.out_channels = widths.conv1x1 + widths.conv3x3 + widths.conv5x5 + widths.pool_proj

    def __call__(self, x: Images, train: bool) -> Features:
        """The four branches' channels, in the paper's order."""
        pooled = ops.max_pool(x, 3, 1, ops.same_padding(3))
        branches = [
            self.conv1x1(x, train),
            self.conv3x3(self.reduce3x3(x, train), train),
            self.conv5x5(self.reduce5x5(x, train), train),
            self.pool_proj(pooled, train),
        ]
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet(nnx.Module):
    """The network of 95.16 % on CIFAR-10; its layers carry the paper's names.

    Args:
      in_channels: of the images.
      num_classes: of the logits.
      width_multiplier: factor on every layer's channel count, rounded, at least 1.
      dropout_rate: before the classifier.
      dtype: of the computation; parameters and statistics are float32.
      precision: of matrix products (see `ops.conv`).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width_multiplier: float = 1.0,
        dropout_rate: float = 0.4,
        dtype: DTypeLike = jnp.float32,
        precision: str = "default",
    ):
        def scaled(channels: int) -> int:
            return max(1, round(channels * width_multiplier))

        conv1, conv2 = map(scaled, STEM.values())
        channels = conv2  # of the block before

        def inception(name: str) -> Inception:
            nonlocal channels
            widths = Widths(*map(scaled, INCEPTION[name]))
            block = Inception(channels, widths, dtype, precision)
            channels = block.out_channels
            return block

        self.conv1 = Unit(in_channels, conv1, 3, dtype, precision)
        self.conv2 = Unit(conv1, conv2, 3, dtype, precision)
        self.inception3a = inception("3a")
        self.inception3b = inception("3b")
        self.inception4a = inception("4a")
        self.inception4b = inception("4b")
        self.inception4c = inception("4c")
        self.inception4d = inception("4d")
        self.inception4e = inception("4e")
        self.inception5a = inception("5a")
        self.inception5b = inception("5b")
        self.dropout = nnx.Dropout(dropout_rate)
        self.fc = Linear(channels, num_classes, precision)

    def __call__(
        self, x: Images, *, train: bool, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits of normalised images.

        Args:
          x: images, NHWC.
          train: normalise by the batch's statistics, update the running ones, drop out.
          key: of dropout; needed in training.
        """
        x = self.conv1(x, train)
        x = self.conv2(x, train)
        x = self.inception3a(x, train)
        x = self.inception3b(x, train)
        x = trunk_pool(x)  # maxpool3
        x = self.inception4a(x, train)
        x = self.inception4b(x, train)
        x = self.inception4c(x, train)
        x = self.inception4d(x, train)
        x = self.inception4e(x, train)
        x = trunk_pool(x)  # maxpool4
        x = self.inception5a(x, train)
        x = self.inception5b(x, train)
        x = x.mean(axis=(1, 2))
        x = self.dropout(x, deterministic=not train, rngs=key)
        return self.fc(x)


def trunk_pool(x: Images) -> Float[Array, "batch out_height out_width channels"]:
    """A 3x3/2 max pooling that keeps the last partial window."""
    height, width = x.shape[1:3]
    return ops.max_pool(x, 3, 2, (ops.ceil_padding(height, 3, 2), ops.ceil_padding(width, 3, 2)))
