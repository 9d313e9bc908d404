"""Data sets: whole in memory as uint8 arrays, or streamed as pictures decoded on demand.

Entry point: `sources.load` returns a `Dataset` (in memory) or a `Stream` for a `DataConfig`.

- `sources`: finds the data that a config names and loads it.
- `dataset`: `Dataset`, its arrays and splits; `epoch_order`, the order of an in-memory epoch.
- `stream`: `Stream`; its `training_batches` sets the order and the crops of a streamed epoch.
- `decoding`: turns JPEG, PNG and other files into pixels.
- `cache`: keeps the decoded images of a small data set in the user's home.
- `cifar`, `batch_pickle`, `parquet`, `tfds_source`, `digits`: one storage format each.
- `index`: pictures of one's own, by name and class, in a `folder`, in zip and tar `archives`, in a
  `table` (CSV) or in `parquet` files.
- `augment`, `preprocess`: stored pixels to network input, on the device.
"""

from googlenet_jax.data.dataset import Arrays, Dataset, DatasetInfo, Split, epoch_order
from googlenet_jax.data.sources import describe, load
from googlenet_jax.data.stream import Stream

__all__ = ["Arrays", "Dataset", "DatasetInfo", "Split", "Stream", "describe", "epoch_order", "load"]
