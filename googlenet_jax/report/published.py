"""The published results that runs on CIFAR-10 are compared with."""

import dataclasses

EPOCHS = 100
"""Length of the article's runs; it reports the epoch that was best on the test set."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A published result: a row of the article, or of a network that it is compared with.

    Attributes:
      row: As in the names of the configs cifar10_row1 to cifar10_row10; row 8 is cifar10 too.
      network: A short description.
      optimizer: With its learning rate.
      batch_size: Images per step.
      test_accuracy: In percent, as printed; None if the run diverged.
      seeds: Number of runs behind the result.
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
    Published(2, "row 1 without auxiliary heads", "Adam 1e-3", 256, 88.42),
    Published(3, "stem 3x3/1, maxpool3 and maxpool4", "Adam 1e-3", 256, 91.18),
    Published(4, "row 3", "SGD 1e-4", 256, None),
    Published(5, "row 3 with BatchNorm", "Adam 1e-3", 256, 92.76),
    Published(6, "row 5", "SGD 0.01", 256, 88.81),
    Published(7, "row 5", "SGD 0.01, cosine", 256, 89.56),
    Published(8, "row 5", "SGD 0.1, cosine", 128, 95.16),
    Published(9, "pre-activation ResNet-164", "SGD 0.1, steps", 128, 94.54, seeds=5),
    Published(10, "GoogLeNet of the PyTorch CIFAR zoo", "SGD 0.1, cosine", 128, 95.02),
)
