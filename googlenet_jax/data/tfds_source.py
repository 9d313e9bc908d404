"""Reads data sets prepared by TensorFlow Datasets (TFDS), and prepares CIFAR without TensorFlow.

TFDS's own CIFAR builders need TensorFlow, and without a network they retry for minutes. The
builder here keeps TFDS's name, version, features, download manager and checksums, but encodes the
images itself. `tfds.data_source` reads the result like any prepared set.
"""

import contextlib
import dataclasses
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from googlenet_jax import fileio
from googlenet_jax.data import cifar, decoding
from googlenet_jax.data.dataset import Arrays, DatasetInfo, Split, digest
from googlenet_jax.data.stream import Picture
from googlenet_jax.errors import DataError, no_logging

HOST = "www.cs.toronto.edu"
NETWORK_SECONDS = 8.0
MAX_BYTES = 2**30  # of a split's pixels, which have to fit in memory and on the device
FEATURES = "tensorflow_datasets.core.features."  # the module of TFDS's feature classes
ARCHIVE = "archive.json"  # written by `prepare`: the sums of the archive and of the records


def data_dir() -> Path:
    """The user's default TFDS folder."""
    from tensorflow_datasets.core.constants import get_default_data_dir

    return Path(get_default_data_dir())


def find(name: str, path: Path) -> Path | None:
    """The folder of the newest prepared version in a TFDS folder, or `path` if it is one itself."""
    for folder in (path, path / name):
        candidates = [folder, *folder.glob("[0-9]*.[0-9]*.[0-9]*")]
        if found := [c for c in candidates if (c / "dataset_info.json").is_file()]:
            return max(found, key=lambda c: [int(n) for n in c.name.split(".") if n.isdecimal()])
    return None


def stored_files(folder: Path) -> list[Path]:
    """The record files of a prepared set."""
    return sorted(folder.glob("*array_record*"))


