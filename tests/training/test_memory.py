"""XLA's out-of-memory error becomes one line that says what a step needs and what helps."""

from unittest import mock

import jax
import jax.numpy as jnp
import pytest
import tiny_run

import train.main
from googlenet_jax.config import Config, ModelConfig, TrainConfig
from googlenet_jax.errors import TrainingError
from googlenet_jax.training import feeds, memory

pytestmark = pytest.mark.usefixtures("compiled_quickly")
GB = 10**9


def program():
    """Needs 1 GB whatever the batch, and 8 GB for the images."""
    made = mock.create_autospec(jax.stages.Compiled, instance=True)
    made.memory_analysis.return_value = mock.Mock(
        argument_size_in_bytes=2 * GB,
        output_size_in_bytes=1 * GB,
        alias_size_in_bytes=2 * GB,
        temp_size_in_bytes=8 * GB,
    )
    return made


@pytest.mark.parametrize(
    ("parts", "limit", "says"),
    [
        (1, 4 * GB, "=1 needs 9 GB on each device, which has 4 GB; try train.accumulate=4 (about "),
        (1, 4 * GB, " (about 3 GB) or model.remat=True or a smaller train.batch_size, and in"),
        (2, 4 * GB, "train.accumulate=8 (about 3 GB) or"),
        (1, None, "=1 needs 9 GB on each device; try train.accumulate=2 (about 5 GB) or"),
        (1, GB, "which has 1 GB; try model.remat=True or a smaller"),  # no part is small enough
    ],
)
def test_the_setting_that_would_fit(parts, limit, says):
    config = Config(train=TrainConfig(batch_size=64, accumulate=parts))
    assert says in memory.explain(program(), config, limit)
    config.model = ModelConfig(remat=True)
    assert "remat" not in memory.explain(program(), config, limit)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            "train",
            r"train\.accumulate=1 needs 0\.\d+ GB on each device; try train\.accumulate=2 \(",
        ),
        ("compile", r"does not fit; try train\.accumulate=2 or model\.remat=True or"),
    ],
)
def test_a_run_that_needs_too_much_memory(method, says, monkeypatch, tmp_path, capsys):
    """XLA's real error, for an array that is larger than a process can address."""

    def ask_for_too_much(*_):
        return jnp.ones(2**46)

    monkeypatch.setattr(feeds.InMemory, method, ask_for_too_much)
    message = rf"^out of memory: a step of train\.batch_size=8, .*{says}"
    with pytest.raises(TrainingError, match=message):
        train.main.main([*tiny_run.ARGUMENTS, f"--workdir={tmp_path / 'run'}"])


def test_other_errors_of_xla_are_passed_on():
    feed = mock.create_autospec(feeds.Feed, instance=True)
    expected = pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL")
    with expected, memory.told(feed, Config()):
        raise jax.errors.JaxRuntimeError("INTERNAL: wrong")
