"""examples/training_loop.py gives the same numbers as the library, and resumes."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import digits
from googlenet_jax import data
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
