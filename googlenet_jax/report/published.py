"""The published figures that runs on CIFAR-10 stand beside."""

import dataclasses

EPOCHS = 100
"""Of the article's runs, of which the epoch that was best on the test set is reported."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the article, or of a system that it measures itself against.

    Attributes:
      row: its number, as in the configs cifar10_row1 to cifar10_row10; row 8 is cifar10.
      network: in a few words.
      optimizer: with its learning rate.
      batch_size: images a step.
      test_accuracy: in percent, as printed; None of a run that diverged.
      seeds: how many runs stand behind it.
    """

    row: int
    network: str
    optimizer: str
    batch_size: int
    test_accuracy: float | None
    seeds: int = 1


# Rows 1 to 8: the article. Row 9: He et al., "Identity Mappings in Deep Residual Networks"
# (2016), table 4, the median of five runs. Row 10: the PyTorch CIFAR zoo's README.
ROWS = (
    Published(1, "stem 7x7/2, only maxpool4, auxiliary heads", "Adam 1e-3", 256, 88.45),
    Published(2, "row 1's without auxiliary heads", "Adam 1e-3", 256, 88.42),
    Published(3, "stem 3x3/1, maxpool3 and maxpool4", "Adam 1e-3", 256, 91.18),
    Published(4, "row 3's", "SGD 1e-4", 256, None),
    Published(5, "row 3's with BatchNorm", "Adam 1e-3", 256, 92.76),
    Published(6, "row 5's", "SGD 0.01", 256, 88.81),
    Published(7, "row 5's", "SGD 0.01, cosine", 256, 89.56),
    Published(8, "row 5's", "SGD 0.1, cosine", 128, 95.16),
    Published(9, "pre-activation ResNet-164", "SGD 0.1, steps", 128, 94.54, seeds=5),
    Published(10, "the PyTorch CIFAR zoo's GoogLeNet", "SGD 0.1, cosine", 128, 95.02),
)
