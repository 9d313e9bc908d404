"""A tiny network, state and data."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from googlenet_jax.config import ModelConfig
from googlenet_jax.data import Arrays
from googlenet_jax.models.layers import Linear, Unit
from googlenet_jax.training import optimizer
from googlenet_jax.training.state import TrainState, create
from googlenet_jax.training.step import Hyperparameters

NUM_CLASSES = 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4


class Tiny(nnx.Module):
    """A unit, dropout and a classifier: every kind of layer, compiled in a second."""

    def __init__(self):
        self.unit = Unit(1, 4, 3, ModelConfig())
        self.dropout = nnx.Dropout(0.4)
        self.fc = Linear(4, NUM_CLASSES, ModelConfig())

    def __call__(self, x, *, train, key=None):
        x = self.unit(x, train).mean(axis=(1, 2))
        return self.fc(self.dropout(x, deterministic=not train, rngs=key)), ()


def make_state(build=Tiny) -> TrainState:
    return create(jax.random.key(3), build, optimizer.sgd, NUM_CLASSES)


def hyperparameters(learning_rate=LEARNING_RATE, dtype=np.float32) -> Hyperparameters:
    """Returns hyperparameters with a constant learning rate."""
    rest = (dtype(number) for number in (MOMENTUM, WEIGHT_DECAY, 0.3, 0.0))
    return Hyperparameters(np.full(1, learning_rate, dtype), *rest)


def make_data(size: int) -> Arrays:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, size, dtype=np.int32)
    return jax.device_put(Arrays(images, labels))


def to_float(pixels):
    return pixels.astype(jnp.float32) / 255


def noisy(key, batch):
    """Adds noise from the key, in place of a real augmentation."""
    scaled = to_float(batch.pixels)
    return scaled + 0.1 * jax.random.normal(key, scaled.shape), None
