"""Imports weights from PyTorch: python -m train.import_torch net.pth --workdir runs/imported.

The file is a state dict of a GoogLeNet: the article's, torchvision's or the PyTorch CIFAR zoo's.
`--config` and overrides, as in `train.main`, give the settings that a state dict does not contain.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from googlenet_jax import fileio
from googlenet_jax.errors import DataError
from googlenet_jax.fileio import WorkdirPath
from train import console, flags

if TYPE_CHECKING:
    from googlenet_jax.config import Config
    from googlenet_jax.data import DatasetInfo
    from googlenet_jax.storage.torch_weights import TorchFile


def main(argv: list[str]) -> None:
    """Writes a working directory that `train.evaluate`, `load` and `train.init_from` accept."""
    parser = console.Parser(
        "train.import_torch",
        usage="%(prog)s FILE --workdir DIR [--no-transform-input] "
        "[--config CONFIG] [--config.FIELD=VALUE ...]",
        description="Imports the weights of a GoogLeNet from PyTorch: a state dict of the "
        "article's code, of torchvision or of the PyTorch CIFAR zoo.",
        epilog="Without --config, network and data set are derived from the file, and overrides "
        "change the result. The file does not contain everything: max pools have no weights, and "
        "ten classes are assumed to be CIFAR-10's. With --config, the config describes both.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth or .safetensors")
    parser.add_argument("--workdir", type=fileio.parse, required=True, help="new or empty folder")
    parser.add_argument(
        "--transform-input",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="torchvision's option of this name; its own ImageNet weights need it (default: on)",
    )
    arguments, rest = parser.parse_known_args(flags.join_values(argv, "--config"))
    if any(not argument.startswith("--config") for argument in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    named = any(argument.startswith("--config=") for argument in rest)
    given = flags.parse(rest)[0] if named else None

    from googlenet_jax import data
    from googlenet_jax.storage import torch_weights

    file = torch_weights.read(arguments.file)
    try:
        if given is None:
            found, info = torch_weights.describe(file, arguments.transform_input)
            config, _ = flags.apply(found, rest)
        else:
            config, info = given, data.describe(given.data)
        summary = write_workdir(arguments.workdir, arguments.file, file, config, info)
    except DataError as error:
        raise DataError(f"{arguments.file}: {error}") from error
    console.say(
        f"{arguments.file}: {file.layout} layout, {summary['parameters']:,} parameters, "
        f"{info.num_classes} classes, images of {info.image_shape[0]}x{info.image_shape[1]}, "
        f"sha256 {file.sha256[:8]}...; written to {arguments.workdir}"
    )


def write_workdir(
    workdir: WorkdirPath, path: Path, file: "TorchFile", config: "Config", info: "DatasetInfo"
) -> dict[str, Any]:
    """Writes a working directory with one checkpoint: the weights, and a fresh optimizer state.

    Args:
      workdir: Must be new or empty.
      path: The state dict's file, whose name goes into the checkpoint.
      file: The file's content.
      config: The config of the network.
      info: The data set that the network was trained on.

    Returns:
      The content of summary.json.

    Raises:
      DataError: The tensors do not fit the network; nothing is written.
      UserError: The directory cannot be used.
    """
    from googlenet_jax.storage import torch_weights
    from googlenet_jax.storage.checkpoint import Checkpoints, Record
    from googlenet_jax.storage.loading import abstract_state
    from googlenet_jax.storage.summary import environment
    from googlenet_jax.storage.workdir import CHECKPOINTS, check_new, lock, write_config

    like = abstract_state(config, info)
    params, stats, steps = torch_weights.import_into(like.params, like.batch_stats, file)
    check_new(workdir, "--workdir")
    imported = like.with_weights(steps, params, stats)
    origin = {
        "source": path.name,
        "sha256": file.sha256,
        "official": False,
        "imported": {"layout": file.layout, **file.extra},
    }
    summary = {
        "weights": origin,
        "step": steps,
        "parameters": imported.num_parameters,
        **environment(),
    }
    with lock(workdir):
        with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
            record = Record([], info.to_dict(), origin, config=config.to_dict())
            checkpoints.save(imported, record)
        write_config(workdir, config)
        fileio.write_json(workdir / "summary.json", summary)
    return summary


if __name__ == "__main__":
    console.start(main)
