"""The paper's own network at 224x224 on CIFAR-10, whose images it resizes.

    python -m train.main --config configs/paper.py --config.data.path=cifar-10-binary.tar.gz

Szegedy et al., "Going Deeper with Convolutions" (2014), Table 1: 7x7/2 stem, 1x1 reduction before
conv2, all four max pools, both auxiliary heads, no BatchNorm. The optimizer is that of the
article's row 2 (`configs/cifar10_row2.py`), because the paper's recipe is for ImageNet. Deviations:
no local response normalisation, no decayed copy of the weights, CIFAR-10's classes. There is no
published figure.
"""

from configs import cifar10_row2
from googlenet_jax.config import Config, ModelConfig


def get_config() -> Config:
    """Row 2 with the paper's network."""
    config = cifar10_row2.get_config()
    config.model = ModelConfig(
        image_size=224,
        stem="7x7",
        conv2_reduce=True,
        pools="1234",
        batch_norm=False,
        aux_heads=True,
    )
    return config
