"""The cost of a network, layer by layer, as torchstat lists it; only shapes are computed.

All figures are for the forward pass of one image:

- MACs (multiply-accumulates): a convolution has
  out_height x out_width x out_channels x k x k x in_channels, including the zeros of the padding;
  a linear layer has in x out; other layers have none.
- FLOPs: two for each MAC, and one for each output if there is a bias. For each output, BatchNorm
  has two, because at inference its running statistics fold into one scale and one shift, and max
  pooling has window^2 - 1 comparisons. Average pooling has one for each pixel of each window.
- Memory: the layer's output, in the type in which it is computed.

ReLU, concatenation, residual additions, dropout, resizing and the global average are not counted.
Parameters are the trainable ones, so BatchNorm's running statistics do not count.
"""

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from googlenet_jax import models
from googlenet_jax.config import ModelConfig
from googlenet_jax.models import layers
from googlenet_jax.models.batch_norm import cut
from googlenet_jax.models.googlenet import AuxiliaryPool
from googlenet_jax.models.layers import Conv, Linear, MaxPool

LEAVES: tuple[Any, ...] = (Conv, Linear, nnx.BatchNorm, MaxPool, AuxiliaryPool)
HEADS = ("aux1", "aux2")


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """A layer's shapes, and its costs for one image.

    Attributes:
      name: Dotted path in the network, such as inception3a.conv1x1.conv.
      kind: Name of the layer's class, such as Conv.
      input_shape: (height, width, channels) or (features,).
      output_shape: The same for the output.
      parameters: Number of trainable numbers.
      output_bytes: Size of the output.
      macs: Multiply-accumulates.
      flops: Floating-point operations.
      training_only: Whether the layer belongs to an auxiliary head.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    output_bytes: int
    macs: int
    flops: int
    training_only: bool


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over layers, named as in `LayerRow`.

    Attributes:
      parameter_bytes: Size of the parameters in float32.
      conv_macs: MACs of the convolutions alone.
    """

    parameters: int
    parameter_bytes: int
    conv_macs: int
    macs: int
    flops: int
    output_bytes: int

    @classmethod
    def of(cls, rows: list[LayerRow]) -> "Totals":
        """The sums over `rows`."""
        parameters = sum(row.parameters for row in rows)
        return cls(
            parameters=parameters,
            parameter_bytes=4 * parameters,
            conv_macs=sum(row.macs for row in rows if row.kind == Conv.__name__),
            macs=sum(row.macs for row in rows),
            flops=sum(row.flops for row in rows),
            output_bytes=sum(row.output_bytes for row in rows),
        )


