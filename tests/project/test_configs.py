"""Every shipped config states its command, summarises, and trains two steps when made small."""

import ast
import json
import math

import cifar_files
import compiling
import jax
import picture_files
import pytest

import train.main
from train import flags, summarize

pytestmark = pytest.mark.usefixtures("programs_freed_at_once")

# Parameters of each config's network; those of the rows are counted from the article's networks.
PARAMETERS = {
    "cifar10": 5_986_394,
    "cifar10_row1": 10_329_870,
    "cifar10_row2": 5_979_642,
    "cifar10_row3": 5_971_962,
    "cifar10_row4": 5_971_962,
    "cifar10_row5": 5_986_394,
    "cifar10_row6": 5_986_394,
    "cifar10_row7": 5_986_394,
    "cifar10_row8": 5_986_394,
    "cifar10_row9": 1_703_258,
    "cifar10_row10": 6_166_250,
    # By hand, from those: a class has 1,025 parameters in each classifier, the reduction 4,160.
    "cifar100": 5_986_394 + 90 * 1_025,
    "cifar10_fast": 5_986_394,
    "cifar10_modern": 5_986_394,
    "cifar100_modern": 5_986_394 + 90 * 1_025,
    "paper": 10_329_870 + 4_160,
    # Torchvision documents 6,624,904 for 1,000 classes.
    "finetune": 6_624_904 - 990 * 1_025,
    "folder": 6_624_904 - 997 * 1_025,
    # Without the reduction: 13,374,120 with both heads, 6,994,392 without. BatchNorm has two
    # parameters in place of the bias for each of 7,280 channels.
    "imagenet": 13_374_120 + 4_160,
    "imagenet_modern": 6_994_392 + 4_160 + 7_280,
    # Counted from the networks themselves: there is no other source.
    "cifar10_smoke": 380_462,
    "digits": 380_174,
}
# The article's optimizer, learning rate, weight decay, batch size and test accuracy.
ROWS = {
    "cifar10_row1": ("adam", 1e-3, 0, 256, "88.45 %"),
    "cifar10_row2": ("adam", 1e-3, 0, 256, "88.42 %"),
    "cifar10_row3": ("adam", 1e-3, 0, 256, "91.18 %"),
    "cifar10_row4": ("sgd", 1e-4, 5e-4, 256, "diverges at 1e-4"),
    "cifar10_row5": ("adam", 1e-3, 0, 256, "92.76 %"),
    "cifar10_row6": ("sgd", 0.01, 5e-4, 256, "88.81 %"),
    "cifar10_row7": ("sgd", 0.01, 5e-4, 256, "89.56 %"),
    "cifar10": ("sgd", 0.1, 5e-4, 128, "95.16 %"),
    "cifar10_row8": ("sgd", 0.1, 5e-4, 128, "95.16 %"),
    "cifar10_row9": ("sgd", 0.1, 1e-4, 128, "94.54 %"),
    "cifar10_row10": ("sgd", 0.1, 5e-4, 128, "95.02 %"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of three classes."""
    sizes = {"cat": 4, "dog": 4, "eel": 4}
    return picture_files.plain_folder(tmp_path_factory.mktemp("folder"), sizes)


@pytest.mark.parametrize("name", flags.shipped_configs())
def test_a_config_states_its_command_and_summarises(name, folder, capsys):
    text = ast.get_docstring(ast.parse(flags.shipped_configs()[name].read_text()))
    assert f"python -m train.main --config configs/{name}.py" in text
    arguments = [f"--config.data.path={folder}"] if name == "folder" else []
    summarize.main(["--config", name, "--format", "json", *arguments])
    parameters = json.loads(capsys.readouterr().out)["totals"]["all"]["parameters"]
    assert parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_the_article_s(name):
    optimizer, rate, decay, batch_size, published = ROWS[name]
    config, _ = flags.parse(["--config", name])
    assert config.optimizer.name == optimizer
    assert config.optimizer.learning_rate == rate
    assert config.optimizer.weight_decay == decay
    assert config.optimizer.momentum == 0.9
    assert config.train.batch_size == batch_size
    assert config.data.pad == 4
    assert config.data.flip
    assert published in flags.shipped_configs()[name].read_text().partition("\n")[0]


def test_row_9_s_schedule_step_by_step():
    """0.01 for 400 steps, then 0.1, divided by 10 after 32,000 and after 48,000 steps."""
    from googlenet_jax.training import optimizer

    config, _ = flags.parse(["--config", "cifar10_row9"])
    schedule = optimizer.create_schedule(config.optimizer, 390, config.train.steps)
    expected = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01}
    expected |= {48_000: 0.001, 63_999: 0.001}
    for step, rate in expected.items():
        assert math.isclose(float(schedule(step)), rate, rel_tol=1e-6), step


@pytest.fixture
def quick():
    """Compiles without optimisation, which would take longer than the two steps."""
    # Optax's Adam raises a float to an integer power.
    with compiling.quickly(), jax.numpy_dtype_promotion("standard"):
        yield


# Made small, these compile the program of another config: cifar10's, row 7's, cifar10_modern's with
# more classes.
TWINS = ("cifar10_row8", "cifar10_row6", "cifar100_modern")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in TWINS))
        for name in flags.shipped_configs()
    ],
)
def test_a_config_trains_two_steps_made_small(name, tmp_path, folder, quick):
    arguments = ["--config", name, "--workdir", str(tmp_path / "run"), "--config.train.steps=2"]
    arguments += ["--config.model.width_multiplier=0.0625", "--config.train.batch_size=4"]
    arguments.append("--config.train.init_from=")
    config, _ = flags.parse(["--config", name])
    if config.model.name == "preact_resnet":
        arguments.append("--config.model.depth=11")
    if config.data.name == "cifar100":
        members = cifar_files.random_cifar100()[0]
    else:
        members = cifar_files.random_members(2)[0]
    if config.data.is_streamed:
        arguments += ["--config.data.name=folder", f"--config.data.path={folder}"]
    elif config.data.name != "digits":
        path = cifar_files.write_archive(tmp_path / "cifar.tar.gz", members)
        arguments += [f"--config.data.path={path}", "--config.data.unofficial=True"]
    train.main.main(arguments)
    *_, line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    values = json.loads(line)
    assert values["step"] == 2
    assert all(math.isfinite(value) for value in values.values())
    assert values["update_norm"] > 0
