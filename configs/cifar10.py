"""Row 8 of "Can GoogLeNet reach 95 % on CIFAR-10 too?": published test accuracy 95.16 %.

    python -m train.main --config configs/cifar10.py --config.data.path=cifar-10-binary.tar.gz

That is the web article "GoogLeNet在cifar10上也能达到95%准确率?" (copy of 2024-03-22), called "the
article" from here on. Row 8 is its best network: GoogLeNet with a 3x3/1 stem, maxpool3 and maxpool4
only, and BatchNorm. SGD 0.1 with momentum 0.9, weight decay 5e-4, a cosine schedule updated once
per epoch, batch size 128, 100 epochs; reflection padding of 4 pixels, random crop, random mirror.
These are the defaults. On an H100, with --config.model.dtype=bfloat16, 94 epochs took 9 min.

Deviations: each epoch drops its incomplete last batch (390 steps of 128 instead of 391; the order
is new in every epoch), and BatchNorm's running variance is the biased one. The published figure is
the best epoch of a single run, chosen on the test set.
"""

from googlenet_jax.config import Config


def get_config() -> Config:
    """All defaults."""
    return Config()
