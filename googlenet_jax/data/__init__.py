"""Data sets that fit on the device, as uint8 arrays, split the same way for every source."""

from googlenet_jax.data.dataset import Arrays, Dataset, DatasetInfo, Split, epoch_order
from googlenet_jax.data.sources import describe, load

__all__ = ["Arrays", "Dataset", "DatasetInfo", "Split", "describe", "epoch_order", "load"]
