"""Finds the data set that a config names and loads it, whatever its format.

In memory, `_find_stored` locates the files and the module of their format decodes them. For a
stream, `_split_pictures` or `_split_records` only lists the pictures.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from googlenet_jax.config import DataConfig
from googlenet_jax.data import cache, cifar, digits, index, parquet, table, tfds_source
from googlenet_jax.data.archives import Tar, Zip
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
from googlenet_jax.data.folder import Folder
from googlenet_jax.data.stream import Pictures, Stream
from googlenet_jax.errors import DataError

# For streams. Pixels are scaled to -1..1, as in TF-Slim's and torchvision's GoogLeNet. Evaluation
# sees the central 87.5 % (224 of 256 pixels) of the shorter side, as in torchvision.
IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)
CENTER_CROP = 0.875

Listing: TypeAlias = tuple[tuple[str, ...], Mapping[Split, Pictures], dict[str, Any]]
"""The class names, the pictures of each split, and the provenance of a stream."""


def load(config: DataConfig, seed: int) -> Dataset | Stream:
    """Loads the data set that `config` describes into memory on the host, or opens a stream.

    The seed chooses the validation images; in a stream, also the order and the random crops.

    Raises:
      DataError: The data is missing, damaged, not official, or has too few images.
    """
    if config.is_streamed:
        with _one_line_errors(config):
            if config.name == "folder":
                class_names, pictures, provenance = _split_pictures(config, seed)
            else:
                class_names, pictures, provenance = _split_records(config)
        info = _stream_info(config, class_names)
        return Stream(info, pictures, provenance, seed, config.crop_area, config.workers)
    if config.name == "digits":
        dataset = digits.load(config.path, config.unofficial)
    else:
        dataset = _load_stored(config)
    if config.downscale > 1:
        dataset = dataset.downscaled(config.downscale)
    if amount := config.valid_examples or config.valid_share:
        dataset = dataset.with_validation(amount, seed)
    if config.max_train_examples:
        _check_max_train_examples(config, Split.TRAIN.num_examples(dataset))
        dataset.splits[Split.TRAIN] = dataset.splits[Split.TRAIN][: config.max_train_examples]
    return dataset


def describe(config: DataConfig) -> DatasetInfo:
    """What a network needs to know about a data set, without opening its images.

    Raises:
      DataError: Only the images themselves tell, or `data.downscale` does not divide their size.
    """
    if config.is_streamed and (config.name != "folder" or config.path):
        with _one_line_errors(config):
            if config.name == "folder":
                class_names, _ = _find_pictures(config)
            else:
                name = config.name.removeprefix("tfds:")
                class_names = tfds_source.class_names(name, _tfds_folder(config))
        return _stream_info(config, class_names)
    if config.name == "folder" or config.name.startswith("tfds:"):
        raise DataError(
            f"data.name={config.name!r}: its image size and classes are not known before it is "
            "read; for the same network on other images, pass --config.data.name=cifar10"
        )
    info = digits.INFO if config.name == "digits" else cifar.FORMATS[config.name].info
    return Dataset(info, splits={}, provenance={}).downscaled(config.downscale).info


def _stream_info(config: DataConfig, class_names: tuple[str, ...]) -> DatasetInfo:
    shape = (config.crop_size, config.crop_size, 3)
    return DatasetInfo(config.name, class_names, shape, IMAGE_MEAN, IMAGE_STD, CENTER_CROP)


def _check_max_train_examples(config: DataConfig, size: int) -> None:
    if config.max_train_examples > size:
        raise DataError(
            f"data.max_train_examples={config.max_train_examples}: {config.name} has {size}"
        )


@contextlib.contextmanager
def _one_line_errors(config: DataConfig) -> Iterator[None]:
    """Turns errors of the file system into a `DataError` of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        raise DataError(f"data.path={config.path!r}: cannot be read: {error}") from error


def _find_pictures(
    config: DataConfig,
) -> tuple[tuple[str, ...], dict[Split, index.IndexedPictures]]:
    """The class names and the pictures of a user's own set, in the splits that it has."""
    path = Path(config.path).expanduser()
    classes_file = Path(config.classes).expanduser() if config.classes else None
    is_tested_on_train = bool(config.test_examples or config.test_share)
    return index.build(*_open_pictures(config, path), classes_file, is_tested_on_train)


def _open_pictures(config: DataConfig, path: Path) -> tuple[index.Store, index.Listings]:
    store: index.FolderStore
    if config.path and path.is_dir():
        if files := parquet.files(path):
            if config.workers:
                raise DataError(
                    f"data.workers={config.workers}: must be 0 for parquet files, which are held "
                    "in memory"
                )
            return parquet.open_rows(path, files, config.columns)
        store = Folder(path)
    elif not config.path or not path.is_file():
        raise DataError(
            f"data.path={config.path!r}: must be a folder with a folder for each class, a zip or "
            "tar archive of it, a CSV file, or a folder of parquet files"
        )
    elif path.suffix.lower() == ".csv":
        folder = Path(config.pictures).expanduser() if config.pictures else path.parent
        return Folder(folder), table.read(path, folder, config.columns)
    else:
        store = Zip(path) if path.suffix.lower() == ".zip" else Tar(path)
    try:
        return store, index.by_folders(store)
    except OSError as error:
        where = error.filename or path
        raise DataError(f"{where}: cannot be read: {error.strerror}") from error


