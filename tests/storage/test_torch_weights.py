"""Weights from PyTorch and back: equal tensors, equal logits, clear refusals."""

import dataclasses
import errno
import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import safetensors.numpy
from PIL import Image
from sklearn.datasets import load_sample_image

import googlenet_jax
from googlenet_jax.config import Config
from googlenet_jax.data import decoding, preprocess
from googlenet_jax.data.cifar import CIFAR10
from googlenet_jax.errors import CheckpointError, UserError
from googlenet_jax.models.googlenet import AUX_SIDE
from googlenet_jax.storage import torch_weights
from googlenet_jax.storage.loading import start_from
from googlenet_jax.storage.workdir import read_config
from googlenet_jax.training import state
from train import evaluate, export_torch, flags, import_torch
from train import main as train_main

torch = pytest.importorskip("torch")
from benchmarks import torch_networks  # noqa: E402

pytestmark = pytest.mark.usefixtures("programs_freed_at_once", "compiled_quickly")
WIDTH = 1 / 16
COUNTER = "a__num_batches_tracked"
ARTICLE = {
    "row 1": {"stem": 7, "pools": "4", "head_side": AUX_SIDE, "bn": False},
    "row 3": {"bn": False},
    "row 8": {},
    "row 8, heads": {"stem": 7, "pools": "4", "head_side": AUX_SIDE},
}


def trained(network, size):
    """Two steps of SGD, so that statistics, counters and biases are not the initial ones."""
    torch.manual_seed(0)
    sgd = torch.optim.SGD(network.train().parameters(), 1e-3)
    for _ in range(2):
        outputs = network(torch.randn(4, 3, size, size))
        loss = outputs[0] if isinstance(outputs, tuple) else outputs
        loss.square().mean().backward()
        sgd.step()
    return network.eval()


def article(name):
    return trained(torch_networks.GoogLeNet(10, WIDTH, **ARTICLE[name]), 32)


def run_import(file, workdir, *arguments):
    import_torch.main([str(file), "--workdir", str(workdir), *arguments])


@pytest.mark.parametrize("name", ARTICLE)
def test_the_article_s_checkpoint_comes_back_unchanged(tmp_path, name, capsys):
    net = article(name).state_dict()
    torch.save({"net": net, "acc": 95.16, "epoch": 97}, tmp_path / "ckpt.pth")
    run_import(tmp_path / "ckpt.pth", tmp_path / "run")
    assert "article layout" in capsys.readouterr().out
    out = tmp_path / "again.pth"
    export_torch.main(["--workdir", str(tmp_path / "run"), "--out", str(out)])
    again = torch.load(out, weights_only=True)
    assert (again.pop("acc"), again.pop("epoch")) == (95.16, 97)
    (found,) = again.values()
    assert found.keys() == net.keys()
    for tensor, expected in net.items():
        assert found[tensor].dtype == expected.dtype, tensor
        assert torch.equal(found[tensor], expected), tensor
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["weights"]["source"] == "ckpt.pth"
    assert summary["weights"]["imported"] == {"layout": "article", "acc": 95.16, "epoch": 97}


def images(size):
    return np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)


def torch_logits(network, pixels, mean, std):
    x = (pixels.astype(np.float64) / 255 - mean) / std
    with torch.inference_mode():
        return network.double()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("build", "classes", "size", "arguments", "normalisation", "layout"),
    [
        (lambda: article("row 8"), 10, 32, [], CIFAR, "article"),
        (
            lambda: trained(torch_networks.ZooGoogLeNet(10, WIDTH), 32),
            10,
            32,
            [],
            CIFAR,
            "zoo",
        ),
        (
            lambda: trained(torch_networks.GoogLeNet(7, WIDTH, **parity.TORCHVISION), 224),
            7,
            224,
            [],
            HALF,
            "torchvision",
        ),
        (
            lambda: trained(torch_networks.GoogLeNet(7, WIDTH, **parity.TORCHVISION), 224),
            7,
            224,
            ["--no-transform-input"],
            IMAGENET,
            "torchvision",
        ),
    ],
    ids=["article", "zoo", "torchvision", "torchvision without transform_input"],
)
def test_logits_are_pytorch_s(
    tmp_path, capsys, build, classes, size, arguments, normalisation, layout
):
    network = build()
    # As a network in DataParallel saves itself.
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "net.pth")
    run_import(tmp_path / "net.pth", tmp_path / "run", *arguments)
    assert f"{layout} layout" in capsys.readouterr().out
    model = googlenet_jax.load(tmp_path / "run")
    assert model.info.num_classes == classes
    expected = torch_logits(network, images(size), *normalisation)
    found = np.asarray(model.logits(images(size)))
    # Some sixty roundings to float32 in a row, see parity.py.
    assert np.linalg.norm(found - expected) <= 4e-6 * np.linalg.norm(expected)


