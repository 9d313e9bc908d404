"""Scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, installed with the package.

From the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak, 1998). Each
pixel is the number of dark pixels, 0 to 16, in a 4x4 cell of the original scan.
"""

import hashlib

import numpy as np

from googlenet_jax.data.dataset import Arrays, Dataset, DatasetInfo, Split, check_sum
from googlenet_jax.errors import DataError

INFO = DatasetInfo(
    name="digits",
    class_names=tuple("0123456789"),
    image_shape=(8, 8, 1),
    mean=(0.3052,),  # over all pixels of the 1,442 training images
    std=(0.3760,),
)

SHA256 = "ed5d0ee6d5a61b611d6cad96c6bd69386d32550c51b259a59996b65ad132fa6c"
"""The sum of the pixels and labels that `load` makes with scikit-learn 1.9."""


def load(path: str, unofficial: bool) -> Dataset:
    """The digits; every fifth image of each class is for testing, the others for training.

    Raises:
      DataError: A path was given, or the installed scikit-learn has other images.
    """
    if path:
        raise DataError(f"data.path={path!r}: digits come with scikit-learn and take no path")
    from sklearn.datasets import load_digits  # slow to import, and no other set needs it

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
