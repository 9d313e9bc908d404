"""The layers of all networks.

Each takes from a `ModelConfig` what the layers of a network share: BatchNorm, bias, compute type,
precision. Each module of `models` takes `rngs`, from which it draws its initial weights.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from googlenet_jax.config import ModelConfig
from googlenet_jax.errors import ConfigError
from googlenet_jax.models import batch_norm, ops

Images = Float[Array, "batch height width channels"]
Features = Float[Array, "batch out_height out_width out_channels"]


def scaled(channels: int, config: ModelConfig) -> int:
    """A layer's channel count under the width multiplier: rounded, at least 1."""
    return max(1, round(channels * config.width_multiplier))


def call(module: nnx.Module, name: str, x: Array, *arguments: Any) -> Array:
    """Calls the layer `module.<name>`; compiled programs and profiles show that name.

    A layer that is None is one that this variant leaves out: `x` comes back as it is.
    """
    layer = getattr(module, name)
    if layer is None:
        return x
    with jax.named_scope(name):
        return layer(x, *arguments)


def rematerialised(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the `__call__` of a block: with `self.remat`, training computes it twice.

    Only the block's input is kept for the backward pass, which computes the rest again.
    """

    @functools.wraps(call)
    def wrapped(self: Any, x: Array, train: bool) -> Any:
        if not (train and self.remat):
            return call(self, x, train)
        return nnx.remat(lambda block, x: call(block, x, True))(self, x)

    return wrapped


def uniform(bound: float, *shape: int) -> nnx.Param:
    """A parameter that `draw_weights` draws uniformly from [-bound, bound]; zeros until then."""
    return nnx.Param(jnp.zeros(shape), init_bound=bound)


def draw_weights(module: nnx.Module, key: PRNGKeyArray) -> None:
    """Draws all parameters that `uniform` made; the others keep their values.

    All are cut, in the alphabetical order of their paths, from one vector of random numbers:
    a generator for each of GoogLeNet's 65 shapes would take most of a minute to compile on a CPU.
    """
    params = [param for _, param in nnx.to_flat_state(nnx.state(module, nnx.Param))]
    params = [param for param in params if param.has_metadata("init_bound")]
    numbers = jax.random.uniform(key, (sum(p.size for p in params),), minval=-1, maxval=1)
    start = 0
    for param in params:
        part = numbers[start : start + param.size].reshape(param.shape)
        param.set_value(part * param.init_bound)
        start += param.size


def initialize(module: nnx.Module, rngs: nnx.Rngs | None) -> None:
    """Ends the constructor of a module: draws its weights, if it was given `rngs`.

    A module builds its parts without `rngs` and then draws all their weights at once. Without
    `rngs` they stay zeros: whoever builds the module fills them, as `training.state` does.
    """
    if rngs is not None:
        nnx.jit(draw_weights)(module, rngs.params())


def kaiming_bound(fan_in: int, fan_out: int, config: ModelConfig) -> float:
    """Kaiming uniform for a ReLU (He et al., "Delving Deep into Rectifiers", 2015, section 2.2)."""
    return math.sqrt(6 / {"fan_in": fan_in, "fan_out": fan_out}[config.init])


class Conv(nnx.Module):
    """A convolution that keeps the image size, or divides it by the stride.

    The initial weights are Kaiming uniform for a ReLU, and the biases PyTorch's default, as in
    the article.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        config: ModelConfig,
        stride: int = 1,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        fan_in, fan_out = size * size * in_channels, size * size * out_channels
        bound = kaiming_bound(fan_in, fan_out, config)
        self.kernel = uniform(bound, size, size, in_channels, out_channels)
        self.bias = uniform(1 / math.sqrt(fan_in), out_channels) if config.conv_bias else None
        self.stride = stride
        self.padding = ops.same_padding(size)
        self.dtype = jnp.dtype(config.dtype)
        self.precision = config.matmul_precision
        initialize(self, rngs)

    def __call__(self, x: Images) -> Features:
        """The convolved images, in the compute type."""
        x = fused_conv([self], x)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


def fused_conv(convs: list[Conv], x: Images) -> Features:
    """Several convolutions of `x`, without their biases, as one in the compute type.

    All have the same size and stride. Their kernels are joined along the output channels, so
    their outputs lie side by side. Fusing an Inception block's three 1x1 convolutions, of which the
    narrowest has 16 channels, makes a training step 3 % faster on a CPU.
    """
    first = convs[0]
    kernel = jnp.concatenate([conv.kernel[...] for conv in convs], axis=-1).astype(first.dtype)
    return ops.conv(x.astype(first.dtype), kernel, first.stride, first.padding, first.precision)


class Linear(nnx.Module):
    """A fully connected layer with `Conv`'s initial weights; the product is in float32."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        bound = kaiming_bound(in_features, out_features, config)
        self.kernel = uniform(bound, in_features, out_features)
        self.bias = uniform(1 / math.sqrt(in_features), out_features)
        self.precision = config.matmul_precision
        initialize(self, rngs)

    def __call__(self, x: Float[Array, "batch in_features"]) -> Float[Array, "batch out_features"]:
        """The weighted sums, in the parameters' type."""
        # float32, or a test's float64: in bfloat16 the loss would be too coarse.
        x = x.astype(self.kernel.dtype)
        return jnp.matmul(x, self.kernel[...], precision=self.precision) + self.bias


class RunningStat(nnx.BatchStat):
    """A running mean or variance, which each step replaces as a whole.

    Flax compares the sharding of the new value with the old one's. A tracer has none, and JAX
    searches the whole trace to find that out: 2 of the 7 s in which a training step is traced.
    """

    def set_value(self, value: Array, *, index: Any = ...) -> None:
        """Replaces the value, without that comparison."""
        assert index is ..., "BatchNorm replaces all of it"
        self.set_raw_value(value)


def create_batch_norm(channels: int, config: ModelConfig) -> nnx.BatchNorm:
    """BatchNorm over the channels.

    Flax's momentum is the share that is kept: 0.9 is PyTorch's 0.1. The running variance is the
    biased one here and the unbiased one in PyTorch, which is n / (n - 1) times as large.
    """
    norm = nnx.BatchNorm(
        channels,
        momentum=config.bn_momentum,
        epsilon=config.bn_epsilon,
        dtype=jnp.dtype(config.dtype),
        rngs=nnx.Rngs(0),  # draws nothing: the scale starts at 1, the bias at 0
    )
    norm.mean, norm.var = RunningStat(norm.mean[...]), RunningStat(norm.var[...])
    return norm


def fused_norm_relu(
    norms: list[nnx.BatchNorm], x: Images, train: bool, biases: list[Array] | None = None
) -> list[Features]:
    """ReLU(BatchNorm(x)) for several BatchNorm layers, whose channels lie side by side in `x`.

    Args:
      norms: The layers, in the order of their channels.
      x: Convolved images.
      train: Normalise by the batch's statistics and update the running ones, unless the layers
        are set to `use_running_average`.
      biases: Those of the convolutions before, which are not yet added. BatchNorm subtracts the
        mean, so a bias cancels out and its gradient is zero: it only moves the running mean.
    """
    epsilon, kept = norms[0].epsilon, norms[0].momentum
    scales, shifts, means, variances = (
        [getattr(norm, name)[...] for norm in norms] for name in ("scale", "bias", "mean", "var")
    )
    if not train or norms[0].use_running_average:  # the latter in a frozen trunk
        scale, shift, mean, var = map(jnp.concatenate, (scales, shifts, means, variances))
        bias = jnp.concatenate(biases) if biases else 0
        x = batch_norm.by_statistics(x, scale, shift, mean - bias, var, epsilon)
        return batch_norm.cut(x, [norm.num_features for norm in norms])
    responses, batch_means, batch_vars = batch_norm.by_batch(x, scales, shifts, epsilon)
    for i, norm in enumerate(norms):
        batch_mean = batch_means[i] + (biases[i] if biases else 0)
        norm.mean.set_value(kept * means[i] + (1 - kept) * batch_mean)
        norm.var.set_value(kept * variances[i] + (1 - kept) * batch_vars[i])
    return responses


def noted(module: nnx.Module, x: Features) -> Features:
    """Returns `x`, a ReLU's output, and sows it for `nnx.capture` as an `nnx.Intermediate`."""
    if hasattr(module, "__captures__"):  # elsewhere, the module would keep what it sows
        module.sow(nnx.Intermediate, "relu", x)
    return x


def norm_relu(module: nnx.Module, norm: nnx.BatchNorm, x: Images, train: bool) -> Features:
    """ReLU(BatchNorm(x)), with `module`'s BatchNorm `norm`."""
    return noted(module, *fused_norm_relu([norm], x, train))


class Unit(nnx.Module):
    """Convolution, BatchNorm (if `config.batch_norm`), ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        config: ModelConfig,
        stride: int = 1,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        self.conv = Conv(in_channels, out_channels, size, config, stride)
        self.bn = create_batch_norm(out_channels, config) if config.batch_norm else None
        initialize(self, rngs)

    def __call__(self, x: Images, train: bool) -> Features:
        """The unit's output; in training BatchNorm uses the batch's statistics."""
        return fused_units([self], x, train)[0]


def fused_units(units: list[Unit], x: Images, train: bool) -> list[Features]:
    """The output of each unit for `x`, by one convolution: all have the same size and stride."""
    x = fused_conv([unit.conv for unit in units], x)
    biases = [unit.conv.bias[...] for unit in units if unit.conv.bias is not None]
    norms = [unit.bn for unit in units if unit.bn is not None]
    if norms:
        outputs = fused_norm_relu(norms, x, train, biases)
    else:
        x = jax.nn.relu(x + jnp.concatenate(biases).astype(x.dtype) if biases else x)
        outputs = batch_norm.cut(x, [unit.conv.kernel.shape[-1] for unit in units])
    return [noted(unit, y) for unit, y in zip(units, outputs, strict=True)]


class MaxPool(nnx.Module):
    """Max pooling.

    Args:
      window: Side of the square window, in pixels.
      stride: Pixels from one window to the next, in both axes.
      padding: Pixels on each side. None keeps the last partial window, as the paper's sizes and
        PyTorch's `ceil_mode=True` do.
    """

    def __init__(self, window: int, stride: int, padding: int | None = None):
        self.window, self.stride, self.padding = window, stride, padding

    def _padding(self, size: int) -> tuple[int, int]:
        if self.padding is None:
            return ops.ceil_padding(size, self.window, self.stride)
        return self.padding, self.padding

    def out_size(self, size: int) -> int:
        """The side of the output for images of side `size`.

        Raises:
          ConfigError: The images are smaller than the window.
        """
        out = (size + sum(self._padding(size)) - self.window) // self.stride + 1
        if out < 1:
            raise ConfigError(
                f"the images are too small for this network: a max pool's window of {self.window} "
                f"pixels meets a side of {size}; use larger images or fewer model.pools"
            )
        return out

    def __call__(self, x: Images) -> Features:
        """The maximum of each window."""
        height, width = x.shape[1:3]
        padding = (self._padding(height), self._padding(width))
        return ops.max_pool(x, self.window, self.stride, padding)


def resize(x: Images, size: int) -> Features:
    """Resizes images to `size` x `size` pixels, bilinearly; 0 leaves them as they are."""
    batch, height, width, channels = x.shape
    if size in (0, height) and size in (0, width):
        return x
    return jax.image.resize(x, (batch, size, size, channels), "bilinear")
