"""From a config to a data set, whatever form it is stored in."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from googlenet_jax.config import DataConfig
from googlenet_jax.data import cifar, digits, encoded, parquet, tfds_source
from googlenet_jax.data.dataset import (
    Arrays,
    Dataset,
    DatasetInfo,
    Split,
    check_labels,
    check_sum,
    digest,
)
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
        dataset = _load_stored(config)
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


def describe(config: DataConfig) -> DatasetInfo:
    """What a network must know of a data set, without reading it.

    Raises:
      DataError: that stands in the data set alone, or `data.downscale` does not fit its images.
    """
    if config.name.startswith("tfds:"):
        raise DataError(
            f"data.name={config.name!r}: its images and classes are known only once it is read; "
            "for the same network on others, pass --config.data.name=cifar10"
        )
    info = digits.INFO if config.name == "digits" else cifar.FORMATS[config.name].info
    return Dataset(info, splits={}, provenance={}).downscaled(config.downscale).info


class _Source(NamedTuple):
    """A place where a set was found.

    Attributes:
      path: file or folder.
      sha256: of the stored bytes, or of the archive that they are known to come from.
      read: its images and classes.
      describe: what a network must know of it.
      is_encoded: its images are PNG or JPEG, and slow to read.
    """

    path: Path
    sha256: str
    read: Callable[[], dict[Split, Arrays]]
    describe: Callable[[dict[Split, Arrays]], DatasetInfo]
    is_encoded: bool


def _load_stored(config: DataConfig) -> Dataset:
    name = config.name.removeprefix("tfds:")
    form = cifar.FORMATS.get(name)
    try:
        source = _find(name, form, config.path)
    except OSError as error:
        raise DataError(f"data.path={config.path!r}: cannot be read: {error}") from error
    sums = [*form.archives.values()] if form else []
    provenance = check_sum(str(source.path), source.sha256, sums, config.unofficial)
    if source.is_encoded and config.cache:
        splits, provenance["cache"] = encoded.cached(f"{name}-{source.sha256}", source.read)
    else:
        splits = source.read()
    info = source.describe(splits)
    check_labels(info, splits, str(source.path))
    if form:
        cifar.check(form, splits, source.path)
    return Dataset(info, splits, provenance)


def _find(name: str, form: cifar.Format | None, path: str) -> _Source:
    """Where the set lies: at `path`, or in TFDS's usual folder, where it is put if need be."""
    archives = [*form.archives] if form else []
    if path:
        if source := _at(name, form, Path(path).expanduser()):
            return source
        kinds = f"{' or '.join(archives)}, unpacked or not, parquet files, or " if form else ""
        raise DataError(
            f"data.path={path!r}: no such file or folder with {name}; expected {kinds}a folder "
            "that TFDS has prepared"
        )
    usual = tfds_source.data_dir()
    for place in (usual, *(usual / "downloads" / "manual" / archive for archive in archives)):
        if source := _at(name, form, place):
            return source
    if not form:
        raise DataError(
            f"data.name='tfds:{name}': not prepared in {usual}; prepare it as array_record, or "
            "pass --config.data.path=FOLDER"
        )
    tfds_source.check_network()
    prepared = _at(name, form, tfds_source.prepare(form, usual))
    assert prepared is not None
    return prepared


def _at(name: str, form: cifar.Format | None, place: Path) -> _Source | None:
    """The set in a file or folder, in whichever form; None where there is none."""
    if form and place.is_file():
        return _cifar(form, place, [place])
    if folder := tfds_source.find(name, place):
        found = digest(tfds_source.stored_files(folder))
        return _Source(
            folder,
            tfds_source.archive_sum(folder, found) or found,
            lambda: tfds_source.read(name, folder, form),
            lambda splits: form.info if form else tfds_source.describe(folder, splits),
            is_encoded=True,
        )
    if form and (files := parquet.files(place)):
        found = digest([path for paths in files.values() for path in paths])
        return _Source(
            place, found, lambda: parquet.read(form, files), lambda _: form.info, is_encoded=True
        )
    if form and (stored := cifar.stored_files(form, place)):
        return _cifar(form, place, stored)
    return None


def _cifar(form: cifar.Format, place: Path, files: list[Path]) -> _Source:
    return _Source(
        place, digest(files), lambda: cifar.read(form, place), lambda _: form.info, is_encoded=False
    )
