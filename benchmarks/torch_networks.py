"""PyTorch versions of the article's networks and of those that it compares with.

They are the reference for correctness (`tests/helpers/parity.py`) and for speed
(`benchmarks/compare.py`), written from descriptions. They share no code with `googlenet_jax`, not
even the table of widths. Their modules have the names used in the originals: the article's,
torchvision's and the CIFAR zoo's. Images are NCHW, initial weights PyTorch's defaults.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# The paper's Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj.
TABLE = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def scaled(channels: int, width: float) -> int:
    """A number of channels times the width multiplier, at least 1."""
    return max(1, round(channels * width))


def scaled_table(width: float) -> dict[str, list[int]]:
    """The paper's table times the width multiplier."""
    return {block: [scaled(n, width) for n in row] for block, row in TABLE.items()}


class Unit(nn.Module):
    """Convolution, optional BatchNorm, ReLU."""

    def __init__(self, in_channels, out_channels, size, stride=1, *, bn=True, bias=True, eps=1e-5):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=bias)
        if bn:
            self.bn = nn.BatchNorm2d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """The activations."""
        x = self.conv(x)
        return functional.relu(self.bn(x) if hasattr(self, "bn") else x)


class Inception(nn.Module):
    """The paper's Inception block, with the module names of the article and torchvision."""

    def __init__(self, in_channels, widths, five, **options):
        super().__init__()
        one, reduce3, three, reduce5, out5, proj = widths
        self.branch1 = Unit(in_channels, one, 1, **options)
        self.branch2 = nn.Sequential(
            Unit(in_channels, reduce3, 1, **options), Unit(reduce3, three, 3, **options)
        )
        self.branch3 = nn.Sequential(
            Unit(in_channels, reduce5, 1, **options), Unit(reduce5, out5, five, **options)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), Unit(in_channels, proj, 1, **options)
        )
        self.out_channels = one + three + out5 + proj

    def forward(self, x: Tensor) -> Tensor:
        """The four branches' channels."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Head(nn.Module):
    """An auxiliary head: 5x5/3 average pooling, or adaptive to 4x4 as in torchvision."""

    def __init__(self, in_channels, side, classes, width, dropout, adaptive, **options):
        super().__init__()
        conv, hidden = scaled(128, width), scaled(1024, width)
        self.conv = Unit(in_channels, conv, 1, **options)
        self.fc1 = nn.Linear(conv * side * side, hidden)
        self.fc2 = nn.Linear(hidden, classes)
        self.dropout, self.adaptive = dropout, adaptive

    def forward(self, x: Tensor) -> Tensor:
        """The head's logits."""
        if self.adaptive:
            x = functional.adaptive_avg_pool2d(x, 4)
        else:
            x = functional.avg_pool2d(x, 5, stride=3)
        x = functional.relu(self.fc1(self.conv(x).flatten(1)))
        return self.fc2(functional.dropout(x, self.dropout, self.training))