def test_imported_weights_are_evaluated_and_started_from_but_not_resumed(tmp_path, capsys):
    """A network for the digits, which any install can evaluate."""
    network = trained(torch_networks.GoogLeNet(10, WIDTH), 16)
    first = torch_networks.Unit(1, 4, 3)
    network.conv1.conv = first.conv  # one channel
    torch.save(network.state_dict(), tmp_path / "net.pth")
    setting = ["--config=digits", f"--config.model.width_multiplier={WIDTH}"]
    run_import(tmp_path / "net.pth", tmp_path / "run", *setting)
    evaluate.main(["--workdir", str(tmp_path / "run")])
    assert "355 images" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"imported weights.*init_from="):
        train_main.main([*setting, "--workdir", str(tmp_path / "run")])
    short = [*setting, "--config.train.steps=1", "--config.train.batch_size=8"]
    before = googlenet_jax.load(tmp_path / "run").state.params
    short += [
        f"--config.train.init_from={tmp_path / 'run'}",
        "--config.optimizer.learning_rate=1e-9",
    ]
    train_main.main([*short, "--workdir", str(tmp_path / "next")])
    after = googlenet_jax.load(tmp_path / "next").state.params
    assert np.allclose(before["conv2"]["conv"]["kernel"], after["conv2"]["conv"]["kernel"])


def test_missing_surplus_and_misshapen_tensors_are_listed(tmp_path):
    net = article("row 8").state_dict()
    net["extra"] = torch.zeros(2)
    del net["inception4c.branch2.1.conv.weight"]
    net["conv2.bn.weight"] = torch.zeros(5)
    torch.save(net, tmp_path / "net.pth")
    with pytest.raises(UserError) as caught:
        run_import(tmp_path / "net.pth", tmp_path / "run")
    message = str(caught.value)
    assert "1 missing: inception4c.branch2.1.conv.weight" in message
    assert "1 surplus: extra" in message
    assert "1 misshapen: conv2.bn.weight (5,) instead of (12,)" in message
    assert not (tmp_path / "run").exists()


class Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no pickle at all", "cannot be read"),
        (pickle.dumps(Hostile()), "more than tensors"),
        ({"net": Hostile()}, "more than tensors"),
        ([1, 2], "holds a list, not a state dict"),
        ({"weight": torch.zeros(2)}, "is not a state dict of a GoogLeNet .* such as weight"),
        ({"conv3.conv.weight": torch.zeros(2)}, "it has no conv1.conv.weight and fc.weight"),
    ],
    ids=["empty", "text", "pickle", "hostile", "list", "other", "headless"],
)
def test_other_files_are_refused_and_not_run(tmp_path, capsys, content, message):
    path = tmp_path / "net.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        run_import(path, tmp_path / "run")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()


def changed(**tensors):
    return article("row 3").state_dict() | {k.replace("__", "."): v for k, v in tensors.items()}


