"""From a config to a data set, whatever form it is stored in."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from googlenet_jax.config import DataConfig
from googlenet_jax.data import cifar, digits, encoded, folder, parquet, tfds_source
from googlenet_jax.data.dataset import (
    Arrays,
    Dataset,
    DatasetInfo,
    Split,
    check_labels,
    check_sum,
    choose,
    digest,
)
from googlenet_jax.data.stream import Pictures, Stream
from googlenet_jax.errors import DataError

# Of a stream: pixels are scaled to -1..1, as TF-Slim's and torchvision's GoogLeNet have them, and
# the central 87.5 % (224 of 256 pixels) of the shorter side are evaluated, as torchvision does.
IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)
CENTER_CROP = 0.875


def load(config: DataConfig, seed: int) -> Dataset | Stream:
    """The data set that `config` describes, on the host, or a stream of it.

    Args:
      config: name, path and sizes.
      seed: of the validation split, and of a stream.

    Raises:
      DataError: it is absent, damaged, not official, or too small for what is asked of it.
    """
    if config.is_streamed:
        return _load_stream(config, seed)
    if config.name == "digits":
        dataset = digits.load(config.path, config.unofficial)
    else:
        dataset = _load_stored(config)
    if config.downscale > 1:
        dataset = dataset.downscaled(config.downscale)
    if config.valid_examples:
        dataset = dataset.with_validation(config.valid_examples, seed)
    if config.max_train_examples:
        _check_max_train_examples(config, Split.TRAIN.num_examples(dataset))
        dataset.splits[Split.TRAIN] = dataset.splits[Split.TRAIN][: config.max_train_examples]
    return dataset


def _check_max_train_examples(config: DataConfig, size: int) -> None:
    if config.max_train_examples > size:
        raise DataError(
            f"data.max_train_examples={config.max_train_examples}: {config.name} has {size}"
        )


def _load_stream(config: DataConfig, seed: int) -> Stream:
    find = _find_folder if config.name == "folder" else _find_records
    with _told(config):
        class_names, splits, provenance = find(config, seed)
    info = _describe_stream(config, class_names)
    return Stream(info, splits, provenance, seed, config.crop_area, config.workers)


def _describe_stream(config: DataConfig, class_names: tuple[str, ...]) -> DatasetInfo:
    return DatasetInfo(
        name=config.name,
        class_names=class_names,
        image_shape=(config.crop_size, config.crop_size, 3),
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        center_crop=CENTER_CROP,
    )


def _folder(
    config: DataConfig,
) -> tuple[tuple[str, ...], dict[Split, folder.FolderPictures]]:
    """The classes and the pictures of a folder, as it is divided."""
    root = Path(config.path).expanduser()
    if not config.path or not root.is_dir():
        raise DataError(f"data.path={config.path!r}: must be a folder with a folder for each class")
    classes_file = Path(config.classes).expanduser() if config.classes else None
    return folder.find(root, classes_file, is_tested_apart=bool(config.test_examples))


def _find_folder(
    config: DataConfig, seed: int
) -> tuple[tuple[str, ...], Mapping[Split, Pictures], dict[str, Any]]:
    class_names, splits = _folder(config)
    root = Path(config.path).expanduser()
    if Split.TEST not in splits and not config.test_examples:
        raise DataError(
            f"{root}: has no folder called test (or val); to set some images apart, pass "
            "--config.data.test_examples=N"
        )
    # The test images are the same for every seed: else no two runs could be compared.
    for split, field, size, choice_seed in (
        (Split.TEST, "data.test_examples", config.test_examples, 0),
        (Split.VALID, "data.valid_examples", config.valid_examples, seed),
    ):
        if size:
            if split in splits:
                raise DataError(f"{field}={size}: {root} has a folder of {split} images already")
            train = splits[Split.TRAIN]
            is_apart = choose(train.labels, class_names, size, choice_seed, field)
            splits |= {Split.TRAIN: train.select(~is_apart), split: train.select(is_apart)}
    train = splits[Split.TRAIN]
    if config.max_train_examples:
        _check_max_train_examples(config, len(train))
        splits[Split.TRAIN] = train.select(np.arange(len(train)) < config.max_train_examples)
    provenance = {"sha256": folder.digest(splits), "sha256_of": "names, sizes and classes"}
    return class_names, splits, {"source": str(root), "official": False, **provenance}


def _find_records(
    config: DataConfig, seed: int
) -> tuple[tuple[str, ...], Mapping[Split, Pictures], dict[str, Any]]:
    name = config.name.removeprefix("tfds:")
    place = _tfds_folder(config)
    prepared = tfds_source.find(name, place)
    if prepared is None:
        raise _not_prepared(name, place)
    class_names, splits = tfds_source.pictures(name, prepared)
    if config.valid_examples:
        raise DataError(
            f"data.valid_examples={config.valid_examples}: {config.name} is read as a stream, "
            "whose classes are not known beforehand"
        )
    if config.max_train_examples:
        train = splits[Split.TRAIN]
        _check_max_train_examples(config, len(train))
        splits[Split.TRAIN] = dataclasses.replace(train, size=config.max_train_examples)
    files = [f"{path.name} {path.stat().st_size}" for path in tfds_source.stored_files(prepared)]
    found = hashlib.sha256("\n".join(files).encode()).hexdigest()
    provenance = {"sha256": found, "sha256_of": "names and sizes of the records' files"}
    return class_names, splits, {"source": str(prepared), "official": False, **provenance}


def describe(config: DataConfig) -> DatasetInfo:
    """What a network must know of a data set, without opening its images.

    Raises:
      DataError: that stands in the images alone, or `data.downscale` does not fit them.
    """
    if config.is_streamed and (config.name != "folder" or config.path):
        return _describe_stream(config, _class_names(config))
    if config.name == "folder" or config.name.startswith("tfds:"):
        raise DataError(
            f"data.name={config.name!r}: its images and classes are known only once it is read; "
            "for the same network on others, pass --config.data.name=cifar10"
        )
    info = digits.INFO if config.name == "digits" else cifar.FORMATS[config.name].info
    return Dataset(info, splits={}, provenance={}).downscaled(config.downscale).info


def _class_names(config: DataConfig) -> tuple[str, ...]:
    """The classes of a stream, of which no image need be there."""
    with _told(config):
        if config.name == "folder":
            return _folder(config)[0]
        return tfds_source.class_names(config.name.removeprefix("tfds:"), _tfds_folder(config))


def _tfds_folder(config: DataConfig) -> Path:
    return Path(config.path).expanduser() if config.path else tfds_source.data_dir()


@contextlib.contextmanager
def _told(config: DataConfig) -> Iterator[None]:
    """Makes one line of what looking for the data raises."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a home directory that is not there
        raise DataError(f"data.path={config.path!r}: cannot be read: {error}") from error


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
    with _told(config):
        source = _find(name, form, config.path)
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


def _not_prepared(name: str, folder: Path) -> DataError:
    return DataError(
        f"data.name='tfds:{name}': not prepared in {folder}; prepare it as array_record, or pass "
        "--config.data.path=FOLDER"
    )


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
        raise _not_prepared(name, usual)
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
