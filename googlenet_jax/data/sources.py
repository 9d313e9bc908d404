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
    if config.name == "digits":
        dataset = digits.load(config.path, config.unofficial)
    else:
        form = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[config.name]
        dataset = cifar.load(form, config.path, config.unofficial)
    if config.downscale > 1:
        dataset = dataset.downscaled(config.downscale)
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
