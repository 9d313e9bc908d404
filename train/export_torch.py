"""Exports weights to PyTorch: python -m train.export_torch --workdir runs/cifar10 --out net.pth.

Tensors get the names of the article's code, of torchvision or of the PyTorch CIFAR zoo, depending
on the network. A .pth file holds the article's {"net": state dict, "acc": ..., "epoch": ...}. A
.safetensors file holds the state dict alone; PyTorch is not needed to write it.
"""

import io
from pathlib import Path
from typing import Any

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from train import console


def main(argv: list[str]) -> None:
    """Writes the file that --out names."""
    parser = console.Parser(
        "train.export_torch",
        description="Writes a checkpoint's weights as a PyTorch state dict for the code that "
        "defines the same network: the article's, torchvision's or the PyTorch CIFAR zoo's.",
    )
    parser.add_checkpoint()
    out_help = "file to write, .pth or .safetensors"
    parser.add_argument("--out", type=console.local_path, required=True, help=out_help)
    arguments = parser.parse_args(argv)
    console.check_file(arguments.out)

    from googlenet_jax import load
    from googlenet_jax.storage import torch_weights

    model = load(arguments.workdir, arguments.checkpoint)
    if "inception3a" not in model.state.params:
        raise UserError(f"--workdir={arguments.workdir}: not a GoogLeNet; only those are exported")
    layout = torch_weights.layout_of(model.state.params)
    tensors = torch_weights.export(
        model.state.params, model.state.batch_stats, int(model.state.step), layout
    )
    write(arguments.out, tensors, _metadata(model.record))
    console.say(f"{len(tensors)} tensors, {layout} layout, written to {arguments.out}")


def _metadata(record: Any) -> dict[str, Any]:
    """The values that the article's code stores: accuracy in percent, and epoch from 0."""
    imported = {k: v for k, v in record.provenance.get("imported", {}).items() if k != "layout"}
    evaluated = [entry for entry in record.history if "test_accuracy" in entry]
    if imported or not evaluated:
        return imported
    return {"acc": 100 * evaluated[-1]["test_accuracy"], "epoch": evaluated[-1]["epoch"] - 1}


def write(path: Path, tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Writes a state dict as .safetensors, or with metadata in PyTorch's format.

    Raises:
      UserError: The file cannot be written, or PyTorch is not installed.
    """
    try:
        if path.suffix == ".safetensors":
            import safetensors.numpy

            content = safetensors.numpy.save(tensors)
        else:
            import torch

            net = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
            file = io.BytesIO()
            torch.save({"net": net, **metadata}, file)
            content = file.getvalue()
        fileio.write(path, content)
    except ImportError as error:
        raise UserError(
            f"--out={path}: needs PyTorch (pip install torch); or write .safetensors"
        ) from error
    except OSError as error:
        raise UserError(f"--out={path}: cannot be written: {error}") from error


if __name__ == "__main__":
    console.start(main)
