"""The layers that all networks are made of.

They take from a `ModelConfig` what all layers of a network have in common: BatchNorm, bias,
compute type, precision.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from googlenet_jax.config import ModelConfig
from googlenet_jax.errors import ConfigError
from googlenet_jax.models import batch_norm, ops

Images = Float[Array, "batch height width channels"]
Features = Float[Array, "batch out_height out_width out_channels"]


def scaled(channels: int, config: ModelConfig) -> int:
    """A layer's channel count under the width multiplier: rounded, at least 1."""
    return max(1, round(channels * config.width_multiplier))


def call(module: nnx.Module, name: str, *arguments: Any) -> Any:
    """What a layer of `module` gives, under its name in compiled programs and profiles."""
    with jax.named_scope(name):
        return getattr(module, name)(*arguments)


def uniform(bound: float, *shape: int) -> nnx.Param:
    """A parameter that starts uniform within `bound`.

    It holds zeros until `state.create` fills all parameters from one draw: compiling a random
    generator for each shape of this network takes most of a minute on a CPU.
    """
    return nnx.Param(jnp.zeros(shape), init_bound=bound)


def kaiming_bound(fan_in: int, fan_out: int, config: ModelConfig) -> float:
    """Kaiming uniform for a ReLU (He et al., "Delving Deep into Rectifiers", 2015, section 2.2)."""
    return math.sqrt(6 / {"fan_in": fan_in, "fan_out": fan_out}[config.init])


class Conv(nnx.Module):
    """A convolution that keeps the image size, or divides it by the stride.

    Its initial weights are Kaiming uniform for a ReLU, and PyTorch's default for the bias, as in
    the article.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, config: ModelConfig, stride: int = 1
    ):
        fan_in, fan_out = size * size * in_channels, size * size * out_channels
        self.kernel = uniform(
            kaiming_bound(fan_in, fan_out, config), size, size, in_channels, out_channels
        )
        self.bias = uniform(1 / math.sqrt(fan_in), out_channels) if config.conv_bias else None
        self.stride = stride
        self.padding = ops.same_padding(size)
        self.dtype = jnp.dtype(config.dtype)
        self.precision = config.matmul_precision

    def __call__(self, x: Images) -> Features:
        """The convolved images, in the compute type."""
        x = convolve_together([self], x)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


def convolve_together(convs: list[Conv], x: Images) -> Features:
    """What convolutions of one size and stride make of the same images, without their biases.

    They are one convolution, in the compute type, whose outputs lie side by side. One product for
    a block's three 1x1 convolutions, the thinnest of 16 channels, makes a training step 1.03
    times as fast on a CPU.
    """
    first = convs[0]
    kernel = jnp.concatenate([conv.kernel[...] for conv in convs], axis=-1).astype(first.dtype)
    return ops.conv(x.astype(first.dtype), kernel, first.stride, first.padding, first.precision)


class Linear(nnx.Module):
    """A fully connected layer, with `Conv`'s initial weights; its product is in float32."""

    def __init__(self, in_features: int, out_features: int, config: ModelConfig):
        bound = kaiming_bound(in_features, out_features, config)
        self.kernel = uniform(bound, in_features, out_features)
        self.bias = uniform(1 / math.sqrt(in_features), out_features)
        self.precision = config.matmul_precision

    def __call__(self, x: Float[Array, "batch in_features"]) -> Float[Array, "batch out_features"]:
        """The weighted sums, in the parameters' type."""
        # float32, or the float64 of a test: a loss in bfloat16 would lose what it measures.
        x = x.astype(self.kernel.dtype)
        return jnp.matmul(x, self.kernel[...], precision=self.precision) + self.bias


class RunningStat(nnx.BatchStat):
    """A running mean or variance, which a step replaces as a whole.

    Flax would compare the new one's sharding with the old one's: a tracer has none, and JAX
    searches the whole trace to say so, for 2 of the 7 s in which a training step is traced.
    """

    def set_value(self, value: Array, *, index: Any = ...) -> None:
        """Takes the new value."""
        assert index is ..., "BatchNorm replaces all of it"
        self.set_raw_value(value)


def create_batch_norm(channels: int, config: ModelConfig) -> nnx.BatchNorm:
    """BatchNorm over the channels.

    Flax's momentum is the share that is kept: 0.9 is PyTorch's 0.1. The running variance is the
    biased one here and the unbiased one in PyTorch, a factor of n / (n - 1).
    """
    norm = nnx.BatchNorm(
        channels,
        momentum=config.bn_momentum,
        epsilon=config.bn_epsilon,
        dtype=jnp.dtype(config.dtype),
        rngs=nnx.Rngs(0),
    )
    norm.mean, norm.var = RunningStat(norm.mean[...]), RunningStat(norm.var[...])
    return norm


