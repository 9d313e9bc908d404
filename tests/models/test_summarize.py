"""The layer table: totals and rows against known numbers, formats against each other."""

import functools
import json
import math

import jax
import pytest
from flax import nnx

import train.summarize
from googlenet_jax import models
from googlenet_jax.config import ModelConfig
from googlenet_jax.errors import ConfigError, DataError, UserError
from googlenet_jax.models.layer_table import LEAVES, LayerRow, layer_table, totals
from googlenet_jax.models.layers import Linear

IMAGENET, CIFAR = ((224, 224, 3), 1000), ((32, 32, 3), 10)
PAPER = {"stem": "7x7", "pools": "1234", "batch_norm": False}
STEM = {"stem": "7x7", "pools": "4", "batch_norm": False}
ROW10 = {"stem": "single", "conv5x5": "two_3x3", "pool_padding": "one"}
NETWORKS = {
    # Settings, images and classes, parameters, millions of MACs of the convolutions.
    "ImageNet": (PAPER, IMAGENET, 6_994_392, "1,568.8"),
    "ImageNet, heads": (PAPER | {"aux_heads": True}, IMAGENET, 13_374_120, "1,568.8"),
    "7x7/2": (STEM, CIFAR, 5_979_642, "1,049.1"),
    "7x7/2, heads": (STEM | {"aux_heads": True}, CIFAR, 10_329_870, "1,049.1"),
    "row 3": ({"batch_norm": False}, CIFAR, 5_971_962, "1,556.9"),
    "row 8": ({}, CIFAR, 5_986_394, "1,556.9"),
    "row 10": (ROW10, CIFAR, 6_166_250, None),
    "row 9": ({"name": "preact_resnet", "conv_bias": False}, CIFAR, 1_703_258, None),
}


@functools.cache
def table_of(network):
    fields, (image_shape, num_classes), *_ = NETWORKS[network]
    return layer_table(ModelConfig(**fields), image_shape, num_classes)


def row_of(network, name):
    (row,) = (row for row in table_of(network) if row.name == name)
    return row


@pytest.mark.parametrize("network", NETWORKS)
def test_totals_are_the_known_ones(network):
    fields, _, parameters, conv_macs = NETWORKS[network]
    sums = totals(table_of(network))
    assert sums["all"].parameters == parameters
    assert sums["all"].parameter_bytes == 4 * parameters
    if conv_macs:
        assert f"{sums['inference'].conv_macs / 1e6:,.1f}" == conv_macs
    assert (sums["heads"].parameters > 0) == fields.get("aux_heads", False)


def test_what_the_heads_add():
    """Two 1x1 convolutions at 4x4 pixels, from 512 and from 528 channels to 128."""
    sums = totals(table_of("7x7/2, heads"))
    without = totals(table_of("7x7/2"))
    assert sums["inference"] == without["inference"] == without["all"]
    # The head pools 16x16 pixels to 4x4, as it pools the paper's 14x14.
    assert sums["heads"].conv_macs == 16 * 128 * (512 + 528)
    assert f"{sums['heads'].conv_macs / 1e6:.2f}" == "2.13"
    assert sums["heads"].macs == 16 * 128 * (512 + 528) + 2 * (2048 * 1024 + 1024 * 10)
    assert totals(table_of("ImageNet, heads"))["heads"].conv_macs == sums["heads"].conv_macs


@pytest.mark.parametrize("network", ["7x7/2, heads", "row 8"])
def test_every_parameter_is_in_a_row(network):
    fields, (image_shape, num_classes), *_ = NETWORKS[network]
    whole = nnx.eval_shape(lambda: models.create(ModelConfig(**fields), image_shape, num_classes))
    params = jax.tree.leaves(nnx.to_pure_dict(nnx.state(whole, nnx.Param)))
    assert sum(row.parameters for row in table_of(network)) == sum(
        math.prod(leaf.shape) for leaf in params
    )


