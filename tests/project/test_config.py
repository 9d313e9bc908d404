"""Settings: which values are refused and how, and what the shipped configs contain."""

import importlib
import json
import math
import pkgutil
import re

import pytest

import configs
from googlenet_jax.config import Config
from googlenet_jax.errors import ConfigError


def set_option(config, name, value):
    *groups, last = name.split(".")
    for group in groups:
        config = getattr(config, group)
    setattr(config, last, value)


RISING = "rising shares between 0 and 1, such as 0.5,0.75"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        # Types: to Python True is an int, but it is not a batch size; text is not a number.
        ("seed", "1", "of type int"),
        ("seed", 1.0, "of type int"),
        ("seed", None, "of type int"),
        ("train.batch_size", True, "of type int"),
        ("optimizer.learning_rate", True, "of type float"),
        ("optimizer.learning_rate", "0.1", "of type float"),
        ("data.flip", 1, "of type bool"),
        ("data.path", 3, "of type str"),
        # Limits, each at its edge.
        ("seed", -1, "at least 0 and less than 4294967296"),
        ("train.batch_size", 0, "at least 1"),
        ("train.epochs", 0, "at least 1 and less than 2147483648"),
        ("eval.every_epochs", 0, "at least 1"),
        ("data.pad", -1, "at least 0 and less than 256"),
        ("optimizer.weight_decay", -1e-9, "at least 0 and finite"),
        ("model.width_multiplier", 0.0, "greater than 0 and less than 100"),
        ("optimizer.learning_rate", 0, "greater than 0 and finite"),
        ("model.dropout_rate", 1.0, "at least 0 and less than 1"),
        ("optimizer.momentum", -0.1, "at least 0 and less than 1"),
        # Choices.
        ("model.name", "resnet", "one of googlenet, preact_resnet"),
        ("model.dtype", "float16", "one of float32, bfloat16"),
        ("model.matmul_precision", "", "one of default, high, highest"),
        ("data.name", "mnist", "one of cifar10, cifar100, digits, folder, tfds:NAME"),
        ("data.name", "tfds", "one of cifar10, cifar100, digits, folder, tfds:NAME"),
        ("data.name", "tfds:", "one of cifar10, cifar100, digits, folder, tfds:NAME"),
        ("optimizer.weight_decay", 10**400, "at least 0 and finite"),
        ("data.pad_mode", "edge", "one of reflect, zeros"),
        (
            "optimizer.schedule",
            "Cosine",
            "one of cosine, step, exponential, linear, one_cycle, constant",
        ),
        ("optimizer.schedule_per", "batch", "one of epoch, step"),
        ("model.depth", 18, "9 n + 2 (such as 20 or 164) and at least 11 and less than 2000"),
        ("optimizer.decay_at", "1.5", RISING),
        ("optimizer.decay_at", ".5,.5", RISING),
        ("optimizer.decay_at", ".0", RISING),
        # Not finite.
        *[
            (name, value, allowed)
            for value in (math.inf, -math.inf, math.nan)
            for name, allowed in (
                ("optimizer.learning_rate", "greater than 0 and finite"),
                ("optimizer.warmup_epochs", "at least 0 and less than 1000000"),
                ("optimizer.momentum", "at least 0 and less than 1"),
            )
        ],
    ],
)
def test_a_value_that_is_not_allowed(name, value, allowed):
    config = Config()
    set_option(config, name, value)
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert str(caught.value) == f"{name}={value!r}: must be {allowed}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.learning_rate", 1),  # an integer is a valid float
        ("model.width_multiplier", 2),
        ("model.dropout_rate", 0.0),
        ("model.dropout_rate", 0.999),
        ("optimizer.weight_decay", 0.0),
        ("train.batch_size", 1),
        ("seed", 0),
        ("data.unofficial", True),
    ],
)
def test_a_value_that_is_allowed(name, value):
    config = Config()
    set_option(config, name, value)
    assert config.validate() is config


def test_defaults_are_allowed_and_described():
    for _, field, _ in Config().validate().options():
        assert field.metadata["help"]


