"""Scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels that every install carries.

From the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak, 1998); the
images are counts of 0 to 16 dark pixels in 4x4 cells.
"""

import hashlib

import numpy as np

from googlenet_jax.data.dataset import Arrays, Dataset, DatasetInfo, Split, check_sum
from googlenet_jax.errors import DataError

INFO = DatasetInfo(
    name="digits",
    class_names=tuple("0123456789"),
    image_shape=(8, 8, 1),
    mean=(0.3052,),  # of the 1,442 training images, per pixel
    std=(0.3760,),
)


SHA256 = "ed5d0ee6d5a61b611d6cad96c6bd69386d32550c51b259a59996b65ad132fa6c"
"""Of the pixels and labels that `load` makes, with scikit-learn 1.9."""


def load(path: str, unofficial: bool) -> Dataset:
    """Every fifth image of each class is a test image, the others are training images.

    Raises:
      DataError: a path was given, or the installed scikit-learn carries other images.
    """
    if path:
        raise DataError(f"data.path={path!r}: the digits are embedded and take no path")
    from sklearn.datasets import load_digits  # here, since the other sets do without

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    provenance = check_sum("sklearn.datasets.load_digits", found, [SHA256], unofficial)

    is_test = np.zeros(len(labels), bool)
    for label in range(INFO.num_classes):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    whole = Arrays(images, labels)
    return Dataset(INFO, {Split.TRAIN: whole[~is_test], Split.TEST: whole[is_test]}, provenance)
