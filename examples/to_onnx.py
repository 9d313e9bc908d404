"""Writes a trained GoogLeNet as an ONNX file, through PyTorch.

    pip install -e '.[onnx]'
    python -m examples.to_onnx --workdir runs/cifar10 --out cifar10.onnx

Its input `images` are float32, from 0 to 1, (batch, channels, height, width), cropped and resized
as for `load(...).read`; its output is `logits`, (batch, classes). It normalises the images itself.
Before the file is written, PyTorch's logits are compared with this project's.
"""

import numpy as np

from googlenet_jax import fileio
from googlenet_jax.config import ModelConfig
from googlenet_jax.data import DatasetInfo
from googlenet_jax.errors import UserError
from googlenet_jax.storage import torch_weights
from googlenet_jax.storage.loading import load_run
from googlenet_jax.storage.workdir import read_config
from train import console


def torch_network(config: ModelConfig, info: DatasetInfo, layout: str):
    """The network in PyTorch, without weights and without auxiliary heads."""
    from benchmarks import torch_networks

    sizes = {"width": config.width_multiplier, "in_channels": info.image_shape[2]}
    if layout == "zoo":
        return torch_networks.ZooGoogLeNet(info.num_classes, **sizes)
    return torch_networks.GoogLeNet(
        info.num_classes,
        **sizes,
        stem=7 if config.stem == "7x7" else 3,
        reduce=config.conv2_reduce,
        pools=config.pools,
        pool4=config.pool4_window,
        five=3 if config.conv5x5 == "3x3" else 5,
        torchvision=layout == "torchvision",
        bn=config.batch_norm,
        bias=config.conv_bias,
        eps=config.bn_epsilon,
    )


def main(argv: list[str]) -> None:
    """Writes the file that --out names."""
    parser = console.Parser("examples.to_onnx", description=__doc__.splitlines()[0])
    parser.add_checkpoint()
    parser.add_argument("--out", type=console.local_path, required=True, help="the .onnx file")
    arguments = parser.parse_args(argv)
    console.check_file(arguments.out)
    try:
        import onnxscript  # noqa: F401 (torch.onnx needs it)
        import torch
    except ImportError as error:
        raise UserError(f"needs pip install -e '.[onnx]': {error}") from error

    model = load_run(arguments.workdir, arguments.checkpoint)
    config, weights = read_config(arguments.workdir).model, model.state
    if config.name != "googlenet" or config.image_size:
        raise UserError(f"--workdir={arguments.workdir}: not a GoogLeNet without model.image_size")
    layout = torch_weights.layout_of(weights.params)
    tensors = torch_weights.export(weights.params, weights.batch_stats, int(weights.step), layout)
    inner = torch_network(config, model.info, layout)
    tensors = {n: torch.from_numpy(v.copy()) for n, v in tensors.items() if "aux" not in n}
    inner.load_state_dict(tensors)
    mean, std = (torch.tensor(x)[:, None, None] for x in (model.info.mean, model.info.std))

    class Normalized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner((images - mean) / std)

    network = Normalized().eval()
    images = np.random.default_rng(0).random((2, *model.info.image_shape), np.float32)
    example = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    expected = np.asarray(model.logits(images))
    error = np.linalg.norm(network(example).detach().numpy() - expected) / np.linalg.norm(expected)
    if error > (1e-3 if config.dtype == "float32" else 0.05):
        raise UserError(f"--workdir={arguments.workdir}: PyTorch's logits differ by {error:.1%}")
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    fileio.write(arguments.out, program.model_proto.SerializeToString())
    console.say(f"PyTorch's logits differ by {error:.1e}; written to {arguments.out}")


if __name__ == "__main__":
    console.start(main)
