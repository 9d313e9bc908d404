"""This project's training step on random images, for the benchmarks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from googlenet_jax import optimizer, preprocess, state, step
from googlenet_jax.config import Config
from googlenet_jax.data import Arrays, epoch_order
from googlenet_jax.data.cifar import CIFAR10

INFO = CIFAR10.info
TakeSteps = Callable[[int], None]
"""Takes so many steps and waits for them."""


def initialize(dtype: str) -> tuple[Config, state.TrainState]:
    """The 95.16 % network's config and its state at step 0."""
    config = Config()
    config.model.dtype = dtype
    schedule = optimizer.create_schedule(config.optimizer, 390, 39_000)
    return config, state.initialize(jax.random.key(0), config, INFO, schedule)


def compile_steps(batch_size: int, dtype: str) -> tuple[TakeSteps, str]:
    """The steps, and the text of their compiled program."""
    config, train_state = initialize(dtype)
    rng = np.random.default_rng(0)
    size = 64 * batch_size
    images = rng.integers(0, 256, (size, *INFO.image_shape), np.uint8)
    data = jax.device_put(Arrays(images, rng.integers(0, 10, size, np.int32)))
    order, key = epoch_order(jax.random.key(0), 0, size), jax.random.key(1)
    program = step.train_steps.lower(
        train_state,
        data,
        order,
        jnp.int32(1),
        key,
        batch_size=batch_size,
        preprocess=preprocess.for_training(config.data, INFO),
        aux_loss_weight=config.train.aux_loss_weight,
    ).compile()

    def take_steps(number: int) -> None:
        nonlocal train_state
        train_state = program(train_state, data, order, jnp.int32(number), key)
        jax.block_until_ready(train_state)

    return take_steps, program.as_text()
