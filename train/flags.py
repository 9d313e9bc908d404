"""The command line of `train.main`.

ml_collections parses the typed overrides. This module finds shipped configs by name, checks the
names of flags, and reports each mistake in one line.
"""

import ast
import contextlib
import dataclasses
import importlib.resources
import importlib.util
import textwrap
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from googlenet_jax import fileio
from googlenet_jax.config import Config, check_name
from googlenet_jax.errors import ConfigError, UserError
from googlenet_jax.fileio import WorkdirPath
from train import console

MAX_BYTES = 2**20  # largest config file that is read
USAGE = """\
usage: {command} --config CONFIG [--config.FIELD=VALUE ...] [--workdir DIR]
         [--coordinator HOST:PORT --num_processes N --process_id I]

Trains a network. If the working directory holds checkpoints, the run resumes from the newest.

  --config CONFIG        a config file, or the name of a shipped config:
{shipped}
  --config.FIELD=VALUE   override a setting; all settings are listed below
  --workdir DIR          where the run is stored: a folder, gs://... or s3://...; default:
                         runs/<config name>
  --coordinator HOST:PORT, --num_processes N, --process_id I
                         address of process 0, number of processes, and number of this process,
                         from 0; not needed on Cloud TPU, SLURM, Open MPI and Kubernetes
  --help                 show this text; with --config, that config's values

settings and their {values}:
"""


def shipped_configs() -> dict[str, Path]:
    """The config files of the `configs` package, by name."""
    folder = Path(str(importlib.resources.files("configs")))
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def help_text(argv: list[str]) -> str:
    """The text of --help: every flag, and every setting with its value, meaning and range.

    Args:
      argv: If it names a config, the values are that config's; otherwise they are the defaults.

    Raises:
      UserError: The config cannot be used.
    """
    named = [value for name, _, value in map(_split, join_values(argv)) if name == "config"]
    config, values = Config(), "defaults"
    if named and named[0]:
        config, values = _load(_find(named[0])), f"values in {named[0]}"
    shipped = textwrap.indent(textwrap.fill(", ".join(shipped_configs()), 71), " " * 25)
    command = console.command("train.main")
    lines = [USAGE.format(command=command, shipped=shipped, values=values)]
    for name, field, value in config.options():
        lines.append(f"  --config.{name}={value!r}")
        limits = _limits(field)
        meaning = field.metadata["help"] + (f" ({limits})" if limits else "")
        lines.append(textwrap.indent(textwrap.fill(meaning, 80), " " * 8))
    return "\n".join(lines)


def _limits(field: dataclasses.Field) -> str:
    return "True or False" if field.type is bool else field.metadata["limits"]


