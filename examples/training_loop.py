"""A training loop of your own on the library's pieces: data, network, step, checkpoint.

    python examples/training_loop.py runs/my-loop

trains a quarter-width GoogLeNet on scikit-learn's digits and saves it after every epoch. The same
command continues from the newest checkpoint. `train.main` takes the same steps, and adds signals,
progress, reports and several devices; see `train/loop.py`.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from configs import digits
from googlenet_jax import data
from googlenet_jax.config import Config
from googlenet_jax.data import Split, preprocess
from googlenet_jax.data.preprocess import Batch
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.training import state, step
from googlenet_jax.training.metrics import Metrics
from googlenet_jax.training.plan import Plan
from googlenet_jax.training.state import Keys, TrainState


def train(config: Config, folder: Path) -> TrainState:
    """Trains as a config says; keeps checkpoints in a folder, and continues from the newest."""
    dataset = data.load(config.data, config.seed)
    training, test = dataset.splits[Split.TRAIN], jax.device_put(dataset.splits[Split.TEST])
    plan, keys, size = Plan.of(config, len(training)), Keys.of(config.seed), config.train.batch_size
    prepare = preprocess.for_training(config.data, dataset.info)
    normalize = preprocess.for_evaluation(dataset.info)
    rates = np.asarray(plan.schedule(np.arange(plan.total_steps)))
    hyperparameters = step.Hyperparameters.of(config, rates)

    @jax.jit
    def take_step(train_state: TrainState, pixels: jax.Array, labels: jax.Array) -> TrainState:
        key = jax.random.fold_in(keys.step, train_state.step)
        augment_key, dropout_key = jax.random.split(key)
        images, targets = prepare(augment_key, Batch(pixels, labels))
        return step.train_step(train_state, images, labels, dropout_key, hyperparameters, targets)

    train_state = state.initialize(keys.init, config, dataset.info)
    record = Record([], dataset.info.to_dict(), dataset.provenance)
    with Checkpoints(folder.absolute()) as checkpoints:
        if checkpoints.steps:
            train_state, record, _ = checkpoints.restore_newest(train_state)
        for epoch in range(int(train_state.step) // plan.steps_per_epoch, plan.epochs):
            train_state = train_state.replace(metrics=Metrics.empty(dataset.info.num_classes))
            order = np.asarray(data.epoch_order(keys.order, epoch, len(training)))
            for batch in order[: plan.steps_per_epoch * size].reshape(-1, size):
                train_state = take_step(train_state, training.images[batch], training.labels[batch])
            evaluation = step.evaluate(train_state, test, batch_size=250, preprocess=normalize)
            seen, found = train_state.metrics.compute(), evaluation.compute()
            print(f"epoch {epoch + 1}: train loss {seen['loss']:.4f}, test {found['accuracy']:.4f}")
            checkpoints.save(train_state, record, found)
    return train_state


if __name__ == "__main__":
    train(digits.get_config(), Path(sys.argv[1]))