def layer_table(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int
) -> list[LayerRow]:
    """The layers of a network, auxiliary heads included, in the order of its constructor.

    Not thread-safe: while this runs, the layers' `__call__` methods are replaced.

    Args:
      config: The network's settings.
      image_shape: (height, width, channels) of the images, before `config.image_size`.
      num_classes: Number of logits.

    Raises:
      ConfigError: The images are too small for the network.
    """
    rows: list[LayerRow] = []

    def call(images: jax.Array) -> Any:
        # A block that is computed twice is traced as another object.
        network = models.create(dataclasses.replace(config, remat=False), image_shape, num_classes)
        shapes: dict[int, tuple[jax.Array, jax.Array]] = {}

        def note(layer: Any, x: jax.Array, y: jax.Array) -> None:
            shapes[id(layer)] = x, y

        with _calls_noted(note):  # in training mode: the heads run in no other
            outputs = network(images, train=True, key=jax.random.key(0))
        rows.extend(_row(name, layer, *shapes[id(layer)]) for name, layer in _leaves(network))
        return outputs

    jax.eval_shape(call, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return rows


def _leaves(module: nnx.Module, path: str = "") -> Iterator[tuple[str, Any]]:
    """Names and layers of a module in its constructor's order; Flax's is alphabetical."""
    for name, child in vars(module).items():
        if isinstance(child, LEAVES):
            yield path + name, child
        elif isinstance(child, nnx.Module):
            yield from _leaves(child, f"{path}{name}.")


def totals(rows: list[LayerRow]) -> dict[str, Totals]:
    """The sums at inference, those of the heads (training only), and both together."""
    return {
        "inference": Totals.of([row for row in rows if not row.training_only]),
        "heads": Totals.of([row for row in rows if row.training_only]),
        "all": Totals.of(rows),
    }


def blocks(rows: list[LayerRow]) -> dict[str, Totals]:
    """The sums of each block: of the layers whose names begin alike, such as inception3a."""
    grouped = itertools.groupby(rows, lambda row: row.name.partition(".")[0])
    return {name: Totals.of([*members]) for name, members in grouped}


def to_json(rows: list[LayerRow]) -> str:
    """A JSON object with `rows` of `LayerRow`, and `blocks` and `totals` of `Totals`."""
    values: dict[str, Any] = {"rows": [dataclasses.asdict(row) for row in rows]}
    for part, sums in (("blocks", blocks(rows)), ("totals", totals(rows))):
        values[part] = {name: dataclasses.asdict(each) for name, each in sums.items()}
    return json.dumps(values, indent=2)


def to_text(rows: list[LayerRow]) -> str:
    """Aligned columns: the layers, the blocks, then the totals."""

    def aligned(table: list[list[str]]) -> str:
        first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
        return "\n".join(
            "  ".join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in table
        )

    return "\n\n".join(map(aligned, _tables(rows)))


def to_markdown(rows: list[LayerRow]) -> str:
    """Three tables: the layers, the blocks, then the totals."""

    def table(cells: list[list[str]]) -> str:
        header, *body = cells
        rule = ["---", *["---:"] * (len(header) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *body))

    return "\n\n".join(map(table, _tables(rows)))


def _tables(rows: list[LayerRow]) -> tuple[list[list[str]], ...]:
    return _layer_cells(rows), _block_cells(rows), _total_cells(rows)


def _layer_cells(rows: list[LayerRow]) -> list[list[str]]:
    def shape(sizes: tuple[int, ...]) -> str:
        return "x".join(map(str, sizes))

    return [
        ["layer", "input", "output", "parameters", "output KiB", "MACs", "FLOPs"],
        *(
            [
                row.name + (" (training)" if row.training_only else ""),
                shape(row.input_shape),
                shape(row.output_shape),
                f"{row.parameters:,}",
                f"{row.output_bytes / 2**10:,.2f}",
                f"{row.macs:,}",
                f"{row.flops:,}",
            ]
            for row in rows
        ),
    ]


def _block_cells(rows: list[LayerRow]) -> list[list[str]]:
    return [
        ["block", "parameters", "outputs KiB", "MACs", "FLOPs"],
        *(
            [
                name,
                f"{each.parameters:,}",
                f"{each.output_bytes / 2**10:,.2f}",
                f"{each.macs:,}",
                f"{each.flops:,}",
            ]
            for name, each in blocks(rows).items()
        ),
    ]


def _total_cells(rows: list[LayerRow]) -> list[list[str]]:
    inference, heads, everything = totals(rows).values()
    columns = {"inference": inference}
    if any(row.training_only for row in rows):
        columns |= {"heads (training)": heads, "all": everything}
    return [
        ["total", *columns],
        ["parameters", *(f"{each.parameters:,}" for each in columns.values())],
        ["parameters MB", *(f"{each.parameter_bytes / 1e6:,.2f}" for each in columns.values())],
        ["outputs MiB", *(f"{each.output_bytes / 2**20:,.2f}" for each in columns.values())],
        ["convolutions' MACs", *(f"{each.conv_macs:,}" for each in columns.values())],
        ["MACs", *(f"{each.macs:,}" for each in columns.values())],
        ["FLOPs", *(f"{each.flops:,}" for each in columns.values())],
    ]


@contextlib.contextmanager
def _calls_noted(note: Callable[[Any, jax.Array, jax.Array], None]) -> Iterator[None]:
    """Calls `note(layer, input, output)` after each call of a leaf layer."""
    originals = {kind: kind.__call__ for kind in LEAVES if kind not in (Conv, nnx.BatchNorm)}
    convolve, normalize = layers.fused_conv, layers.fused_norm_relu

    def noting(original: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def call(layer: Any, x: jax.Array, **options: Any) -> jax.Array:
            y = original(layer, x, **options)
            note(layer, x, y)
            return y

        return call

    def convolve_and_note(convs: list[Conv], x: jax.Array) -> jax.Array:
        y = convolve(convs, x)
        for conv, part in zip(convs, cut(y, [c.kernel.shape[-1] for c in convs]), strict=True):
            note(conv, x, part)
        return y

    def normalize_and_note(norms: list[nnx.BatchNorm], *rest: Any) -> list[jax.Array]:
        responses = normalize(norms, *rest)
        for norm, response in zip(norms, responses, strict=True):
            note(norm, response, response)
        return responses

    try:
        layers.fused_conv = convolve_and_note
        layers.fused_norm_relu = normalize_and_note  # type: ignore[assignment]
        for kind, original in originals.items():
            kind.__call__ = noting(original)
        yield
    finally:
        layers.fused_conv, layers.fused_norm_relu = convolve, normalize
        for kind, original in originals.items():
            kind.__call__ = original


def _row(name: str, layer: Any, x: jax.Array, y: jax.Array) -> LayerRow:
    macs, flops = _work(layer, x.shape[1:], y.shape[1:])
    return LayerRow(
        name=name,
        kind=type(layer).__name__,
        input_shape=x.shape[1:],
        output_shape=y.shape[1:],
        parameters=sum(param.size for param in jax.tree.leaves(nnx.state(layer, nnx.Param))),
        output_bytes=y.size * y.dtype.itemsize,
        macs=macs,
        flops=flops,
        training_only=name.startswith(HEADS),
    )


def _work(
    layer: Any, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> tuple[int, int]:
    """MACs and FLOPs for one image; see the module's docstring."""
    outputs = math.prod(output_shape)
    if isinstance(layer, Conv | Linear):
        macs = outputs * math.prod(layer.kernel.shape[:-1])
        return macs, 2 * macs + (0 if layer.bias is None else outputs)
    if isinstance(layer, nnx.BatchNorm):
        return 0, 2 * outputs
    if isinstance(layer, MaxPool):
        return 0, outputs * (layer.window**2 - 1)
    rows, columns = (sum(end - start for start, end in layer.windows(n)) for n in input_shape[:2])
    return 0, rows * columns * output_shape[2]
