"""Takes over weights from PyTorch: python -m train.import_torch net.pth --workdir runs/imported.

The file is a state dict of a GoogLeNet: the article's, torchvision's or the PyTorch CIFAR zoo's.
What it cannot tell, `--config` and its overrides say, as in `train.main`.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from googlenet_jax.errors import UserError
from train import console, flags
from train.evaluate import Parser

if TYPE_CHECKING:
    from googlenet_jax.config import Config
    from googlenet_jax.data import DatasetInfo
    from googlenet_jax.interop.torch_weights import TorchFile


def main(argv: list[str]) -> None:
    """Writes a working directory that `evaluate`, `load` and `train.init_from` read."""
    parser = Parser(
        "train.import_torch",
        description="Takes over the weights of a GoogLeNet from PyTorch.",
        epilog="--config and --config.FIELD=VALUE name the network, where the file cannot tell: "
        "a 7x7 stem is taken for the article's on CIFAR, or the paper's at 224x224 where the "
        "number of classes is neither 10 nor 100.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, help="PyTorch's (.pth), or .safetensors")
    parser.add_argument("--workdir", type=Path, required=True, help="new; for the weights")
    parser.add_argument(
        "--transform-input",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="torchvision's option of that name; its own ImageNet weights have it (default)",
    )
    arguments, rest = parser.parse_known_args(argv)
    if any(not argument.startswith("--config") for argument in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given = flags.parse(rest)[0] if rest else None

    from googlenet_jax import data
    from googlenet_jax.interop import torch_weights

    file = torch_weights.read(arguments.file)
    config, info = torch_weights.describe(file, arguments.transform_input)
    if given is not None:
        config = given
        if not config.data.name.startswith("tfds:"):
            info = data.describe(config.data)
    summary = write_workdir(arguments.workdir, arguments.file, file, config, info)
    print(
        f"{arguments.file}: {file.layout} layout, {summary['parameters']:,} parameters, "
        f"{info.num_classes} classes, images of {info.image_shape[0]}x{info.image_shape[1]}; "
        f"written to {arguments.workdir}"
    )


def write_workdir(
    workdir: Path, path: Path, file: "TorchFile", config: "Config", info: "DatasetInfo"
) -> dict[str, Any]:
    """A working directory with one checkpoint: the weights, and an optimizer that starts afresh.

    Args:
      workdir: must not hold a run.
      path: of the file, for the record.
      file: what it holds.
      config: of its network.
      info: the images that it was made for.

    Returns:
      What summary.json holds.

    Raises:
      UserError: the tensors do not fit the network, or the directory will not do; nothing is
        written.
    """
    import jax
    import jax.numpy as jnp

    from googlenet_jax import optimizer, state
    from googlenet_jax.checkpoint import Checkpoints, Record
    from googlenet_jax.interop import torch_weights
    from googlenet_jax.loading import abstract_state
    from googlenet_jax.report.summary import environment
    from googlenet_jax.workdir import CHECKPOINTS, CONFIG, lock, write_atomically, write_config

    like = abstract_state(config, info)
    try:
        params, stats, steps = torch_weights.import_into(like.params, like.batch_stats, file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if (workdir / CONFIG).exists():
        raise UserError(f"--workdir={workdir}: holds a run; choose another directory")
    schedule = optimizer.create_schedule(config.optimizer, 1, 1)
    fresh = state.initialize(jax.random.key(config.seed), config, info, schedule)
    params, stats = jax.tree.map(jnp.asarray, (params, stats))
    imported = fresh.replace(params=params, batch_stats=stats, step=jnp.int32(steps))
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
            checkpoints.save(imported, Record([], info.to_dict(), origin))
        write_config(workdir, config)
        write_atomically(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


if __name__ == "__main__":
    console.run(main)
