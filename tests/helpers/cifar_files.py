"""Small CIFAR files in the official layouts.

In CIFAR-10's binary form an image is one byte for the label, then 1,024 bytes each of red, green
and blue, row by row.
"""

import gzip
import io
import pickle
import tarfile

import numpy as np

NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def random_members(records=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, records, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, records), dtype=np.uint8)
    members = {}
    for name, batch, marks in zip(NAMES, images, labels, strict=True):
        content = b""
        for image, mark in zip(batch, marks, strict=True):
            planes = [image[:, :, channel].tobytes() for channel in range(3)]
            content += bytes([mark]) + b"".join(planes)
        members[name] = content
    return members, images, labels


def random_cifar100():
    """Returns the binary files, the Python files, and each split's images and fine labels."""
    rng = np.random.default_rng(0)
    binary, python, expected = {}, {}, {}
    for name, size in (("train", 7), ("test", 3)):
        images = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        fine, coarse = rng.integers(0, 100, size), rng.integers(0, 20, size)
        rows = images.transpose(0, 3, 1, 2).reshape(size, 3072)
        two = np.stack([coarse, fine], axis=1).astype(np.uint8)
        binary[f"{name}.bin"] = np.concatenate([two, rows], axis=1).tobytes()
        python[name] = pickle.dumps(
            {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist(), b"data": rows}, 2
        )
        expected[name] = (images, fine)
    return binary, python, expected


def as_tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_archive(path, members):
    path.write_bytes(gzip.compress(as_tar(members)))
    return str(path)


def as_pickles(members, protocol=2):
    """Turns files of the binary form into files of the Python form."""
    batches = {}
    for name, content in members.items():
        rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
        batch = {
            b"batch_label": b"training batch 1 of 5",
            b"labels": rows[:, 0].tolist(),
            b"data": rows[:, 1:].copy(),
            b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * len(rows),
        }
        batches[name.removesuffix(".bin")] = pickle.dumps(batch, protocol)
    return batches


def as_python_2(content, label_key="labels"):
    """Pickles a batch as Python 2 did for the official files, with byte strings only."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)

    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    raw = rows[:, 1:].tobytes()
    labels = b"".join(b"K" + bytes([label]) for label in rows[:, 0])
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text("batch_label") + b"q\x02" + text("training batch 1 of 5") + b"q\x03",
            text(label_key) + b"](" + labels + b"e",
            text("data") + b"cnumpy.core.multiarray\n_reconstruct\nq\x05",
            b"cnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R",
            b"(K\x01" + b"M" + len(rows).to_bytes(2, "little") + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R",
            b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb",
            b"u.",
        ]
    )


def pixels_and_labels(dataset):
    return [
        (split, arrays.images.tobytes(), arrays.labels.tobytes())
        for split, arrays in sorted(dataset.splits.items())
    ]


def write_folder(folder, members):
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return folder