def test_rows_by_hand():
    """One layer of each kind, from the definition of the figures."""
    image, large, small = (32, 32), (32, 32, 480), (16, 16, 480)
    assert row_of("row 8", "conv1.conv") == LayerRow(
        name="conv1.conv",
        kind="Conv",
        input_shape=(*image, 3),
        output_shape=(*image, 64),
        parameters=3 * 3 * 3 * 64 + 64,  # 1,792
        output_bytes=32 * 32 * 64 * 4,  # 256 KiB
        macs=32 * 32 * 64 * 3 * 3 * 3,  # 1,769,472
        flops=2 * 1_769_472 + 65_536,  # plus the bias
        training_only=False,
    )
    assert row_of("row 8", "conv1.bn") == LayerRow(
        "conv1.bn", "BatchNorm", (*image, 64), (*image, 64), 128, 262_144, 0, 131_072, False
    )
    assert row_of("row 8", "maxpool3") == LayerRow(
        "maxpool3", "MaxPool", large, small, 0, 491_520, 0, 8 * 122_880, False
    )
    assert row_of("row 8", "fc") == LayerRow(
        "fc", "Linear", (1024,), (10,), 10_250, 40, 10_240, 20_490, False
    )
    assert row_of("7x7/2, heads", "aux1.pool") == LayerRow(
        *("aux1.pool", "AuxiliaryPool", (16, 16, 512), (4, 4, 512)),
        *(0, 32_768, 0, 25 * 8192, True),
    )
    assert row_of("row 9", "conv1").flops == 2 * row_of("row 9", "conv1").macs  # no bias


def test_order_is_that_of_the_calls():
    names = [row.name for row in table_of("row 8")]
    units = ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool", "pool_proj")
    block = [
        f"inception3a.{unit}{layer}"
        for unit in units
        for layer in ([""] if unit == "pool" else [".conv", ".bn"])
    ]
    assert names[:4] == ["conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn"]
    assert names[4 : 4 + len(block)] == block
    assert names[-1] == "fc"
    assert len(set(names)) == len(names)
    heads = [row.name for row in table_of("7x7/2, heads") if row.training_only]
    layers = ("pool", "conv.conv", "fc1", "fc2")
    assert heads == [f"{head}.{layer}" for head in ("aux1", "aux2") for layer in layers]


def test_bfloat16_outputs_take_half_the_bytes():
    """Except the classifier's, which are float32."""
    rows = layer_table(ModelConfig(dtype="bfloat16", width_multiplier=1 / 16), *CIFAR)
    for row in rows:
        itemsize = 4 if row.kind == "Linear" else 2
        assert row.output_bytes == itemsize * math.prod(row.output_shape)


def test_classes_are_as_before(monkeypatch):
    before = [kind.__call__ for kind in LEAVES]
    layer_table(ModelConfig(name="preact_resnet", depth=11), *CIFAR)
    assert [kind.__call__ for kind in LEAVES] == before

    def broken(self, x):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(Linear, "__call__", broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        layer_table(ModelConfig(name="preact_resnet", depth=11), *CIFAR)
    monkeypatch.undo()
    assert [kind.__call__ for kind in LEAVES] == before


ROUNDING = 0.00501  # of two decimals; slightly more for ties


def printed(capsys, *arguments):
    train.summarize.main(list(arguments))
    return capsys.readouterr().out


def numbers(cells):
    return [float(cell.replace(",", "")) for cell in cells]


def test_formats_agree(capsys):
    arguments = ["--config=digits", "--config.model.aux_heads=True"]
    arguments.append("--config.model.aux_pool=adaptive")
    text = printed(capsys, *arguments)
    markdown = printed(capsys, "--format", "markdown", *arguments)
    found = json.loads(printed(capsys, "--format=json", *arguments))

    # At least two spaces separate the aligned columns.
    cells = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()
    ]
    assert cells == [
        [cell.strip() for cell in line.strip("|").split("|") if cell.strip()]
        for line in markdown.splitlines()
        if not line.startswith("| ---")
    ]
    middle, end = (number for number, each in enumerate(cells) if not each)
    rows, blocks, sums = cells[1:middle], cells[middle + 1 : end], cells[end + 1 :]
    assert len(rows) == len(found["rows"])
    for (name, *shapes, parameters, kib, macs, flops), row in zip(rows, found["rows"], strict=True):
        assert name == row["name"] + " (training)" * row["training_only"]
        assert shapes == ["x".join(map(str, row[f"{end}_shape"])) for end in ("input", "output")]
        expected = [row[field] for field in ("parameters", "macs", "flops")]
        assert numbers([parameters, macs, flops]) == expected
        assert numbers([kib]) == pytest.approx([row["output_bytes"] / 1024], abs=ROUNDING)

    assert blocks[0] == ["block", "parameters", "outputs KiB", "MACs", "FLOPs"]
    assert [name for name, *_ in blocks[1:]] == list(found["blocks"])
    for name, parameters, kib, macs, flops in blocks[1:]:
        members = [row for row in found["rows"] if row["name"].partition(".")[0] == name]
        for text, field in ((parameters, "parameters"), (macs, "macs"), (flops, "flops")):
            assert numbers([text]) == [sum(row[field] for row in members)]
            assert found["blocks"][name][field] == sum(row[field] for row in members)
        kibs = sum(row["output_bytes"] for row in members) / 1024
        assert numbers([kib]) == pytest.approx([kibs], abs=ROUNDING)
    assert {"conv1", "inception3a", "inception5b", "aux1", "fc"} < {*found["blocks"]}

    units = {
        "parameters": ("parameters", 1),
        "parameters MB": ("parameter_bytes", 1e6),
        "outputs MiB": ("output_bytes", 2**20),
        "convolutions' MACs": ("conv_macs", 1),
        "MACs": ("macs", 1),
        "FLOPs": ("flops", 1),
    }
    assert sums[0] == ["total", "inference", "heads (training)", "all"]
    assert [name for name, *_ in sums[1:]] == list(units)
    for name, *values in sums[1:]:
        field, unit = units[name]
        expected = [found["totals"][part][field] / unit for part in ("inference", "heads", "all")]
        assert numbers(values) == pytest.approx(expected, abs=0 if unit == 1 else ROUNDING)

    for field in ("parameters", "macs", "flops", "output_bytes"):
        for part, counts in (("inference", [False]), ("heads", [True]), ("all", [False, True])):
            total = sum(row[field] for row in found["rows"] if row["training_only"] in counts)
            assert found["totals"][part][field] == total


