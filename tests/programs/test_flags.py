"""The command line becomes a config: how the file is found, and how overrides apply."""

from pathlib import Path

import pytest

from configs import cifar10, digits
from googlenet_jax.config import Config
from googlenet_jax.errors import UserError
from train import main
from train.flags import help_text, parse, settings_page

# A user's own config; its values differ from every default.
OWN = """\
from googlenet_jax.config import Config, TrainConfig

def get_config():
    return Config(seed=77, train=TrainConfig(epochs=3))
"""


def value_of(config, name):
    return {option: value for option, _, value in config.options()}[name]


@pytest.mark.parametrize("arguments", [["--config=digits"], ["--config", "digits"]])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_shipped_config_by_name(arguments, elsewhere, tmp_path, monkeypatch):
    if elsewhere:
        monkeypatch.chdir(tmp_path)
    assert parse(arguments) == (digits.get_config(), Path("runs/digits"))


@pytest.mark.parametrize(("name", "module"), [("digits", digits), ("cifar10", cifar10)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_shipped_config_by_path(name, module, elsewhere, tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(tmp_path if elsewhere else root)
    config, workdir = parse([f"--config=configs/{name}.py"])
    assert (config, workdir) == (module.get_config(), Path("runs", name))


def test_shipped_configs_differ():
    """Otherwise the tests above could not distinguish them."""
    assert digits.get_config() != cifar10.get_config()


@pytest.mark.parametrize("path", ["mine.py", "./mine.py", "sub/mine.py", "sub/../mine.py"])
def test_own_config_by_relative_path(path, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / path).write_text(OWN)
    monkeypatch.chdir(tmp_path)
    config, workdir = parse(["--config", path])
    assert (config.seed, config.train.epochs) == (77, 3)
    assert workdir == Path("runs/mine")


def test_an_existing_file_takes_precedence_over_a_shipped_config(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert parse(["--config=configs/digits.py"])[0].seed == 77


@pytest.mark.parametrize(
    ("override", "name", "expected"),
    [
        (["--config.seed=3"], "seed", 3),
        (["--config.seed", "3"], "seed", 3),
        (["-config.seed=3"], "seed", 3),
        (["--config.train.epochs=7"], "train.epochs", 7),
        (["--config.optimizer.learning_rate=0.25"], "optimizer.learning_rate", 0.25),
        (["--config.optimizer.learning_rate=1"], "optimizer.learning_rate", 1.0),
        (["--config.optimizer.learning_rate", "1e-3"], "optimizer.learning_rate", 1e-3),
        (["--config.optimizer.momentum", "-0.0"], "optimizer.momentum", -0.0),
        (["--config.data.unofficial=True"], "data.unofficial", True),
        (["--config.data.unofficial=true"], "data.unofficial", True),
        (["--config.data.unofficial", "True"], "data.unofficial", True),
        (["--config.data.flip=False"], "data.flip", False),
        (["--config.data.flip=false"], "data.flip", False),
        (["--config.data.path=a/b.tar.gz"], "data.path", "a/b.tar.gz"),
        (["--config.data.path", "-1"], "data.path", "-1"),
        (["--config.data.path=-x"], "data.path", "-x"),
        (["--config.data.path=--config.seed=4"], "data.path", "--config.seed=4"),
        (["--config.data.path=1"], "data.path", "1"),
        (["--config.data.path=True"], "data.path", "True"),
        (["--config.data.path="], "data.path", ""),
        (["--config.model.dtype=bfloat16"], "model.dtype", "bfloat16"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_override(override, name, expected):
    """It has the field's type, may come before --config, and changes nothing else."""
    config, _ = parse(["--config=cifar10", *override])
    assert parse([*override, "--config=cifar10"])[0] == config
    value = value_of(config, name)
    assert value == expected
    assert type(value) is type(expected)
    defaults = cifar10.get_config()
    assert {n for n, _, v in config.options() if v != value_of(defaults, n)} <= {name}


def test_the_last_override_of_a_setting_counts():
    assert parse(["--config=digits", "--config.seed=3", "--config.seed=4"])[0].seed == 4


@pytest.mark.parametrize("name", [name for name, _, _ in Config().options()])
def test_every_setting_can_be_overridden_by_its_own_value(name):
    """A field whose type the parser cannot read would fail here."""
    value = value_of(digits.get_config(), name)
    config, _ = parse(["--config=digits", f"--config.{name}={value}"])
    assert config == digits.get_config()
    assert type(value_of(config, name)) is type(value)


@pytest.mark.parametrize("value", ["-3", "-1e3"])
def test_a_negative_number_is_a_value(value):
    """It is not taken for a flag: the error is about the number."""
    with pytest.raises(UserError, match=rf"optimizer\.weight_decay=-{float(value[1:]):g}"):
        parse(["--config=digits", "--config.optimizer.weight_decay", value])


@pytest.mark.parametrize("arguments", [["--workdir=a/b"], ["--workdir", "a/b"]])
def test_workdir(arguments):
    assert parse(["--config=digits", *arguments])[1] == Path("a/b")
    assert parse([*arguments, "--config=digits"])[1] == Path("a/b")


def test_overrides_do_not_reach_the_next_call():
    parse(["--config=digits", "--config.seed=3", "--workdir=x"])
    assert parse(["--config=digits"]) == (digits.get_config(), Path("runs/digits"))


def test_help_names_every_option():
    text = help_text([])
    words = " ".join(text.split())  # without line breaks
    for name, field, _ in Config().options():
        start = f"--config.{name}={field.default!r} "
        assert start in words
        assert words.split(start)[1].startswith(field.metadata["help"])
    for each in ("--config CONFIG", "--workdir DIR", "cifar10", "digits"):
        assert each in text


def test_help_has_the_values_of_the_config_that_is_named(capsys):
    main.main(["--config", "digits", "--help"])
    text = capsys.readouterr().out
    assert "settings and their values in digits:" in text
    for name, _, value in digits.get_config().options():
        assert f"  --config.{name}={value!r}\n" in text
    with pytest.raises(UserError, match="--config=nothing: no such file"):
        help_text(["--help", "--config", "nothing"])


def test_the_page_of_settings_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "configs.md"
    assert page.read_text() == settings_page() + "\n", "python -m train.flags > docs/configs.md"