def normalize(
    norms: list[nnx.BatchNorm], x: Images, train: bool, biases: list[Array] | None = None
) -> list[Features]:
    """The ReLUs of what BatchNorm layers make of their channels, which lie side by side.

    Args:
      norms: each has its share of the channels, in this order.
      x: convolved images.
      train: normalise by the batch's statistics and update the running ones.
      biases: of the convolutions before. They only move the mean: what is normalised is the same
        without them, and their gradient is zero.
    """
    scale, shift, mean, var = (
        jnp.concatenate([getattr(norm, name)[...] for norm in norms])
        for name in ("scale", "bias", "mean", "var")
    )
    bias = jnp.concatenate(biases) if biases else 0
    epsilon, widths = norms[0].epsilon, tuple(norm.num_features for norm in norms)
    if not train:
        x = batch_norm.by_statistics(x, scale, shift, mean - bias, var, epsilon)
        return batch_norm.cut(x, widths)
    responses, batch_mean, batch_var = batch_norm.by_batch(x, scale, shift, epsilon, widths)
    kept = norms[0].momentum
    means = batch_norm.cut(kept * mean + (1 - kept) * (batch_mean + bias), widths)
    variances = batch_norm.cut(kept * var + (1 - kept) * batch_var, widths)
    for norm, mean, var in zip(norms, means, variances, strict=True):
        norm.mean.set_value(mean)
        norm.var.set_value(var)
    return responses


def noted(module: nnx.Module, x: Features) -> Features:
    """What a ReLU gave; `nnx.capture` finds it in `module`, as an `nnx.Intermediate`."""
    module.sow(nnx.Intermediate, "relu", x)
    return x


def respond(module: nnx.Module, norm: nnx.BatchNorm, x: Images, train: bool) -> Images:
    """The ReLU of BatchNorm of `x`, both of them `module`'s."""
    return noted(module, *normalize([norm], x, train))


class Unit(nnx.Module):
    """Convolution, BatchNorm if the network has it, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, config: ModelConfig, stride: int = 1
    ):
        self.conv = Conv(in_channels, out_channels, size, config, stride)
        self.bn = create_batch_norm(out_channels, config) if config.batch_norm else None

    def __call__(self, x: Images, train: bool) -> Features:
        """The unit's response; in training, by the batch's statistics."""
        return apply_together([self], x, train)[0]


def apply_together(units: list[Unit], x: Images, train: bool) -> list[Features]:
    """The responses of units of one size and stride to the same images."""
    x = convolve_together([unit.conv for unit in units], x)
    biases = [unit.conv.bias[...] for unit in units if unit.conv.bias is not None]
    norms = [unit.bn for unit in units if unit.bn is not None]
    if norms:
        responses = normalize(norms, x, train, biases)
    else:
        x = jax.nn.relu(x + jnp.concatenate(biases).astype(x.dtype) if biases else x)
        responses = batch_norm.cut(x, [unit.conv.kernel.shape[-1] for unit in units])
    return [noted(unit, y) for unit, y in zip(units, responses, strict=True)]


class MaxPool(nnx.Module):
    """Max pooling.

    Args:
      window: side of the square whose maximum is taken.
      stride: between squares.
      padding: pixels on each side; None keeps the last partial square, as the paper's sizes and
        PyTorch's `ceil_mode=True` do.
    """

    def __init__(self, window: int, stride: int, padding: int | None = None):
        self.window, self.stride, self.padding = window, stride, padding

    def _padding(self, size: int) -> tuple[int, int]:
        if self.padding is None:
            return ops.ceil_padding(size, self.window, self.stride)
        return self.padding, self.padding

    def out_size(self, size: int) -> int:
        """The side of what comes of images of side `size`.

        Raises:
          ConfigError: nothing would be left of them.
        """
        out = (size + sum(self._padding(size)) - self.window) // self.stride + 1
        if out < 1:
            raise ConfigError("the images are too small for this network: nothing is left of them")
        return out

    def __call__(self, x: Images) -> Features:
        """The maxima."""
        height, width = x.shape[1:3]
        padding = (self._padding(height), self._padding(width))
        return ops.max_pool(x, self.window, self.stride, padding)


def resize(x: Images, size: int) -> Features:
    """Images of `size` x `size` pixels, bilinear; as they are where `size` is 0."""
    batch, height, width, channels = x.shape
    if size in (0, height) and size in (0, width):
        return x
    return jax.image.resize(x, (batch, size, size, channels), "bilinear")