def test_images_and_classes_are_the_data_set_s(capsys):
    small = ["--config.model.width_multiplier=0.1", "--format=json"]
    rows = json.loads(printed(capsys, "--config=cifar100", "--config.data.downscale=2", *small))
    assert rows["rows"][0]["input_shape"] == [16, 16, 3]
    assert rows["rows"][-1]["output_shape"] == [100]
    resized = printed(capsys, "--config=digits", "--config.model.image_size=48", *small)
    assert json.loads(resized)["rows"][0]["input_shape"] == [48, 48, 1]


def test_the_schedule_by_hand(capsys):
    """1,442 images make 45 steps of 32; epochs of one rate share a line."""
    digits = ["--config=digits", "--schedule", "--config.optimizer.learning_rate=0.2"]
    digits += ["--config.optimizer.warmup_epochs=1.5", "--config.train.epochs=6"]
    digits += ["--config.optimizer.schedule=step", "--config.optimizer.decay_at=0.5"]
    header, columns, *lines = printed(capsys, *digits).splitlines()
    assert header == "270 steps, 45 an epoch"
    assert columns.split() == ["epochs", "steps", "learning", "rate"]
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert rows == [
        ["1", "1 to 45", "0.002941 to 0.1324", 20 * "#"],  # 1/68 and 45/68 of 0.2
        ["2", "46 to 90", "0.1353 to 0.2", 30 * "#"],
        ["3", "91 to 135", "0.2", 30 * "#"],
        ["4 to 6", "136 to 270", "0.02", 3 * "#"],
    ]
    cut = printed(capsys, *digits, "--config.train.steps=100", "--config.optimizer.decay_at=0.9")
    assert cut.splitlines()[-1].split()[:6] == ["3", "91", "to", "100", "0.02", "###"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--format=xml"], UserError, "--format: invalid choice: 'xml'.*text.*markdown.*json"),
        (
            ["--schedule", "--format=json"],
            UserError,
            "--format: not allowed with argument --schedule",
        ),
        (["--schedule"], DataError, "no CIFAR data is on this machine"),
        (["--format"], UserError, "--format: expected one argument"),
        (["--formats=json"], UserError, "--formats: no such flag"),
        (["--config.model.depth=12"], ConfigError, "model.depth=12"),
        (
            ["--config.data.name=tfds:mnist"],
            UserError,
            "'tfds:mnist': its image size and classes are not known before it is read; ",
        ),
        (["--config.data.downscale=3"], DataError, "data.downscale=3: does not divide the 32x32"),
        (
            ["--config.data.downscale=16", "--config.model.aux_heads=True"],
            ConfigError,
            "1x1 pixels",
        ),
    ],
)
def test_wrong_input_is_one_line(arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        train.summarize.main(["--config=cifar10", *arguments])
    assert "\n" not in str(caught.value)


def test_config_is_required():
    with pytest.raises(UserError, match="--config is required once"):
        train.summarize.main([])
