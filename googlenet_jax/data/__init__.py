"""Data sets: uint8 arrays that fit on the device, or streams of pictures."""

from googlenet_jax.data.dataset import Arrays, Dataset, DatasetInfo, Split, epoch_order
from googlenet_jax.data.sources import describe, load
from googlenet_jax.data.stream import Stream

__all__ = ["Arrays", "Dataset", "DatasetInfo", "Split", "Stream", "describe", "epoch_order", "load"]