def compressed(path):
    """The archive as other programs would write it, with compressed records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def doubled(path):
    """The archive with a record twice; some programs would read the first, some the last."""
    with zipfile.ZipFile(path, "a") as archive:
        name = archive.namelist()[0]
        content = archive.read(name)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, content)


def flipped(path):
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["conv2.conv.weight"].numpy().tobytes()
    content[content.index(weights) + 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("state", "damage", "message"),
    [
        ({}, flipped, r"its record .*/data/\d+ is damaged"),
        ({}, doubled, "two records of one name"),
        ({}, compressed, r"its record .* is compressed"),
        ({"conv2__conv__bias": torch.full((12,), torch.nan)}, None, "conv2.conv.bias .* finite"),
        ({"module__conv2__conv__bias": torch.zeros(12)}, None, "has conv2.conv.bias twice"),
        ({"huge": torch.zeros(1).expand(10**10)}, None, r"claims 40,000,\d{3},\d{3} bytes"),
        ({COUNTER: torch.zeros(1, dtype=int)}, None, "a.num_batches_tracked is not a weight"),
        ({COUNTER: torch.tensor(torch.nan)}, None, "a.num_batches_tracked is not a weight"),
    ],
    ids=["flipped", "doubled", "compressed", "nan", "twice", "stride 0", "vector", "count nan"],
)
def test_damaged_weights_are_refused(tmp_path, state, damage, message):
    path = tmp_path / "net.pth"
    torch.save(changed(**state), path)
    if damage:
        damage(path)
    with pytest.raises(UserError, match=message):
        run_import(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def endless(levels):
    """A pickle of a dict whose key is (t, t), where t is (u, u) and so on."""
    nested = b"".join(b"q\x00h\x00\x86" for _ in range(levels))
    return b"\x80\x02}K\x01" + nested + b"K\x01s."


def test_tuples_of_tuples_are_refused_before_they_are_hashed(tmp_path):
    """In both formats; and tuples nested too deeply for Python."""
    torch.save({"x": 1}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    head = (tmp_path / "old.pth").read_bytes()
    with io.BytesIO(head) as file:
        for _ in range(3):
            pickle.load(file)
        head = head[: file.tell()]
    for pickled in (endless(60), b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x01s."):
        (tmp_path / "old.pth").write_bytes(head + pickled)
        with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
            archive.writestr("net/data.pkl", pickled)
            archive.writestr("net/version", b"3\n")
        for name in ("old.pth", "new.pth"):
            with pytest.raises(UserError, match="damaged, or holds more than tensors"):
                torch_weights.read(tmp_path / name)


@pytest.mark.parametrize("new", [True, False])
def test_whole_checkpoints_of_pytorch_are_read(tmp_path, new):
    """With an optimizer's state and shared tuples, in the current format and that before 2020."""
    network = article("row 3")
    adam = torch.optim.Adam([{"params": [each]} for each in network.parameters()])
    state = {"net": network.state_dict(), "optimizer": adam.state_dict(), "acc": 1.0}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=new)
    found = torch_weights.read(tmp_path / "net.pth")
    assert found.tensors.keys() == network.state_dict().keys()
    assert found.extra == {"acc": 1.0}


def test_remarks_beside_a_state_dict_are_numbers_and_short_texts(tmp_path):
    """Under names that are strings: a record cannot hold others."""
    state = {"net": article("row 3").state_dict(), 1: 2, "acc": 3.0, "nan": float("nan")}
    torch.save({**state, "note": "x" * 10**6, "big": 10**20}, tmp_path / "net.pth")
    assert torch_weights.read(tmp_path / "net.pth").extra == {"acc": 3.0}


def test_a_missing_file_is_told_plainly(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file$"):
        torch_weights.read(tmp_path / "nowhere.pth")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "net.pth")
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.truncate(60 * 2**30)
    for name, reason in (("net.pth", "is not a regular"), ("huge.safetensors", "is larger than")):
        with pytest.raises(UserError, match=reason):
            run_import(tmp_path / name, tmp_path / "run")


def test_safetensors_need_no_torch(tmp_path, monkeypatch):
    network = article("row 3")
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    torch.save(network.state_dict(), tmp_path / "net.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    run_import(tmp_path / "net.safetensors", tmp_path / "run")
    out = ["--workdir", str(tmp_path / "run"), "--out"]
    export_torch.main([*out, str(tmp_path / "again.safetensors")])
    again = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        assert np.array_equal(again[name], value), name
    with pytest.raises(UserError, match="needs PyTorch"):
        export_torch.main([*out, str(tmp_path / "again.pth")])
    with pytest.raises(UserError, match="needs PyTorch"):
        torch_weights.read(tmp_path / "net.pth")


def test_what_the_programs_refuse(tmp_path):
    file = tmp_path / "net.pth"
    torch.save(article("row 3").state_dict(), file)
    run_import(file, tmp_path / "run")
    with pytest.raises(UserError, match="is not empty"):
        run_import(file, tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"):
        run_import(file, tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="unrecognized arguments: --frobnicate"):
        run_import(file, tmp_path / "other", "--frobnicate")
    for out in ("net.pth", "net.safetensors"):
        with pytest.raises(UserError, match="cannot be written"):
            export_torch.main(
                ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "no" / out)]
            )


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_failed_write_leaves_things_as_they_were(tmp_path, name, monkeypatch):
    """A bad path is refused before a network is loaded, and a full disk leaves no half file."""
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path, tmp_path / "pipe", tmp_path / "pipe" / name, tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be written") as caught:
            export_torch.main([f"--workdir={tmp_path / 'none'}", f"--out={out}"])
        assert str(caught.value).count("--out") == 1
    assert (tmp_path / "pipe").is_fifo()

    class Full(io.FileIO):
        def write(self, content):
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / name).write_text("precious")
    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    with pytest.raises(UserError, match=r"cannot be written: .*No space"):
        export_torch.write(tmp_path / name, {"x": np.zeros(1000)}, {})
    assert (tmp_path / name).read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", name}


