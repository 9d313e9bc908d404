"""Data sets that TensorFlow Datasets has prepared, and CIFAR's preparation, without TensorFlow.

TFDS's own builders of CIFAR need TensorFlow to prepare, and offline they try for minutes. The
builder here keeps TFDS's name, version, features, download manager and checksums, and hands in
encoded images; what it writes is read by `tfds.data_source` as if TensorFlow had written it.
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
from googlenet_jax.data import cifar, encoded
from googlenet_jax.data.dataset import Arrays, DatasetInfo, Split, digest
from googlenet_jax.data.stream import Picture
from googlenet_jax.errors import DataError, no_logging

HOST = "www.cs.toronto.edu"
NETWORK_SECONDS = 8.0
MAX_BYTES = 2**30  # of a split's pixels, which are held in memory and on the device
FEATURES = "tensorflow_datasets.core.features."  # where the classes of TFDS's features are
ARCHIVE = "archive.json"  # beside what is prepared here: the sums of the archive and the records


def data_dir() -> Path:
    """The user's usual TFDS folder."""
    from tensorflow_datasets.core.constants import get_default_data_dir

    return Path(get_default_data_dir())


def find(name: str, path: Path) -> Path | None:
    """The newest prepared version of a set in a TFDS folder, or the folder itself if it is one."""
    for folder in (path, path / name):
        candidates = [folder, *folder.glob("[0-9]*.[0-9]*.[0-9]*")]
        if found := [c for c in candidates if (c / "dataset_info.json").is_file()]:
            return max(found, key=lambda c: [int(n) for n in c.name.split(".") if n.isdecimal()])
    return None


def stored_files(folder: Path) -> list[Path]:
    """The files of a prepared set that hold its records."""
    return sorted(folder.glob("*array_record*"))


def archive_sum(folder: Path, records: str) -> str | None:
    """The sha256 of the archive from which `prepare` made records of that sha256, if it did."""
    try:
        sums = fileio.read_json(folder / ARCHIVE)
        return sums["archive"] if sums["records"] == records else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe(folder: Path, splits: dict[Split, Arrays]) -> DatasetInfo:
    """What a network must know of a prepared set, normalised by its own training images."""
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
    """The images and classes of a prepared set of one small image size.

    Args:
      name: of the set.
      folder: that holds its dataset_info.json.
      form: of a CIFAR set, whose images come in the order of its archive.

    Raises:
      DataError: it cannot be read without TensorFlow, or is not such a set.
    """
    splits = {}
    with _told(folder, "format array_record, splits train and test"):
        builder = _builder(folder)
        shape = builder.info.features["image"].shape
        if builder.info.name != name or (form and shape != form.info.image_shape):
            raise DataError(f"{folder}: holds {builder.info.name} of shape {shape}, not {name}")
        for split in (Split.TRAIN, Split.TEST):
            count = builder.info.splits[split.value].num_examples
            _check_shape(shape, count, folder)
            examples = _records(builder, split.value).__getitems__(range(count))
            if form:  # TFDS shuffles what it writes; "train_00042"
                examples.sort(key=lambda example: int(example["id"].split(b"_")[1]))
            pixels = encoded.decode([e["image"] for e in examples], shape, f"{folder}: {split}")
            labels = np.array([e["label"] for e in examples], np.int32)
            splits[split] = Arrays(pixels, labels)
    return splits


def _builder(folder: Path) -> Any:
    """TFDS's reader of a prepared set.

    Raises:
      DataError: it holds a pipe or a device, which might be read for ever, or its features are not
        TFDS's own. Of any other name TFDS imports the module that it
        names, from the current folder as well, and that would run it.
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
                    raise DataError(f"{folder}: features.json names {each!r}, no feature of TFDS")
                check(each)

    for path in folder.iterdir():
        if not (path.is_file() or path.is_dir()):
            raise DataError(f"{path}: is not a regular file")
    check(fileio.read_json(folder / "features.json"))
    return tfds.builder_from_directory(folder)


def _records(builder: Any, split_name: str) -> Any:
    """The records of a split by number, their images as they are stored."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split_name, decoders={"image": tfds.decode.SkipDecoding()})


@contextlib.contextmanager
def _told(folder: Path, needs: str) -> Iterator[None]:
    """Makes one line of what reading a prepared set raises, logs and prints."""
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
    """Pictures in the records of a prepared set.

    Attributes:
      source: of TFDS; may be sent to another process.
      where: the set and the split, for messages.
      size: how many of them there are.
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
    """The names of the classes, and the pictures of each split, of a prepared set.

    A set whose test split has no labels, or that has none, is tested on its validation split.

    Args:
      name: of the set.
      folder: that holds its dataset_info.json.

    Raises:
      DataError: it cannot be read without TensorFlow, or is not such a set.
    """
    found = {}
    with _told(folder, "format array_record"):
        builder = _builder(folder)
        if builder.info.name != name:
            raise DataError(f"{folder}: holds {builder.info.name}, not {name}")
        class_names = tuple(builder.info.features["label"].names)
        for split, split_name in (
            (Split.TRAIN, "train"),
            (Split.VALID, "validation"),
            (Split.TEST, "test"),
        ):
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
    """The classes of a set that is prepared in a folder, or that TFDS knows.

    Raises:
      DataError: TFDS does not know it, or it has no classes.
    """
    import tensorflow_datasets as tfds

    try:
        prepared = find(name, path)
        builder = _builder(prepared) if prepared else tfds.builder(name)
        return tuple(builder.info.features["label"].names)
    except Exception as error:  # TFDS raises almost anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(f"data.name='tfds:{name}': TFDS has no classes of it: {reason}") from error


def _check_shape(shape: tuple[int | None, ...], count: int, folder: Path) -> None:
    if None in shape or shape[-1] not in (1, 3):
        raise DataError(
            f"{folder}: images of shape {shape}; expected one size, 1 or 3 channels; "
            "--config.data.stream=True takes any"
        )
    if count * int(np.prod(shape)) > MAX_BYTES:  # type: ignore[arg-type]
        raise DataError(
            f"{folder}: {count} images of shape {shape} are more than memory may hold; pass "
            "--config.data.stream=True"
        )


def check_network() -> None:
    """Tries to reach CIFAR's host.

    Raises:
      DataError: not within some seconds; says how to get the data otherwise.
    """
    errors: list[str] = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection((HOST, 443), timeout=NETWORK_SECONDS).close()
            errors.clear()
        except OSError as error:
            errors.append(str(error))

    # In a thread, because a name server that does not answer is waited for without a limit.
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

    Args:
      form: of the set.
      folder: TFDS's, for all sets; an archive in its `downloads/manual` is not downloaded.

    Returns:
      The folder of the prepared set.

    Raises:
      DataError: the download fails or is not what it should be.
    """
    import tensorflow_datasets as tfds

    archive_name = next(name for name in form.archives if "binary" in name)
    url = f"https://{HOST}/~kriz/{archive_name}"
    tfds_builders = tfds.image_classification
    label_names = ("coarse_label", "label")[-form.label_bytes :]
    used: list[Path] = []

    class Builder:
        """What replaces TensorFlow in TFDS's builder."""

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
