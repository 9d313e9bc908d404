"""Hands weights over to PyTorch: python -m train.export_torch --workdir runs/cifar10 --out net.pth.

The names are those of the article's code, whose checkpoint is {"net": ..., "acc": ..., "epoch":
...}; torchvision's network gets torchvision's names, and the PyTorch CIFAR zoo's the zoo's. A file
that ends in .safetensors holds the state dict alone, and needs no PyTorch.
"""

import io
from pathlib import Path
from typing import Any

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from train import console


def main(argv: list[str]) -> None:
    """Writes a PyTorch checkpoint."""
    parser = console.Parser(
        "train.export_torch",
        description="Writes a checkpoint's weights as the PyTorch code that has its network names "
        "them: the article's, torchvision's or the CIFAR zoo's.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", type=fileio.parse, required=True, help="of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument(
        "--out", type=console.local_path, required=True, help=".pth or .safetensors"
    )
    arguments = parser.parse_args(argv)
    check_file(arguments.out)

    from googlenet_jax import load
    from googlenet_jax.storage import torch_weights

    model = load(arguments.workdir, arguments.checkpoint)
    if "inception3a" not in model.state.params:
        raise UserError(f"--workdir={arguments.workdir}: is no GoogLeNet")
    layout = torch_weights.layout_of(model.state.params)
    tensors = torch_weights.export(
        model.state.params, model.state.batch_stats, int(model.state.step), layout
    )
    write(arguments.out, tensors, _beside(model.record))
    console.say(f"{len(tensors)} tensors, {layout} layout, written to {arguments.out}")


def _beside(record: Any) -> dict[str, Any]:
    """What the article's code keeps beside the state dict: accuracy in % and epoch, from 0."""
    imported = {k: v for k, v in record.provenance.get("imported", {}).items() if k != "layout"}
    evaluated = [entry for entry in record.history if "test_accuracy" in entry]
    if imported or not evaluated:
        return imported
    return {"acc": 100 * evaluated[-1]["test_accuracy"], "epoch": evaluated[-1]["epoch"] - 1}


def check_file(path: Path) -> None:
    """Checks, before a network is loaded, that a file can be put in a place.

    Raises:
      UserError: its folder is not there, or something is in the way.
    """
    try:
        reason = ""
        if path.exists() and not path.is_file():
            reason = "it is there, and no regular file"
        elif not path.parent.is_dir():
            reason = f"there is no folder {path.parent}"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = str(error)
    if reason:
        raise UserError(f"--out={path}: cannot be written: {reason}")


def write(path: Path, tensors: dict[str, Any], beside: dict[str, Any]) -> None:
    """Writes a state dict, and in PyTorch's own format what stands beside it.

    Raises:
      UserError: the file cannot be written, or PyTorch is not installed.
    """
    try:
        if path.suffix == ".safetensors":
            import safetensors.numpy

            content = safetensors.numpy.save(tensors)
        else:
            import torch

            net = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
            file = io.BytesIO()
            torch.save({"net": net, **beside}, file)
            content = file.getvalue()
        fileio.write(path, content)
    except ImportError as error:
        raise UserError(
            f"--out={path}: needs PyTorch (pip install torch), or .safetensors"
        ) from error
    except OSError as error:
        raise UserError(f"--out={path}: cannot be written: {error}") from error


if __name__ == "__main__":
    console.start(main)
