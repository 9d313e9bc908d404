"""The paper's own task: GoogLeNet with auxiliary heads on ImageNet at 224x224. Not run yet.

    python -m train.main --config configs/imagenet.py --config.data.path=tensorflow_datasets

Szegedy et al., "Going Deeper with Convolutions" (2014), Table 1 and section 6: 7x7/2 stem, 1x1
reduction before conv2, all four max pools, both auxiliary heads, no BatchNorm; SGD with momentum
0.9, the learning rate cut by 4 % every 8 epochs; crops of 8 % to 100 % of the area with aspect
ratios of 3/4 to 4/3. data.path is a folder in which TFDS has prepared imagenet2012 as array_record;
for a folder of class folders, pass --config.data.name=folder.

What the paper leaves open is taken from Caffe's public solver of its GoogLeNet: learning rate 0.01,
weight decay 2e-4, batch size 32, 250 epochs. Caffe's own shorter run (60 epochs, another schedule)
reached 68.7 % top-1 and 88.9 % top-5 with one central crop. The paper's 6.67 % top-5 error is that
of seven networks on 144 crops.

Deviations: no local response normalisation, no photometric distortion, bilinear interpolation only,
no averaged weights. Initial weights, which the paper leaves open too, are Kaiming uniform over the
fan-in: without BatchNorm, the article's fan-out makes the loss infinite in a few steps.
"""

from googlenet_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """The paper's network and recipe."""
    return Config(
        model=ModelConfig(
            stem="7x7",
            conv2_reduce=True,
            pools="1234",
            batch_norm=False,
            init="fan_in",
            aux_heads=True,
        ),
        data=DataConfig(name="tfds:imagenet2012", stream=True, pad=0),
        optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=2e-4, schedule="exponential"),
        train=TrainConfig(batch_size=32, epochs=250),
    )
