"""Exports a network: python -m train.export --workdir runs/digits --out exports/digits.

What the folder holds: `googlenet_jax.storage.export`.
"""

import datetime
import math
import shlex
from typing import TYPE_CHECKING, Any

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from googlenet_jax.fileio import WorkdirPath
from train import console, flags

if TYPE_CHECKING:
    from googlenet_jax.config import Config


def main(argv: list[str]) -> None:
    """Writes an export of a checkpoint."""
    parser = console.Parser(
        "train.export",
        description="Writes a folder with a checkpoint's network: weights, config, model card, "
        "and a program that needs JAX alone.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", type=fileio.parse, required=True, help="of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument(
        "--out", type=console.local_path, required=True, help="new folder, or an empty one"
    )
    arguments = parser.parse_args(argv)

    from googlenet_jax.storage import export
    from googlenet_jax.storage.loading import load_run
    from googlenet_jax.storage.summary import environment
    from googlenet_jax.storage.workdir import check_new, read_config

    check_new(arguments.out, "--out")
    config = export.portable(read_config(arguments.workdir))
    model = load_run(arguments.workdir, arguments.checkpoint)
    environments = {
        "training": training_environment(arguments.workdir),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "export": environment(),
    }
    description = export.describe(
        model, config, arguments.checkpoint, command(config), environments
    )
    export.write(arguments.out, model, description)
    size = sum(path.stat().st_size for path in arguments.out.iterdir()) / 1e6
    console.say(f"step {description.step} of {arguments.workdir}, {size:.1f} MB: {arguments.out}")


def command(config: "Config") -> str:
    """The shortest command that starts such a run: a shipped config and what differs from it."""
    wanted = {name: value for name, _, value in config.options()}
    candidates: list[list[str]] = []
    for shipped in flags.shipped_configs():
        base = {name: value for name, _, value in flags.parse([f"--config={shipped}"])[0].options()}
        changes = [
            f"--config.{name}={value}" for name, value in wanted.items() if base[name] != value
        ]
        candidates.append(["python", "-m", "train.main", "--config", shipped, *changes])
    shortest: list[str] = min(candidates, key=len)
    return shlex.join(shortest)


def training_environment(workdir: WorkdirPath) -> dict[str, Any]:
    """Time, device and versions of a finished run, from its summary.json; empty without one.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / "summary.json"
    try:
        summary = fileio.read_json(path)
        if "wall_seconds" not in summary:  # imported weights
            return {}
        seconds, device, versions = (summary[n] for n in ("wall_seconds", "device", "versions"))
        if not (
            math.isfinite(seconds)
            and isinstance(device["kind"], str)
            and isinstance(versions, dict)
        ):
            raise ValueError("time, device or versions are none")
        return {"wall_seconds": seconds, "device": device, "versions": versions}
    except FileNotFoundError:
        return {}
    except (OSError, OverflowError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a summary of a run: {error!r}") from error


if __name__ == "__main__":
    console.start(main)
