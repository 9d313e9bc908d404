"""Exports a network: python -m train.export --workdir runs/digits --out exports/digits.

`googlenet_jax.storage.export` describes the files in the folder.
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
        description="Writes a checkpoint's network to a folder: weights, config, model card, "
        "and an exported program that runs with JAX alone.",
    )
    parser.add_checkpoint()
    parser.add_argument("--out", type=console.local_path, required=True, help="new or empty folder")
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
    """Returns the shortest command that starts such a run from a shipped config and overrides."""
    commands: list[list[str]] = []
    for shipped in flags.shipped_configs():
        base, _ = flags.parse([f"--config={shipped}"])
        options = zip(config.options(), base.options(), strict=True)
        changes = [f"--config.{name}={new}" for (name, _, new), (*_, old) in options if new != old]
        commands.append(["python", "-m", "train.main", "--config", shipped, *changes])
    shortest: list[str] = min(commands, key=len)
    return shlex.join(shortest)


def training_environment(workdir: WorkdirPath) -> dict[str, Any]:
    """Reads time, device and versions of a finished run from summary.json; {} if there is none.

    Raises:
      UserError: The file is damaged.
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
            raise ValueError("wall_seconds, device or versions has a wrong value")
        return {"wall_seconds": seconds, "device": device, "versions": versions}
    except FileNotFoundError:
        return {}
    except (OSError, OverflowError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a summary of a run: {error!r}") from error


if __name__ == "__main__":
    console.start(main)
