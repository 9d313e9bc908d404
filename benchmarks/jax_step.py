"""This project's work on random images for the benchmarks; each function prepares one kind."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from googlenet_jax.config import Config
from googlenet_jax.data import Arrays, epoch_order, preprocess
from googlenet_jax.data.cifar import CIFAR10
from googlenet_jax.training import state, step
from train import allocator

allocator.keep_memory()  # does nothing in a process that is not tuned
INFO = CIFAR10.info
TakeSteps = Callable[[int], None]
"""Takes a number of steps and waits until they are done."""


def _initialize(dtype: str) -> tuple[Config, state.TrainState]:
    """The 95.16 % network's config and its state at step 0."""
    config = Config()
    config.model.dtype = dtype
    return config, state.initialize(jax.random.key(0), config, INFO)


def _data(size: int) -> Arrays:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, math.prod(INFO.image_shape)), np.uint8)
    return jax.device_put(Arrays(images, rng.integers(0, 10, size, np.int32)))


def compile_steps(batch_size: int, dtype: str) -> tuple[TakeSteps, jax.stages.Compiled]:
    """A function that takes training steps, and their compiled program."""
    config, train_state = _initialize(dtype)
    data = _data(64 * batch_size)
    order, key = epoch_order(jax.random.key(0), 0, len(data.labels)), jax.random.key(1)
    hyperparameters = step.Hyperparameters.of(config, np.full(64, 0.1, np.float32))
    program = step.train_steps.lower(
        train_state,
        data,
        order,
        jnp.int32(1),
        key,
        hyperparameters,
        batch_size=batch_size,
        preprocess=preprocess.for_training(config.data, INFO),
    ).compile()

    def take_steps(number: int) -> None:
        nonlocal train_state
        train_state = program(train_state, data, order, jnp.int32(number), key, hyperparameters)
        jax.block_until_ready(train_state)

    return take_steps, program


def training(batch_size: int, dtype: str) -> TakeSteps:
    """Training steps, with gathering, augmentation and normalisation."""
    return compile_steps(batch_size, dtype)[0]


def inference(batch_size: int, dtype: str) -> TakeSteps:
    """Inference on a prepared batch."""
    _, train_state = _initialize(dtype)
    images = jax.random.normal(jax.random.key(0), (batch_size, *INFO.image_shape))
    infer = jax.jit(lambda state, images: state.apply(state.params, images, train=False)[0])

    def take_steps(number: int) -> None:
        for _ in range(number):
            logits = infer(train_state, images)
        jax.block_until_ready(logits)

    return take_steps


def inputs(batch_size: int, augmented: bool) -> TakeSteps:
    """The input of a training step: gathering, augmentation (optional) and normalisation."""
    data = _data(64 * batch_size)
    for_training = preprocess.for_training(Config().data, INFO)
    for_evaluation = preprocess.for_evaluation(INFO)

    @jax.jit
    def run(number: jax.Array, data: Arrays, order: jax.Array) -> jax.Array:
        def body(index: jax.Array, _: jax.Array) -> jax.Array:
            chosen = lax.dynamic_slice(order, (index % 64 * batch_size,), (batch_size,))
            if not augmented:
                return for_evaluation(data.images[chosen])
            batch = preprocess.Batch(data.images[chosen], data.labels[chosen])
            return for_training(jax.random.fold_in(jax.random.key(1), index), batch)[0]

        start = jnp.zeros((batch_size, *INFO.image_shape))
        return lax.fori_loop(0, number, body, start)

    order = epoch_order(jax.random.key(0), 0, len(data.labels))
    return lambda number: jax.block_until_ready(run(jnp.int32(number), data, order))


def product(dtype: str, size: int) -> TakeSteps:
    """A product of two random matrices of size x size: 2 size^3 operations."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(jnp.matmul)

    def take_steps(number: int) -> None:
        for _ in range(number):
            result = multiply(a, a)
        jax.block_until_ready(result)

    return take_steps
