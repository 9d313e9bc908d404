"""Row 9 of the article, pre-activation ResNet-164: published test accuracy 94.54 %.

    python -m train.main --config configs/cifar10_row9.py --config.data.path=cifar-10-binary.tar.gz

He et al., "Identity Mappings in Deep Residual Networks" (2016); the figure is the median of 5 runs.
SGD 0.1 with momentum 0.9 and weight decay 1e-4, batch size 128, 64,000 steps. The learning rate is
divided by 10 after 32,000 and 48,000 steps (the schedule of the authors' paper of 2015) and is 0.01
for the first 400. Zero padding of 4 pixels, random crop, random mirror; no dropout.

Deviations: the published runs used two GPUs with 64 images each and BatchNorm per GPU; here
BatchNorm sees all 128. Initial weights of convolutions are uniform, with the variance of the
authors' normal ones; those of the classifier are the article's. Each epoch drops its incomplete
last batch (390 steps instead of 391). Images are normalised by row 8's mean and standard deviation.
"""

from googlenet_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Another network with its authors' recipe."""
    return Config(
        model=ModelConfig(name="preact_resnet", depth=164, conv_bias=False),
        data=DataConfig(pad_mode="zeros"),
        optimizer=OptimizerConfig(
            weight_decay=1e-4,
            schedule="step",
            schedule_per="step",
            decay_at="0.5,0.75",
            warmup="constant",
            warmup_epochs=400 / 390,
        ),
        train=TrainConfig(steps=64_000),
    )
