"""GoogLeNet on ImageNet at 224x224 with a modern recipe: BatchNorm, cosine, label smoothing.

    python -m train.main --config configs/imagenet_modern.py --config.data.path=tensorflow_datasets

The paper's network (`configs/imagenet.py`) without its auxiliary heads, which BatchNorm makes
superfluous. SGD 0.1 for a batch size of 256, after five epochs of warm-up (Goyal et al., "Accurate,
Large Minibatch SGD", 2017); a cosine to zero over 90 epochs, updated at each step; label smoothing
0.1 (Szegedy et al., 2016); weight decay 1e-4; dropout 0.2 as in torchvision's GoogLeNet; bfloat16.
Not run yet, and no published figure exists for this recipe. Torchvision's weights, converted from
TensorFlow's, reach 69.78 % top-1.
"""

from configs import imagenet
from googlenet_jax.config import Config, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """The paper's network and data with another recipe."""
    config = imagenet.get_config()
    config.model.batch_norm = True
    config.model.conv_bias = False
    config.model.init = "fan_out"
    config.model.aux_heads = False
    config.model.dropout_rate = 0.2
    config.model.dtype = "bfloat16"
    config.optimizer = OptimizerConfig(
        learning_rate=0.1, weight_decay=1e-4, schedule_per="step", warmup_epochs=5
    )
    config.train = TrainConfig(batch_size=256, epochs=90, label_smoothing=0.1)
    return config
