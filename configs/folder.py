"""Fine-tunes ImageNet weights on a folder of pictures of any size, with a folder for each class.

    python -m train.import_torch googlenet-1378be20.pth --workdir runs/torchvision
    python -m train.main --config configs/folder.py --config.data.path=photos

The network and its weights are torchvision's (`configs/finetune.py`), with a new classifier.
photos/train and photos/test hold the class folders. If the class folders are directly in photos,
set test images apart with --config.data.test_examples=200. Crops keep at least a quarter of a
picture, not ImageNet's 8 %, because the data set is small. SGD 0.01 with a cosine schedule, 20
epochs, batch size 32: not tuned. For results, from other weights than ImageNet's, see
docs/results.md.
"""

from configs import finetune
from googlenet_jax.config import Config, DataConfig


def get_config() -> Config:
    """Torchvision's network on streamed 224x224 crops."""
    config = finetune.get_config()
    config.model.image_size = 0
    config.data = DataConfig(name="folder", pad=0, crop_area=0.25)
    config.train.batch_size = 32
    config.train.epochs = 20
    return config
