"""PyTorch's side of the benchmarks."""

from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.torch_networks import GoogLeNet


def steps(
    batch_size: int,
    training: bool,
    *,
    channels_last: bool = False,
    autocast: bool = False,
    compiled: bool = False,
) -> Callable[[int], None]:
    """Training steps or inference on a batch of random images that is ready.

    Args:
      batch_size: images a step.
      training: whether a step trains, by the article's recipe.
      channels_last: the layout; else NCHW, as the article wrote it.
      autocast: products in bfloat16.
      compiled: by `torch.compile`; else eager.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = GoogLeNet().to(device, memory_format=layout).train(training)
    images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=layout)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    call = torch.compile(network) if compiled else network

    def forward() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            outputs = call(images)
        return outputs[0] if training else outputs

    def take_steps(number: int) -> None:
        for _ in range(number):
            if training:
                sgd.zero_grad()
                functional.cross_entropy(forward(), labels).backward()
                sgd.step()
            else:
                with torch.inference_mode():
                    forward()
        if device == "cuda":
            torch.cuda.synchronize()

    return take_steps
