"""CIFAR-10 from its binary archive (Krizhevsky, "Learning Multiple Layers of Features", 2009).

The archive is read as a stream and never unpacked: a member is used by its name alone, and no
more of it is read than the format can hold.
"""

import gzip
import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from googlenet_jax.data.dataset import Arrays, Dataset, DatasetInfo, Split, check_sum
from googlenet_jax.errors import DataError

INFO = DatasetInfo(
    name="cifar10",
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    image_shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),  # the article's: the mean of the images' own deviations
)
MEMBERS = {
    Split.TRAIN: [f"data_batch_{i}.bin" for i in range(1, 6)],
    Split.TEST: ["test_batch.bin"],
}
RECORD = 1 + 32 * 32 * 3  # a label, then the red, green and blue planes
RECORDS = 10_000  # of a member
# As tensorflow_datasets 4.9.10 has it, for a file of 170,052,171 bytes.
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


def load(path: str, unofficial: bool) -> Dataset:
    """Reads `cifar-10-binary.tar.gz`.

    Args:
      path: of the archive.
      unofficial: accept an archive that is not, byte for byte, the published one.

    Raises:
      DataError: there is no such file, or it is not what it should be.
    """
    archive = Path(path).expanduser()
    if not path or not archive.is_file():
        raise DataError(
            f"data.path={path!r}: no such file; CIFAR-10 needs its binary archive: "
            "--config.data.path=FOLDER/cifar-10-binary.tar.gz"
        )
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = check_sum(str(archive), found, [SHA256], unofficial)
    members = _read_members(archive)
    splits = {
        split: _decode(b"".join(members[name] for name in names), archive)
        for split, names in MEMBERS.items()
    }
    return Dataset(INFO, splits, provenance)


def _read_members(archive: Path) -> dict[str, bytes]:
    """The contents of the six batch files, by name."""
    wanted = [name for names in MEMBERS.values() for name in names]
    members: dict[str, bytes] = {}
    try:
        # Through gzip, which verifies its checksum at the end; tarfile's own stream does not.
        with gzip.open(archive) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name not in wanted or not member.isfile():
                    continue
                if not 0 < member.size <= RECORD * RECORDS or member.size % RECORD:
                    raise DataError(
                        f"{archive}: {name} has {member.size} bytes; expected up to {RECORDS} "
                        f"records of {RECORD} bytes"
                    )
                members[name] = tar.extractfile(member).read()  # type: ignore[union-attr]
            if len(file.read(1 << 20)) == 1 << 20:  # padding is far shorter
                raise DataError(f"{archive}: goes on behind the end of its tar archive")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: not a readable gzipped tar archive: {error}") from error
    if missing := [name for name in wanted if name not in members]:
        raise DataError(f"{archive}: lacks {', '.join(missing)}")
    return members


def _decode(records: bytes, archive: Path) -> Arrays:
    rows = np.frombuffer(records, np.uint8).reshape(-1, RECORD)
    labels = rows[:, 0].astype(np.int32)
    if labels.max() >= INFO.num_classes:
        raise DataError(f"{archive}: has label {labels.max()}; expected 0 to 9")
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Arrays(np.ascontiguousarray(images), labels)
