"""Fine-tunes ImageNet weights on a folder of pictures: a folder for each class, any sizes.

    python -m train.import_torch googlenet-1378be20.pth --workdir runs/torchvision
    python -m train.main --config configs/folder.py --config.data.path=photos

The network and its weights are torchvision's (`configs/finetune.py`), with a new classifier.
photos/train and photos/test hold the folders of classes; for photos/CLASS alone, set images apart
with --config.data.test_examples=200. Crops keep at least a quarter of a picture, because a small
set shows a network less than ImageNet's 8 % would ask for. SGD 0.01 with a cosine, 20 epochs,
batch 32: not tuned. docs/results.md has what it reached, from weights other than ImageNet's.
"""

from configs import finetune
from googlenet_jax.config import Config, DataConfig


def get_config() -> Config:
    """Torchvision's network, on pictures that are streamed at 224x224."""
    config = finetune.get_config()
    config.model.image_size = 0
    config.data = DataConfig(name="folder", pad=0, crop_area=0.25)
    config.train.batch_size = 32
    config.train.epochs = 20
    return config
