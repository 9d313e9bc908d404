"""From a config to a data set, whatever its source."""

from googlenet_jax.config import DataConfig
from googlenet_jax.data import cifar, digits
from googlenet_jax.data.dataset import Dataset, Split
from googlenet_jax.errors import DataError


def load(config: DataConfig, seed: int) -> Dataset:
    """The data set that `config` describes, on the host.

    Args:
      config: name, path and sizes.
      seed: of the validation split.

    Raises:
      DataError: it is absent, damaged, not official, or too small for what is asked of it.
    """
    source = {"cifar10": cifar, "digits": digits}[config.name]
    dataset = source.load(config.path, config.unofficial)
    if config.valid_examples:
        dataset = dataset.with_validation(config.valid_examples, seed)
    if config.max_train_examples:
        size = Split.TRAIN.num_examples(dataset)
        if config.max_train_examples > size:
            raise DataError(
                f"data.max_train_examples={config.max_train_examples}: {config.name} has {size}"
            )
        dataset.splits[Split.TRAIN] = dataset.splits[Split.TRAIN][: config.max_train_examples]
    return dataset