def archive_sum(folder: Path, records: str) -> str | None:
    """The sha256 of the archive from which `prepare` made records with this sha256, if it did."""
    try:
        sums = fileio.read_json(folder / ARCHIVE)
        return sums["archive"] if sums["records"] == records else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe(folder: Path, splits: dict[Split, Arrays]) -> DatasetInfo:
    """The description of a prepared set; mean and deviation are those of its training images."""
    info = _builder(folder).info
    pixels = np.asarray(splits[Split.TRAIN].images)
    height, width, channels = pixels.shape[1:]
    mean = pixels.mean((0, 1, 2), dtype=np.float64) / 255
    std = pixels.std((0, 1, 2), dtype=np.float64) / 255
    return DatasetInfo(
        name=f"tfds:{info.name}",
        class_names=tuple(info.features["label"].names),
        image_shape=(height, width, channels),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def read(name: str, folder: Path, form: cifar.Format | None) -> dict[Split, Arrays]:
    """Reads the images and labels of a prepared set whose images all have one small size.

    The images of a CIFAR set, for which `form` is given, are in the order of its archive.

    Raises:
      DataError: It cannot be read without TensorFlow, or is not such a set.
    """
    splits = {}
    with _one_line_errors(folder, "format array_record, splits train and test"):
        builder = _builder(folder)
        shape = builder.info.features["image"].shape
        if builder.info.name != name or (form and shape != form.info.image_shape):
            raise DataError(f"{folder}: holds {builder.info.name} of shape {shape}, not {name}")
        for split in (Split.TRAIN, Split.TEST):
            count = builder.info.splits[split.value].num_examples
            _check_shape(shape, count, folder)
            examples = _records(builder, split.value).__getitems__(range(count))
            if form:  # TFDS shuffles the examples; an id is "train_00042"
                examples.sort(key=lambda example: int(example["id"].split(b"_")[1]))
            pixels = decoding.decode([e["image"] for e in examples], shape, f"{folder}: {split}")
            labels = np.array([e["label"] for e in examples], np.int32)
            splits[split] = Arrays(pixels, labels)
    return splits


def _builder(folder: Path) -> Any:
    """TFDS's builder for a prepared set.

    Raises:
      DataError: The folder holds a pipe or a device, which might be read forever, or names a
        feature class outside TFDS: TFDS would import its module, even from the current folder,
        and so run its code.
    """
    import tensorflow_datasets as tfds

    def check(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                check(each)
        if isinstance(value, dict):
            for key, each in value.items():
                is_name = key in ("type", "pythonClassName", "python_class_name")
                if is_name and isinstance(each, str) and not each.startswith(FEATURES):
                    raise DataError(f"{folder}: features.json names {each!r}, not a TFDS feature")
                check(each)

    for path in folder.iterdir():
        if not (path.is_file() or path.is_dir()):
            raise DataError(f"{path}: is not a regular file")
    check(fileio.read_json(folder / "features.json"))
    return tfds.builder_from_directory(folder)


def _records(builder: Any, split_name: str) -> Any:
    """The records of a split, by number; the images stay encoded."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split_name, decoders={"image": tfds.decode.SkipDecoding()})


@contextlib.contextmanager
def _one_line_errors(folder: Path, needs: str) -> Iterator[None]:
    """Turns what TFDS raises, logs and prints on reading a set into a `DataError` of one line."""
    try:
        with no_logging(), contextlib.redirect_stdout(io.StringIO()):
            yield
    except DataError:
        raise
    except Exception as error:  # TFDS and its readers raise almost anything
        raise DataError(
            f"{folder}: not an image classification set that can be read without TensorFlow "
            f"({needs}): {type(error).__name__}: {error}"
        ) from error


@dataclasses.dataclass(frozen=True)
class RecordPictures:
    """The pictures of a split of a prepared set.

    Attributes:
      source: TFDS's data source. It can be sent to worker processes.
      where: Names the set and the split in messages.
      size: The number of pictures to use.
    """

    source: Any
    where: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Picture:
        name = f"{self.where}, record {index}"
        try:
            example = self.source[index]
        except Exception as error:  # readers of records raise almost anything
            raise DataError(f"{name}: cannot be read: {error}") from error
        if named := example.get("file_name", b"").decode(errors="replace"):
            name += f" ({named})"
        return Picture(example["image"], int(example["label"]), name)


def pictures(name: str, folder: Path) -> tuple[tuple[str, ...], dict[Split, RecordPictures]]:
    """Returns the class names and the pictures of each split of a prepared set.

    Without a test split, or if that has no labels, the validation split becomes the test split.

    Raises:
      DataError: It cannot be read without TensorFlow, or is not such a set.
    """
    found = {}
    with _one_line_errors(folder, "format array_record"):
        builder = _builder(folder)
        if builder.info.name != name:
            raise DataError(f"{folder}: holds {builder.info.name}, not {name}")
        class_names = tuple(builder.info.features["label"].names)
        names = {Split.TRAIN: "train", Split.VALID: "validation", Split.TEST: "test"}
        for split, split_name in names.items():
            if split_name in builder.info.splits:
                source = _records(builder, split_name)
                records = RecordPictures(source, f"{folder}: {split_name}", len(source))
                if records[0].label >= 0:
                    found[split] = records
    if Split.TEST not in found and Split.VALID in found:
        found[Split.TEST] = found.pop(Split.VALID)
    if Split.TRAIN not in found or Split.TEST not in found:
        raise DataError(f"{folder}: has no labelled splits train and test (or validation)")
    return class_names, found


def class_names(name: str, path: Path) -> tuple[str, ...]:
    """The class names of a set that is prepared in a folder or known to TFDS.

    Raises:
      DataError: TFDS does not know the set, or it has no classes.
    """
    import tensorflow_datasets as tfds

    try:
        prepared = find(name, path)
        builder = _builder(prepared) if prepared else tfds.builder(name)
        return tuple(builder.info.features["label"].names)
    except Exception as error:  # TFDS raises almost anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(f"data.name='tfds:{name}': TFDS knows no classes: {reason}") from error


def _check_shape(shape: tuple[int | None, ...], count: int, folder: Path) -> None:
    if None in shape or shape[-1] not in (1, 3):
        raise DataError(
            f"{folder}: images of shape {shape}; expected one size, 1 or 3 channels; "
            "--config.data.stream=True takes any"
        )
    if count * int(np.prod(shape)) > MAX_BYTES:  # type: ignore[arg-type]
        raise DataError(
            f"{folder}: {count} images of shape {shape} take more than {MAX_BYTES:,} bytes "
            "of memory; pass --config.data.stream=True"
        )


def check_network() -> None:
    """Checks that CIFAR's host can be reached.

    Raises:
      DataError: It cannot, within `NETWORK_SECONDS`; the message says how else to get the data.
    """
    errors: list[str] = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection((HOST, 443), timeout=NETWORK_SECONDS).close()
            errors.clear()
        except OSError as error:
            errors.append(str(error))

    # In a thread, because the timeout does not cover a name server that does not answer.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if errors:
        raise DataError(
            f"no CIFAR data is on this machine and {HOST} cannot be reached ({errors[-1]}); "
            "download an archive elsewhere (https://www.cs.toronto.edu/~kriz/cifar.html, or a "
            "mirror: its checksum is verified) and pass --config.data.path=FILE, or a folder "
            f"that TFDS has prepared, or put the archive into {data_dir() / 'downloads/manual'}"
        )


def prepare(form: cifar.Format, folder: Path) -> Path:
    """Downloads CIFAR's binary archive with TFDS and prepares it as TFDS would.

    `folder` is the TFDS folder. An archive in its `downloads/manual` is used without a download.

    Returns:
      The folder of the prepared set.

    Raises:
      DataError: The download fails, or is not the expected archive.
    """
    import tensorflow_datasets as tfds

    archive_name = next(name for name in form.archives if "binary" in name)
    url = f"https://{HOST}/~kriz/{archive_name}"
    tfds_builders = tfds.image_classification
    label_names = ("coarse_label", "label")[-form.label_bytes :]
    used: list[Path] = []

    class Builder:
        """Overrides the methods of TFDS's builder that need TensorFlow."""

        def _split_generators(self, downloads: Any) -> dict[str, Iterator]:
            archive = Path(downloads.download(url))
            used.append(archive)
            files = cifar.read_files(form, archive)
            self.info.features["label"].names = list(form.info.class_names)  # type: ignore[attr-defined]
            return {split.value: self._generate_examples(split, files) for split in form.batches}

        def _generate_examples(
            self, split: Split, files: dict[str, bytes]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            records = cifar.binary_records(form, split, files)
            for index, (labels, image) in enumerate(records):
                file = io.BytesIO()
                Image.fromarray(image).save(file, "png")
                file.seek(0)
                named = dict(zip(label_names, map(int, labels), strict=True))
                yield index, {"id": f"{split}_{index:05d}", "image": file, **named}

    base = {"cifar10": tfds_builders.Cifar10, "cifar100": tfds_builders.Cifar100}[form.info.name]
    with tfds.core.registered.skip_registration():
        # TFDS names a set after its class.
        cls = type(base.__name__, (Builder, base), {"__module__": __name__})
    try:
        builder = cls(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=folder / "downloads" / "manual", try_download_gcs=False
            )
        )
    except DataError:
        raise
    except Exception as error:  # TFDS and requests raise almost anything
        raise DataError(f"{url}: {type(error).__name__}: {error}") from error
    prepared = Path(builder.data_path)
    sums = {"archive": digest(used), "records": digest(stored_files(prepared))}
    fileio.write_json(prepared / ARCHIVE, sums)
    return prepared
