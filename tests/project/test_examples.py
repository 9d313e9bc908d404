"""examples/training_loop.py gives the library's numbers, and to_onnx.py the network's."""

import importlib.util
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

import googlenet_jax
from configs import digits
from examples import to_onnx
from googlenet_jax import data
from googlenet_jax.errors import UserError
from googlenet_jax.training import feeds, state
from googlenet_jax.training.state import Keys

PATH = Path(__file__).parents[2] / "examples" / "training_loop.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("training_loop", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(epochs):
    config = digits.get_config()
    config.model.name, config.model.depth = "preact_resnet", 11
    config.data.max_train_examples = 128
    config.optimizer.schedule, config.optimizer.learning_rate = "constant", 1e-3
    config.train.epochs = epochs
    return config


def test_the_loop_takes_the_same_steps_as_the_library(example, tmp_path, capsys):
    example.train(small(1), tmp_path)
    found = example.train(small(2), tmp_path)  # resumes
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "epoch 1",
        "epoch 2",
    ]
    config = small(2)
    dataset = data.load(config.data, config.seed)
    feed = feeds.create(dataset, config)
    expected = state.initialize(Keys.of(config.seed).init, config, dataset.info)
    feed.compile(expected)
    for _ in range(2):
        expected = feed.train(expected, 4)
    assert int(found.step) == 8
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_onnx_file_gives_the_network_s_logits(tmp_path, tmp_path_factory, capsys):
    """For a batch of another size than the one that was traced."""
    for package in ("torch", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    workdir, out = tiny_run.make(tmp_path_factory, tiny_run.GOOGLENET), tmp_path / "digits.onnx"
    to_onnx.main(["--workdir", str(workdir), "--out", str(out)])
    assert "differ by" in capsys.readouterr().out
    images = data.load(digits.get_config().data, 0).splits[data.Split.TEST].images[:37]
    session = onnxruntime.InferenceSession(out)
    inputs = (images / np.float32(255)).transpose(0, 3, 1, 2)
    (found,) = session.run(["logits"], {"images": inputs})
    expected = np.asarray(googlenet_jax.load(workdir).logits(images))
    assert found.shape == (37, 10)
    # After nine steps BatchNorm's statistics are poor, and logits go into the thousands.
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_what_cannot_become_an_onnx_file(tmp_path, tmp_path_factory, monkeypatch):
    pytest.importorskip("torch")
    workdir = tiny_run.make(tmp_path_factory)  # a ResNet
    arguments = ["--workdir", str(workdir), "--out", str(tmp_path / "x.onnx")]
    monkeypatch.setitem(sys.modules, "onnxscript", types.ModuleType("onnxscript"))
    with pytest.raises(UserError, match="not a GoogLeNet"):
        to_onnx.main(arguments)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs pip install -e '\.\[onnx\]'"):
        to_onnx.main(arguments)
    assert not [*tmp_path.iterdir()]