def other_value(field, value):
    """Some allowed value that is not the default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        candidates = "digits bfloat16 highest zeros constant step a/b 7x7 skip fan_in preact_resnet"
        candidates += " adam 4 one 3x3 adaptive frozen 0.5,0.75 balanced wandb"
        return next(
            text
            for text in candidates.split()
            if text != value and field.metadata["is_allowed"](text)
        )
    if value == 164:  # a depth is 9 n + 2
        return 20
    return value / 2 + 0.125 if isinstance(value, float) else value + (-1 if value == 3 else 1)


@pytest.mark.parametrize("name", [name for name, _, _ in Config().options()])
def test_round_trip_through_json_keeps_every_field(name):
    config = Config()
    field, value = next((field, value) for n, field, value in config.options() if n == name)
    set_option(config, name, other_value(field, value))
    if needs := field.metadata["needs"]:
        other, operator, wanted = re.split("(=|!=|>)", re.split(" or | and ", needs)[-1])
        if wanted == "''":
            set_option(config, other, "conv2")
        elif operator != "!=":
            zero = 1.0 if operator == ">" else 0
            set_option(config, other, {"True": True, "0": zero}.get(wanted, wanted))
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again != Config()


STREAM = "data.stream=True or data.name=folder"
NO_STREAM = "data.stream=False and data.name!=folder"


@pytest.mark.parametrize(
    ("changes", "default", "needs"),
    [
        ({"model.depth": 20}, 164, "model.name=preact_resnet"),
        ({"model.name": "preact_resnet", "model.stem": "7x7"}, "3x3", "model.name=googlenet"),
        (
            {"model.stem": "single", "model.conv2_reduce": True},
            False,
            "model.name=googlenet and model.stem!=single",
        ),
        ({"model.aux_pool": "adaptive"}, "5x5/3", "model.aux_heads=True"),
        ({"model.batch_norm": False, "model.bn_epsilon": 1e-3}, 1e-5, "model.batch_norm=True"),
        ({"data.stream": True}, False, "data.name=tfds:NAME or data.name=folder"),
        ({"data.workers": 2}, 0, STREAM),
        ({"data.test_examples": 2}, 0, "data.name=folder"),
        ({"data.name": "folder", "data.downscale": 2}, 1, NO_STREAM),
        ({"data.name": "tfds:x", "data.stream": True, "data.downscale": 2}, 1, NO_STREAM),
        ({"optimizer.decay_at": "0.5"}, "", "optimizer.schedule=step"),
        ({"optimizer.decay_epochs": 2.0}, 8.0, "optimizer.schedule=exponential"),
        ({"optimizer.trunk_factor": 0.1}, 0.0, "optimizer.trunk!=''"),
        ({"optimizer.warmup": "constant"}, "linear", "optimizer.warmup_epochs>0"),
        ({"train.aux_loss_weight": 0.1}, 0.3, "model.aux_heads=True"),
    ],
)
def test_a_setting_without_effect_must_keep_its_default(changes, default, needs):
    config = Config()
    for name, value in changes.items():
        set_option(config, name, value)
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert str(caught.value) == (
        f"{name}={value!r}: must be {default!r}, the default, unless {needs}"
    )


def test_a_step_schedule_needs_to_know_when():
    config = Config()
    config.optimizer.schedule = "step"
    with pytest.raises(ConfigError, match=r"^optimizer\.decay_at='': must be set for .*=step, "):
        config.validate()


def test_absent_fields_keep_their_defaults():
    config = Config.from_dict({"seed": 3, "data": {"pad": 2}})
    expected = Config()
    expected.seed = 3
    expected.data.pad = 2
    assert config == expected


def test_configs_share_nothing():
    first = Config()
    first.data.pad = 1
    assert Config().data.pad == 4


@pytest.mark.parametrize(
    ("values", "unknown", "nearest"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"lr": 0.1}, "lr", "optimizer.learning_rate"),
        ({"train": {"learning_rate": 0.1}}, "train.learning_rate", "optimizer.learning_rate"),
        ({"wd": 0.1}, "wd", "optimizer.weight_decay"),
        ({"data": {"padd": 1}}, "data.padd", "data.pad"),
        ({"optimizer": {"learning_rat": 1.0}}, "optimizer.learning_rat", "optimizer.learning_rate"),
        ({"optimiser": {"momentum": 0.5}}, "optimiser", None),
    ],
)
def test_an_unknown_field_suggests_the_nearest(values, unknown, nearest):
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(values)
    message = str(caught.value)
    assert message.startswith(f"{unknown}: no such field; did you mean ")
    if nearest:
        assert message == f"{unknown}: no such field; did you mean {nearest}?"


def test_from_dict_validates():
    with pytest.raises(
        ConfigError, match=r"^train\.epochs=0: must be at least 1 and less than 2147483648$"
    ):
        Config.from_dict({"train": {"epochs": 0}})


@pytest.mark.parametrize("values", [{"data": 3}, {"data": None}, {"seed": {"pad": 1}}])
def test_a_group_is_no_value_and_a_value_no_group(values):
    with pytest.raises(ConfigError):
        Config.from_dict(values)


SHIPPED = [module.name for module in pkgutil.iter_modules(configs.__path__)]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_allowed(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    config = get_config().validate()
    assert config == get_config()
    assert config is not get_config()


def test_some_configs_are_shipped():
    assert {"cifar10", "digits"} <= set(SHIPPED)


def test_cifar10_is_the_article_s_row_8():
    """Every number, typed by hand, so that a changed default shows here."""
    config = importlib.import_module("configs.cifar10").get_config()
    assert config.to_dict() == {
        "seed": 0,
        "model": {
            "name": "googlenet",
            "width_multiplier": 1.0,
            "image_size": 0,
            "depth": 164,  # preact_resnet's
            "stem": "3x3",
            "conv2_reduce": False,
            "pools": "34",
            "pool4_window": 3,
            "pool_padding": "ceil",
            "conv5x5": "5x5",
            "batch_norm": True,
            "bn_epsilon": 1e-5,
            "bn_momentum": 0.9,
            "conv_bias": True,
            "init": "fan_out",
            "aux_heads": False,
            "aux_pool": "5x5/3",
            "dropout_rate": 0.4,
            "aux_dropout_rate": 0.7,
            "dtype": "float32",
            "remat": False,
            "matmul_precision": "default",
        },
        "data": {
            "name": "cifar10",
            "path": "",
            "unofficial": False,
            "cache": True,
            "valid_examples": 0,  # the article chose the best epoch on the test set
            "valid_share": 0.0,
            "sampling": "shuffle",
            "max_train_examples": 0,
            "downscale": 1,
            "pad": 4,
            "pad_mode": "reflect",
            "flip": True,
            "alternate_flip": False,
            "cutout": 0,
            "mixup": 0.0,
            "cutmix": 0.0,
            "stream": False,
            "workers": 0,
            "crop_size": 224,
            "crop_area": 0.08,
            "corrupt": "refuse",
            "classes": "",
            "columns": "",
            "pictures": "",
            "test_examples": 0,
            "test_share": 0.0,
        },
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "nesterov": False,
            "decay_kernels_only": False,
            "norm_bias_factor": 1.0,
            "trunk": "",
            "trunk_factor": 0.0,
            "trunk_stats": "moving",
            "schedule": "cosine",
            "schedule_per": "epoch",
            "decay_at": "",
            "decay_factor": 0.96,
            "decay_epochs": 8.0,
            "warmup_epochs": 0.0,
            "warmup": "linear",
        },
        "train": {
            "batch_size": 128,
            "accumulate": 1,
            "epochs": 100,
            "steps": 0,
            "aux_loss_weight": 0.3,
            "label_smoothing": 0.0,
            "class_weights": "",
            "ema_decay": 0.0,
            "init_from": "",
            "steps_per_call": 0,
            "logger": "none",
            "compilation_cache": True,
        },
        "checkpoint": {"every_steps": 0},
        "eval": {"every_epochs": 1, "batch_size": 250},
    }


def test_what_a_resumed_run_may_change():
    """Length, saving and the data's place; nothing that changes the numbers."""
    resumable = {n for n, field, _ in Config().options() if field.metadata["resumable"]}
    assert resumable == {
        "data.path",
        "data.cache",
        "data.classes",  # their order is in the data's sha256
        "data.corrupt",
        "data.pictures",
        "data.workers",
        "train.epochs",
        "train.steps",
        "train.steps_per_call",
        "train.compilation_cache",
        "train.logger",
        "checkpoint.every_steps",
    }


def test_a_value_in_place_of_a_group_is_a_readable_error():
    with pytest.raises(ConfigError, match=r"^model=3: must be a group"):
        Config.from_dict({"model": 3})


def test_a_dotted_name_is_no_key():
    """It would otherwise be ignored silently."""
    with pytest.raises(ConfigError, match=r"^model\.dtype"):
        Config.from_dict({"model.dtype": "bfloat16"})


def test_a_misspelt_field_of_a_config_file_is_an_error():
    config = Config()
    with pytest.raises(AttributeError, match="learning_rat"):
        config.optimizer.learning_rat = 3  # type: ignore[attr-defined]


def test_seeds_that_jax_cannot_tell_apart_are_refused():
    with pytest.raises(ConfigError, match=r"^seed=4294967296: must be .* less than 4294967296"):
        Config(seed=2**32).validate()
    assert Config(seed=2**32 - 1).validate()
