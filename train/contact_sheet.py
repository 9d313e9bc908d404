"""Draws augmented training images: python -m train.contact_sheet --config configs/cifar10.py.

Takes the flags of `train.main` and writes contact_sheet.png into the working directory. Each row
shows an image of one class: first as stored, then with the config's crops and mirrors, without
cutout, mixup and CutMix. For streams, whose pictures have any size, the first image is the crop
that evaluation uses.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from train import console, flags

if TYPE_CHECKING:
    from PIL.Image import Image

    from googlenet_jax.config import Config

COLUMNS = 12
MAX_ROWS = 20
SCALE = 3  # enlargement of small images
GAP = 2  # pixels around each image


def main(argv: list[str]) -> None:
    """Writes contact_sheet.png into the working directory."""
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__}\n{flags.help_text(argv)}")
        return
    config, workdir = flags.parse(argv)
    fileio.check(workdir)
    sheet = contact_sheet(config)
    path = workdir / "contact_sheet.png"
    try:
        if isinstance(workdir, Path):
            workdir.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        sheet.save(picture, format="png")
        fileio.write(path, picture.getvalue())
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written: {error}") from error
    console.say(f"written to {path}")


def contact_sheet(config: "Config") -> "Image":
    """Returns one row per class: a training image, and its augmentations to the right of it."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from PIL import Image

    from googlenet_jax import data
    from googlenet_jax.data.preprocess import augmentation

    dataset = data.load(config.data, config.seed)
    if isinstance(dataset, data.Stream):
        rows = min(MAX_ROWS, dataset.info.num_classes)
        shown, cut = dataset.samples(rows, COLUMNS)  # the first samples cover all classes
    else:
        train = dataset.splits[data.Split.TRAIN]
        labels = np.asarray(train.labels)
        first = [int(np.argmax(labels == label)) for label in np.unique(labels)[:MAX_ROWS]]
        shown = np.asarray(train.images)[first]
        cut = np.stack([shown] * COLUMNS)
    augmented = augmentation(config.data)
    keys = jax.random.split(jax.random.key(config.seed), COLUMNS)
    changed = (  # with alternate_flip, each column is an epoch
        augmented(key, jnp.asarray(each), jnp.full(len(each), epoch % 2 == 1))
        for epoch, (key, each) in enumerate(zip(keys, cut, strict=True))
    )
    columns = [shown, *map(np.asarray, changed)]
    scale = 1 if isinstance(dataset, data.Stream) else SCALE
    cells = np.stack(columns, axis=1).repeat(scale, axis=2).repeat(scale, axis=3)
    cells = np.pad(cells, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    rows, count, height, width, channels = cells.shape
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, channels)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


if __name__ == "__main__":
    console.start(main)