def test_images_are_preprocessed_as_torchvision_does(tmp_path):
    """By GoogLeNet_Weights.IMAGENET1K_V1.transforms() and the network's `transform_input`.

    Here these are written with Pillow and NumPy. Torchvision resizes the whole picture to whole
    pixels, then crops at a whole pixel. The picture's size is such that neither rounds.
    """
    network = trained(torch_networks.GoogLeNet(7, WIDTH, **parity.TORCHVISION), 224)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    run_import(tmp_path / "net.pth", tmp_path / "run")
    model = googlenet_jax.load(tmp_path / "run")
    picture = Image.fromarray(load_sample_image("china.jpg")[:384, :576])
    picture.save(tmp_path / "china.png")
    read = model.read(tmp_path / "china.png")
    found = np.asarray(preprocess.for_evaluation(model.info)(jnp.asarray(read)))
    scale = 256 / min(picture.size)
    size = [int(side * scale) for side in picture.size]
    resized = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - 224) / 2) for side in size)
    cut = np.asarray(resized)[top : top + 224, left : left + 224] / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    shown = (cut - mean) / std
    shown = shown * (std / 0.5) + (mean - 0.5) / 0.5  # transform_input
    assert found.shape == (1, 224, 224, 3)
    assert np.abs(found[0] - shown).mean() < 0.02  # of a range of 2
    whole = decoding.read(tmp_path / "china.png", (224, 224, 3), 0) / 127.5 - 1
    assert np.abs(whole - shown).mean() > 0.2


@pytest.mark.parametrize("layout", ["zoo", "torchvision"])
def test_a_network_is_exported_in_the_layout_that_it_came_in(tmp_path, layout):
    if layout == "zoo":
        net = trained(torch_networks.ZooGoogLeNet(10, WIDTH), 32).state_dict()
    else:
        net = trained(torch_networks.GoogLeNet(7, WIDTH, **parity.TORCHVISION), 224).state_dict()
    torch.save(net, tmp_path / "net.pth")
    run_import(tmp_path / "net.pth", tmp_path / "run")
    export_torch.main(["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "again.pth")])
    again = torch.load(tmp_path / "again.pth", weights_only=True)["net"]
    assert again.keys() == net.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in net.items())


@pytest.mark.parametrize("config", ["cifar10", "cifar10_row1", "cifar10_row9"])
def test_another_network_than_the_file_s_is_told(tmp_path, config):
    network = torch_networks.ZooGoogLeNet(10, WIDTH)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        UserError, match=r"do not fit the network: \d+ missing: .*; \d+ surplus: "
    ) as caught:
        run_import(tmp_path / "net.pth", tmp_path / "run", f"--config={config}")
    assert len(str(caught.value)) < 3000
    assert not (tmp_path / "run").exists()


def saved(path, tensors):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file({n: t.detach().numpy() for n, t in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_half_precision_is_read_as_float32(tmp_path, name):
    net = {n: t.half() for n, t in article("row 3").state_dict().items()}
    file = torch_weights.read(saved(tmp_path / name, net))
    for tensor, value in net.items():
        assert file.tensors[tensor].dtype == np.float32
        assert np.array_equal(file.tensors[tensor], value.float().numpy())


def test_parameters_that_require_gradients_are_read(tmp_path):
    net = dict(article("row 3").named_parameters())
    file = torch_weights.read(saved(tmp_path / "net.pth", net))
    assert file.tensors.keys() == net.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: net | {"x.num_batches_tracked": torch.zeros(2, dtype=torch.int64)},
            "not a weight",
        ),
        (lambda net: net | {"x.num_batches_tracked": torch.tensor(2**31)}, "not a weight"),
        (lambda net: net | {"fc.weight": torch.zeros(10, 64, dtype=torch.int8)}, "not a weight"),
        (lambda net: net | {"fc.weight": torch.tensor(1.0)}, "no conv1.conv.weight and fc.weight"),
        (lambda net: net | {"fc.weight": torch.zeros(0, 64)}, "no conv1.conv.weight and fc.weight"),
        (lambda net: net | {"fc.weight": torch.zeros(43, 64)}, "43 classes.*--config"),
        (lambda net: net | {"conv1.conv.weight": torch.zeros(4, 1, 3, 3)}, "1 channels.*--config"),
        (lambda net: {0: torch.zeros(1)}, "not a state dict"),
        (lambda net: {"net": net, "acc": np.float64(3)}, "more than tensors and numbers"),
    ],
)
def test_invalid_state_dicts_are_refused(tmp_path, change, message):
    net = {name: torch.zeros(1) for name in ("inception3a.branch1.conv.weight", "fc.bias")}
    net |= {"conv1.conv.weight": torch.zeros(4, 3, 3, 3), "fc.weight": torch.zeros(10, 64)}
    path = saved(tmp_path / "net.pth", change(net))
    with pytest.raises(UserError, match=message):
        torch_weights.describe(torch_weights.read(path), transform_input=True)


def test_settings_change_what_was_found(tmp_path, capsys):
    """With a space or "=" before the value, as in `train.main`."""
    torch.save(article("row 3").state_dict(), tmp_path / "net.pth")
    run_import(tmp_path / "net.pth", tmp_path / "run", "--config.data.unofficial", "True")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["unofficial"]
    assert not config["model"]["batch_norm"]
    other = ["--config.model.width_multiplier", str(WIDTH), "--config.train.ema_decay=0.99"]
    run_import(tmp_path / "net.pth", tmp_path / "two", "--config", "cifar10_row4", *other)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 1e-4
    one, two = (googlenet_jax.load(tmp_path / name).state for name in ("run", "two"))
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, two.params))


def test_torchvision_s_weights_start_a_fine_tuning(tmp_path):
    """`configs/finetune.py` has the network that is inferred from them, without the heads."""
    network = trained(torch_networks.GoogLeNet(1000, WIDTH, **parity.TORCHVISION), 224)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    run_import(tmp_path / "net.pth", tmp_path / "run")
    found = read_config(tmp_path / "run").model
    assert found.aux_heads
    found.aux_heads, found.aux_pool, found.image_size = False, "5x5/3", 224
    found.init = "fan_in"
    narrow = f"--config.model.width_multiplier={WIDTH}"
    config, _ = flags.parse(["--config=finetune", narrow])
    assert config.model == found

    info = dataclasses.replace(CIFAR10.info, class_names=tuple("abcdefghij"))

    def start(model):
        fresh = state.initialize(jax.random.key(1), Config(model=model), info)
        return fresh, *start_from(fresh, str(tmp_path / "run"), info, model)

    own, started, taken = start(config.model)
    # Scaled by the fan-out of a few classes, it would be so large that its first gradients undo
    # the pretraining.
    classifier = np.asarray(own.params["fc"]["kernel"])
    assert np.abs(classifier).max() <= np.sqrt(6 / len(classifier))
    assert taken.endswith("weights are for 1000; drawn anew: fc; left out: aux1, aux2")
    given = googlenet_jax.load(tmp_path / "run").state
    assert np.array_equal(
        started.params["conv1"]["conv"]["kernel"], given.params["conv1"]["conv"]["kernel"]
    )
    assert np.array_equal(
        started.batch_stats["conv1"]["bn"]["var"], given.batch_stats["conv1"]["bn"]["var"]
    )
    assert np.array_equal(started.params["fc"]["kernel"], own.params["fc"]["kernel"])
    assert "aux1" not in started.params
    # A network that has more than this one, or less, is another one.
    for change in (
        {"batch_norm": False, "bn_epsilon": 1e-5},
        {"conv2_reduce": False},
        {"conv_bias": True},
    ):
        other = dataclasses.replace(config.model, **change)
        with pytest.raises(CheckpointError, match=f"another network.*model.{min(change)} "):
            start(other)
