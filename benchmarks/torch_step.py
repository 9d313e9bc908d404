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
    """A function that takes training or inference steps on a prepared batch of random images.

    Args:
      batch_size: Images per step.
      training: Whether a step trains (by the article's recipe) or only infers.
      channels_last: Whether the layout is channels_last; else NCHW, as in the article.
      autocast: Whether products are computed in bfloat16.
      compiled: Whether to use `torch.compile`; else eager.
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
