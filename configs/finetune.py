"""Fine-tunes torchvision's ImageNet weights on CIFAR-10, with images resized to 224x224.

    python -m train.import_torch googlenet-1378be20.pth --workdir runs/torchvision
    python -m train.main --config configs/finetune.py --config.data.path=cifar-10-binary.tar.gz

The network is torchvision's: 1x1 reduction before conv2, one 3x3 where the paper has 5x5, a 2x2
maxpool4, BatchNorm with an epsilon of 1e-3, no bias in convolutions, dropout 0.2. The classifier is
new. SGD 0.01 with a cosine schedule, 10 epochs, batch size 64: not tuned, and not run yet.

Deviation: images are normalised by CIFAR-10's mean and standard deviation, not scaled to -1..1 as
the weights expect; conv1's BatchNorm absorbs the factor.
"""

from googlenet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Torchvision's network with a short recipe and a low learning rate."""
    return Config(
        model=ModelConfig(
            image_size=224,
            stem="7x7",
            conv2_reduce=True,
            pools="1234",
            pool4_window=2,
            conv5x5="3x3",
            bn_epsilon=1e-3,
            conv_bias=False,
            init="fan_in",  # for the new classifier; over a fan-out of few classes they are huge
            dropout_rate=0.2,
        ),
        optimizer=OptimizerConfig(learning_rate=0.01),
        train=TrainConfig(batch_size=64, epochs=10, init_from="runs/torchvision"),
    )
