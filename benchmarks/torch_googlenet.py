"""The article's 95.16 % network in PyTorch, from its description: the yardstick for speed.

Its modules carry the names of the article's own code.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from googlenet_jax.models.googlenet import INCEPTION, STEM, Widths


class Unit(nn.Module):
    """Convolution with bias, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_uniform_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The unit's response, NCHW."""
        return functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches on one input: 1x1 | 1x1-3x3 | 1x1-5x5 | maxpool-1x1."""

    def __init__(self, in_channels: int, widths: Widths):
        super().__init__()
        self.branch1 = Unit(in_channels, widths.conv1x1, 1)
        self.branch2 = nn.Sequential(
            Unit(in_channels, widths.reduce3x3, 1), Unit(widths.reduce3x3, widths.conv3x3, 3)
        )
        self.branch3 = nn.Sequential(
            Unit(in_channels, widths.reduce5x5, 1), Unit(widths.reduce5x5, widths.conv5x5, 5)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), Unit(in_channels, widths.pool_proj, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The branches' channels, in the paper's order."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], dim=1)


class GoogLeNet(nn.Module):
    """Stem 3x3/1, maxpool3 and maxpool4 only, BatchNorm, no auxiliary heads."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv1 = Unit(3, STEM["conv1"], 3)
        self.conv2 = Unit(STEM["conv1"], STEM["conv2"], 3)
        channels = STEM["conv2"]
        for name, widths in INCEPTION.items():
            setattr(self, f"inception{name}", Inception(channels, widths))
            channels = widths.conv1x1 + widths.conv3x3 + widths.conv5x5 + widths.pool_proj
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(channels, num_classes)
        bound = math.sqrt(6 / num_classes)  # Kaiming over the fan-out, as the convolutions
        nn.init.uniform_(self.fc.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images, NCHW."""
        x = self.conv2(self.conv1(x))
        for name in INCEPTION:
            if name in ("4a", "5a"):  # maxpool3 and maxpool4
                x = functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = getattr(self, f"inception{name}")(x)
        return self.fc(self.dropout(x.mean(dim=(2, 3))))