class GoogLeNet(nn.Module):
    """The paper's network and the article's variants; in training, (logits, aux1, aux2).

    Args:
      classes: Number of classes.
      width: Factor on all numbers of channels.
      in_channels: Channels of the images.
      stem: Size of conv1's kernel; 7 has a stride of 2.
      reduce: Whether there is a 1x1 convolution before conv2.
      pools: Numbers of the max pools to keep.
      pool4: Size of maxpool4's window.
      five: Kernel size of the "5x5" convolutions.
      head_side: Side of the auxiliary heads' pooled images; 0: no heads.
      dropout: Dropout rates of the classifier and of the heads.
      adaptive: Whether the heads pool adaptively.
      torchvision: Whether to use its names: conv2 is the reduction, conv3 the paper's conv2.
      **options: Options of `Unit`.
    """

    def __init__(
        self,
        classes=10,
        width=1.0,
        *,
        in_channels=3,
        stem=3,
        reduce=False,
        pools="34",
        pool4=3,
        five=5,
        head_side=0,
        dropout=(0.4, 0.7),
        adaptive=False,
        torchvision=False,
        **options,
    ):
        super().__init__()
        self.pools, self.pool4, self.dropout = pools, pool4, dropout[0]
        first, second = scaled(64, width), scaled(192, width)
        self.conv1 = Unit(in_channels, first, stem, 2 if stem == 7 else 1, **options)
        self.stem = ["conv2_reduce"] * reduce + ["conv2"]
        if torchvision:
            self.stem = ["conv2", "conv3"]
        if reduce:
            setattr(self, self.stem[0], Unit(first, first, 1, **options))
        setattr(self, self.stem[-1], Unit(first, second, 3, **options))
        channels = second
        for block, widths in scaled_table(width).items():
            inception = Inception(channels, widths, five, **options)
            setattr(self, f"inception{block}", inception)
            channels = inception.out_channels
            if head_side and block in ("4a", "4d"):
                head = Head(channels, head_side, classes, width, dropout[1], adaptive, **options)
                setattr(self, "aux1" if block == "4a" else "aux2", head)
        self.fc = nn.Linear(channels, classes)

    def _pool(self, number: int, x: Tensor) -> Tensor:
        if str(number) not in self.pools:
            return x
        window = self.pool4 if number == 4 else 3
        return functional.max_pool2d(x, window, stride=2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits; in training, a tuple of the logits and those of the heads."""
        heads = []
        x = self._pool(1, self.conv1(x))
        for name in self.stem:
            x = getattr(self, name)(x)
        x = self._pool(2, x)
        for block in TABLE:
            if block in ("4a", "5a"):
                x = self._pool(3 if block == "4a" else 4, x)
            x = getattr(self, f"inception{block}")(x)
            head = {"4a": "aux1", "4d": "aux2"}.get(block, "")
            if self.training and hasattr(self, head):
                heads.append(getattr(self, head)(x))
        x = functional.dropout(x.mean((2, 3)), self.dropout, self.training)
        return (self.fc(x), *heads) if self.training else self.fc(x)


class ZooInception(nn.Module):
    """The CIFAR zoo's block: flat sequences, with two 3x3 convolutions in place of the 5x5."""

    def __init__(self, in_channels, widths):
        super().__init__()
        one, reduce3, three, reduce5, out5, proj = widths

        def layers(*shapes):
            for before, after, size in shapes:
                yield nn.Conv2d(before, after, size, padding=size // 2)
                yield nn.BatchNorm2d(after)
                yield nn.ReLU()

        self.b1 = nn.Sequential(*layers((in_channels, one, 1)))
        self.b2 = nn.Sequential(*layers((in_channels, reduce3, 1), (reduce3, three, 3)))
        self.b3 = nn.Sequential(
            *layers((in_channels, reduce5, 1), (reduce5, out5, 3), (out5, out5, 3))
        )
        self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), *layers((in_channels, proj, 1)))
        self.out_channels = one + three + out5 + proj

    def forward(self, x: Tensor) -> Tensor:
        """The four branches' channels."""
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class ZooGoogLeNet(nn.Module):
    """The PyTorch CIFAR zoo's network."""

    def __init__(self, classes=10, width=1.0, in_channels=3):
        super().__init__()
        channels = scaled(192, width)
        self.pre_layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        for block, widths in scaled_table(width).items():
            inception = ZooInception(channels, widths)
            setattr(self, block[::-1], inception)
            channels = inception.out_channels
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.pre_layers(x)
        for block in TABLE:
            if block in ("4a", "5a"):
                x = self.maxpool(x)
            x = getattr(self, block[::-1])(x)
        return self.linear(x.mean((2, 3)))


class PreActBlock(nn.Module):
    """A pre-activation bottleneck; a shortcut with a convolution starts from the activation."""

    def __init__(self, in_channels, out_channels, middle, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, middle, 1, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out_channels, 1, bias=False)
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus what the block adds to it."""
        active = functional.relu(self.bn1(x))
        y = self.conv1(active)
        y = self.conv2(functional.relu(self.bn2(y)))
        y = self.conv3(functional.relu(self.bn3(y)))
        return y + (self.shortcut(active) if hasattr(self, "shortcut") else x)


class PreActResNet(nn.Module):
    """The pre-activation ResNet of He et al. (2016) for CIFAR; its depth is 9 n + 2."""

    def __init__(self, classes=10, width=1.0, depth=164, in_channels=3):
        super().__init__()
        channels = scaled(16, width)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.order = []
        for stage, base in enumerate((16, 32, 64), start=1):
            for number in range(1, (depth - 2) // 9 + 1):
                stride = 2 if number == 1 and stage > 1 else 1
                out = scaled(4 * base, width)
                block = PreActBlock(channels, out, scaled(base, width), stride)
                self.order.append(f"block{stage}_{number}")
                setattr(self, self.order[-1], block)
                channels = out
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.conv1(x)
        for name in self.order:
            x = getattr(self, name)(x)
        return self.fc(functional.relu(self.bn(x)).mean((2, 3)))