def settings_page() -> str:
    """The text of docs/configs.md: every shipped config and every setting, as Markdown."""
    lines = [
        "# Configs",
        "",
        "Written by `python -m train.flags > docs/configs.md`, from the dataclasses in",
        "[googlenet_jax/config.py](../googlenet_jax/config.py). A config is a Python file whose",
        "`get_config()` returns a `Config`; it states what differs from these defaults, and each",
        "setting can be overridden: `--config.train.epochs=30`.",
        "",
        "## The shipped ones",
        "",
        "| config | what it is |",
        "|---|---|",
    ]
    for name, path in shipped_configs().items():
        meaning = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines.append(f"| [`{name}`](../configs/{name}.py) | {meaning.splitlines()[0]} |")
    group = None
    for name, field, _ in Config().options():
        if name.rpartition(".")[0] != group:
            group = name.rpartition(".")[0]
            lines += ["", f"## {group or 'The run'}", ""]
            lines += ["| setting | default | meaning | values |", "|---|---|---|---|"]
        cells = [f"`{name}`", f"`{field.default!r}`", field.metadata["help"], _limits(field)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def parse(argv: list[str]) -> tuple[Config, WorkdirPath]:
    """Returns the config and the working directory that a command line names.

    Raises:
      UserError: A flag is missing or unknown, or its value is not allowed.
    """
    argv = join_values(argv)
    names = [value for name, _, value in map(_split, argv) if name == "config"]
    if len(names) != 1 or not names[0]:
        shipped = ", ".join(shipped_configs())
        raise UserError(
            f"--config is required once; shipped configs: {shipped}; --help lists all settings"
        )
    path = _find(names[0])
    overrides = [argument for argument in argv if _split(argument)[0] != "config"]
    return apply(_load(path), overrides, path.stem)


def apply(config: Config, overrides: list[str], name: str = "") -> tuple[Config, WorkdirPath]:
    """Returns a copy of the config with the overrides applied, and the working directory.

    Args:
      config: The config to start from.
      overrides: Arguments of the forms --config.FIELD=VALUE and --workdir=DIR.
      name: The config's name; the default working directory is runs/<name>.

    Raises:
      UserError: A flag is unknown, or its value is not allowed.
    """
    for argument in overrides:
        _check(argument)
    list(config.options())  # raises if a group is missing, which ml_collections does not check
    values = flags.FlagValues()
    # ml_collections could load the file too, but only under one fixed module name, only if --config
    # comes first, and with tracebacks.
    config_flags.DEFINE_config_dataclass(
        "config", config, flag_values=values, sys_argv=["main", *overrides]
    )
    flags.DEFINE_string("workdir", f"runs/{name}", "", flag_values=values)
    try:
        values(["main", *overrides])
    except (flags.Error, TypeError, ValueError) as error:
        text = str(error).splitlines()[0]
        if "Non-boolean" in text:
            text = text.removeprefix("flag ").partition(": (")[0] + ": must be True or False"
        raise UserError(text) from error
    return values.config.validate(), fileio.parse(values.workdir)


def _load(path: Path) -> Config:
    """Returns the result of a config file's `get_config()`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"larger than {MAX_BYTES:,} bytes")
        spec = importlib.util.spec_from_file_location("config", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's file may raise anything
        raise UserError(f"--config={path}: {type(error).__name__}: {_text(error)}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"--config={path}: get_config() must return a googlenet_jax Config")
    return config


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:  # raised by the user's own exception class
        return f"(no text: {type(other).__name__})"


def _split(argument: str) -> tuple[str, str, str]:
    """Splits "--config.seed=3" into ("config.seed", "=", "3"); a bare value has no name."""
    return argument.lstrip("-").partition("=") if argument.startswith("-") else ("", "", argument)


def join_values(argv: list[str], prefix: str = "-") -> list[str]:
    """Joins each "--name value" to "--name=value" if "--name" starts with the prefix."""
    joined: list[str] = []
    for argument in argv:
        is_value = not argument.startswith("-") or argument[1:2] in tuple(".0123456789")
        if is_value and joined and joined[-1].startswith(prefix) and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _find(name: str) -> Path:
    """Finds a config file by path, or a shipped one by name or by its path in a clone."""
    path = Path(name)
    with contextlib.suppress(OSError):  # for example a name that is too long
        if path.is_file():
            return path
    shipped = shipped_configs()
    # Outside a clone, configs/digits.py means the shipped config too.
    if path in (Path(path.stem), Path("configs", f"{path.stem}.py")) and path.stem in shipped:
        return shipped[path.stem]
    names = ", ".join(shipped)
    raise UserError(f"--config={name}: no such file or shipped config; shipped configs: {names}")


def _check(argument: str) -> None:
    name, equals, value = _split(argument)
    group, _, field = name.partition(".")
    if not name:
        raise UserError(f"{argument}: not a flag; overrides are --config.FIELD=VALUE")
    if name in ("config", "workdir"):
        pass
    elif group != "config":
        raise UserError(f"--{name}: no such flag; use --config, --config.FIELD or --workdir")
    elif not field:
        raise UserError(f"{argument}: setting missing; overrides are --config.FIELD=VALUE")
    elif check_name(field) not in {option for option, _, _ in Config().options()}:
        raise UserError(f"--{name}: a group; set one of its fields, --config.{field}.FIELD=VALUE")
    if not equals or (name == "workdir" and not value):
        raise UserError(f"--{name}: needs a value")


if __name__ == "__main__":
    print(settings_page())