def _split_pictures(config: DataConfig, seed: int) -> Listing:
    class_names, splits = _find_pictures(config)
    root = Path(config.path).expanduser()
    if Split.TEST not in splits and not (config.test_examples or config.test_share):
        raise DataError(
            f"{root}: has no folder called test (or val); to set some images apart, pass "
            "--config.data.test_share=0.2 or --config.data.test_examples=N"
        )
    # Every seed gets the same test images, so that runs can be compared.
    for split, field, amount, choice_seed in (
        (Split.TEST, "data.test_examples", config.test_examples, 0),
        (Split.TEST, "data.test_share", config.test_share, 0),
        (Split.VALID, "data.valid_examples", config.valid_examples, seed),
        (Split.VALID, "data.valid_share", config.valid_share, seed),
    ):
        if amount:
            if split in splits:
                raise DataError(f"{field}={amount}: {root} already has a folder of {split} images")
            train = splits[Split.TRAIN]
            is_chosen = choose(train.labels, class_names, amount, choice_seed, field)
            splits |= {Split.TRAIN: train.select(~is_chosen), split: train.select(is_chosen)}
    train = splits[Split.TRAIN]
    if config.max_train_examples:
        _check_max_train_examples(config, len(train))
        splits[Split.TRAIN] = train.select(np.arange(len(train)) < config.max_train_examples)
    provenance = {"sha256": index.digest(splits), "sha256_of": "names, sizes and classes"}
    return class_names, splits, {"source": str(root), "official": False, **provenance}


def _split_records(config: DataConfig) -> Listing:
    name, place = config.name.removeprefix("tfds:"), _tfds_folder(config)
    prepared = tfds_source.find(name, place)
    if prepared is None:
        raise _not_prepared(name, place)
    class_names, splits = tfds_source.pictures(name, prepared)
    for field in ("valid_examples", "valid_share"):
        if amount := getattr(config, field):
            raise DataError(
                f"data.{field}={amount}: must be 0, because {config.name} is streamed and the "
                "labels of its images are not known in advance"
            )
    if config.max_train_examples:
        train = splits[Split.TRAIN]
        _check_max_train_examples(config, len(train))
        splits[Split.TRAIN] = dataclasses.replace(train, size=config.max_train_examples)
    files = [f"{path.name} {path.stat().st_size}" for path in tfds_source.stored_files(prepared)]
    found = hashlib.sha256("\n".join(files).encode()).hexdigest()
    provenance = {"sha256": found, "sha256_of": "names and sizes of the records' files"}
    return class_names, splits, {"source": str(prepared), "official": False, **provenance}


def _tfds_folder(config: DataConfig) -> Path:
    return Path(config.path).expanduser() if config.path else tfds_source.data_dir()


def _not_prepared(name: str, folder: Path) -> DataError:
    return DataError(
        f"data.name='tfds:{name}': not prepared in {folder}; prepare it as array_record, or pass "
        "--config.data.path=FOLDER"
    )


class _Source(NamedTuple):
    """Where a data set was found, and how to read it.

    Attributes:
      path: File or folder.
      sha256: Of the stored bytes, or of the archive that they are known to come from.
      is_encoded: Whether the images are PNG or JPEG, which are slow to read.
      read: Returns the images and labels.
    """

    path: Path
    sha256: str
    is_encoded: bool
    read: Callable[[], dict[Split, Arrays]]


def _load_stored(config: DataConfig) -> Dataset:
    """Reads a data set from files, through the cache if its images are encoded."""
    name = config.name.removeprefix("tfds:")
    form = cifar.FORMATS.get(name)
    with _one_line_errors(config):
        source = _find_stored(name, form, config.path)
    sums = [*form.archives.values()] if form else []
    provenance = check_sum(str(source.path), source.sha256, sums, config.unofficial)
    if source.is_encoded and config.cache:
        splits, provenance["cache"] = cache.cached(f"{name}-{source.sha256}", source.read)
    else:
        splits = source.read()
    info = form.info if form else tfds_source.describe(source.path, splits)
    check_labels(info, splits, str(source.path))
    if form:
        cifar.check(form, splits, source.path)
    return Dataset(info, splits, provenance)


def _find_stored(name: str, form: cifar.Format | None, path: str) -> _Source:
    """Finds the set at `path`; without a path, in TFDS's usual folder, or downloads it there."""
    archives = [*form.archives] if form else []
    if path:
        if source := _find_at(name, form, Path(path).expanduser()):
            return source
        kinds = f"{' or '.join(archives)}, unpacked or not, parquet files, or " if form else ""
        raise DataError(
            f"data.path={path!r}: no such file or folder with {name}; expected {kinds}a folder "
            "that TFDS has prepared"
        )
    usual = tfds_source.data_dir()
    for place in (usual, *(usual / "downloads" / "manual" / archive for archive in archives)):
        if source := _find_at(name, form, place):
            return source
    if not form:
        raise _not_prepared(name, usual)
    tfds_source.check_network()
    prepared = _find_at(name, form, tfds_source.prepare(form, usual))
    assert prepared is not None
    return prepared


def _find_at(name: str, form: cifar.Format | None, place: Path) -> _Source | None:
    """The set in a file or folder, in any format; None if it is not there."""
    if folder := tfds_source.find(name, place):
        records = digest(tfds_source.stored_files(folder))
        sha256 = tfds_source.archive_sum(folder, records) or records
        return _Source(folder, sha256, True, lambda: tfds_source.read(name, folder, form))
    if form and {Split.TRAIN, Split.TEST} <= (found := parquet.files(place)).keys():
        files = {split: found[split] for split in (Split.TRAIN, Split.TEST)}
        sha256 = digest([path for paths in files.values() for path in paths])
        return _Source(place, sha256, True, lambda: parquet.read(form, files))
    if form and (paths := [place] if place.is_file() else cifar.stored_files(form, place)):
        return _Source(place, digest(paths), False, lambda: cifar.read(form, place))
    return None
