"""Takes over weights from PyTorch: python -m train.import_torch net.pth --workdir runs/imported.

The file is a state dict of a GoogLeNet: the article's, torchvision's or the PyTorch CIFAR zoo's.
What it cannot tell, `--config` and its overrides say, as in `train.main`.
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
    """Writes a working directory that `evaluate`, `load` and `train.init_from` read."""
    parser = console.Parser(
        "train.import_torch",
        usage="python -m train.import_torch FILE --workdir DIR [--no-transform-input] "
        "[--config CONFIG] [--config.FIELD=VALUE ...]",
        description="Takes over the weights of a GoogLeNet from PyTorch: a state dict of the "
        "article's code, of torchvision or of the PyTorch CIFAR zoo.",
        epilog="--config names the network and its data set, where the file cannot tell: the max "
        "pools leave no trace in it, and ten classes are taken for CIFAR-10's. Settings without "
        "--config change what was found.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth or .safetensors")
    parser.add_argument("--workdir", type=fileio.parse, required=True, help="new, or empty")
    parser.add_argument(
        "--transform-input",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="torchvision's option of that name, which its own ImageNet weights have (default)",
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
        f"{info.num_classes} classes, images of {info.image_shape[0]}x{info.image_shape[1]}; "
        f"written to {arguments.workdir}"
    )


def write_workdir(
    workdir: WorkdirPath, path: Path, file: "TorchFile", config: "Config", info: "DatasetInfo"
) -> dict[str, Any]:
    """A working directory with one checkpoint: the weights, and an optimizer that starts afresh.

    Args:
      workdir: must be new or empty.
      path: of the file, for the record.
      file: what it holds.
      config: of its network.
      info: the images that it was made for.

    Returns:
      What summary.json holds.

    Raises:
      DataError: the tensors do not fit the network; nothing is written.
      UserError: the directory will not do.
    """
    import jax

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
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    summary = {"weights": origin, "step": steps, "parameters": parameters, **environment()}
    with lock(workdir):
        with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
            record = Record([], info.to_dict(), origin, config=config.to_dict())
            checkpoints.save(imported, record)
        write_config(workdir, config)
        fileio.write_json(workdir / "summary.json", summary)
    return summary


if __name__ == "__main__":
    console.start(main)
