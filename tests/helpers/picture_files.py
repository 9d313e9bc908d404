"""Folders and TFDS records of pictures."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def encoded(pixels, kind="PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def plain(number) -> bytes:
    """Encodes a number as the colour of a picture, so any crop shows it; sizes vary."""
    height, width = 3 + number % 5, 4 + number % 3
    colour = (number // 256, number % 256, 7)
    return encoded(np.full((height, width, 3), colour, np.uint8))


def numbers(images):
    """Decodes the numbers of `plain` pictures."""
    corner = np.asarray(images)[:, 0, 0].astype(int)
    return (corner[:, 0] * 256 + corner[:, 1]).tolist()


def plain_folder(root: Path, sizes: dict[str, int], test: int = 3) -> Path:
    """Makes a folder per class with the given number of training pictures, all numbered."""
    number = 0
    for split, per_class in (("train", sizes), ("test", dict.fromkeys(sizes, test))):
        for name, size in per_class.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for _ in range(size):
                (folder / f"{number:05d}.png").write_bytes(plain(number))
                number += 1
    return root


def digits_folder(root: Path, train: int, test: int) -> Path:
    """Makes a folder per class of scanned digits, tinted and of different widths."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    for split, start, size in (("train", 0, train), ("test", train, test)):
        for index in range(start, start + size):
            folder = root / split / str(labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            tinted = images[index][:, :, None] // np.array([1, 2, 3], np.uint8)
            wide = np.pad(tinted, ((0, 0), (0, index % 4), (0, 0)))
            (folder / f"{index:04d}.jpg").write_bytes(encoded(wide, "JPEG"))
    return root


def wide_folder(root: Path, size: int) -> Path:
    """Makes pictures of 200x40 pixels whose class shows in the central square only."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8).repeat(5, 1).repeat(5, 2)
    for index in range(size):
        tiles = [images[(index + step) % len(images)] for step in (701, 402, 0, 203, 904)]
        for split in ("train", "test"):
            folder = root / split / str(labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            wide = np.stack([np.concatenate(tiles, axis=1)] * 3, axis=-1)
            (folder / f"{index:04d}.png").write_bytes(encoded(wide))
    return root


def prepare(folder: Path, name: str, splits: dict[str, list[tuple[bytes, int]]], classes) -> Path:
    """Prepares a TFDS set of pictures of any size; label -1 means no label."""
    import tensorflow_datasets as tfds

    def info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=classes),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generate(self, split):
        for index, (content, label) in enumerate(splits[split]):
            file = {"image": io.BytesIO(content), "file_name": f"{split}{index}.png"}
            yield index, {**file, "label": label}

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "pkg_dir_path": folder,
        "__module__": __name__,
        "_info": info,
        "_split_generators": lambda self, _: {
            split: self._generate_examples(split) for split in splits
        },
        "_generate_examples": generate,
    }
    with tfds.core.registered.skip_registration():
        builder = type(name.capitalize(), (tfds.core.GeneratorBasedBuilder,), body)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder
