"""Takes training steps on all devices and writes their results to OUT.npz and OUT.json.

usage: parallel_run.py OUT NETWORK [the cluster flags of train.main]
"""

import hashlib
import json
import re
import sys

import jax
import numpy as np
import recipe

from configs import digits
from googlenet_jax import data, parallel
from googlenet_jax.data import Split, augment, preprocess
from googlenet_jax.data.dataset import balanced_weights
from googlenet_jax.training import optimizer, state, step
from train.cluster import Place, joined

BATCH_SIZE = 64


def collectives(program: str) -> list[tuple[str, list[int]]]:
    """Returns a compiled program's collective operations and the sizes of their results."""
    found = []
    for shape, kind in re.findall(
        r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-[a-z]+)(?:-start)?\(",
        program,
    ):
        shapes = re.findall(r"[a-z]+\d+\[([\d,]*)\]", shape)
        found.append((kind, [int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes]))
    return found


def main(out: str, network: str) -> None:
    mesh = parallel.create_mesh()
    config = digits.get_config()
    if network == "googlenet":
        config.model.width_multiplier = 1 / 16
    else:
        config.model.name, config.model.depth = "preact_resnet", 11
    if network == "every ingredient":
        recipe.add_ingredients(config)
    # With larger ones a network of so few channels makes much of the order of sums: at 1e-4 the
    # loss after twenty steps differed by a thousandth.
    config.optimizer.learning_rate = 1e-5
    dataset = data.load(config.data, 0)
    info, labels = dataset.info, dataset.splits[Split.TRAIN].labels
    class_weights = balanced_weights(labels, info.num_classes)
    example_weights = class_weights[labels] if config.data.sampling == "balanced" else None
    dataset = dataset.on_devices(mesh)
    train = dataset.splits[Split.TRAIN]
    keys = parallel.replicate(tuple(jax.random.split(jax.random.key(0), 3)), mesh)
    train_state = state.initialize(keys[0], config, info)
    schedule = optimizer.create_schedule(config.optimizer, 64, 640)
    rates = np.asarray(schedule(np.arange(64)))
    hyperparameters = step.Hyperparameters.of(config, rates, class_weights)
    order = data.epoch_order(keys[1], 0, len(train.labels), example_weights)
    for_training = preprocess.for_training(config.data, info)

    @jax.jit
    def batch(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = parallel.split(jax.lax.dynamic_slice(order, (index,), (BATCH_SIZE,)), mesh)
        mirrored = augment.alternating(keys[2], chosen, np.int32(0))
        stored = preprocess.Batch(train.images[chosen], train.labels[chosen], mirrored)
        images, targets = for_training(jax.random.fold_in(keys[2], index), stored)
        return parallel.whole((images, stored.labels if targets is None else targets), mesh)

    seen = hashlib.sha256()
    for start in (0, 3 * BATCH_SIZE):
        for array in batch(np.int32(start)):
            seen.update(np.asarray(array).tobytes())

    program = step.train_steps.lower(
        train_state,
        train,
        order,
        np.int32(1),
        keys[2],
        hyperparameters,
        batch_size=BATCH_SIZE,
        preprocess=for_training,
        mesh=mesh,
        parts=config.train.accumulate,
    ).compile()

    def frozen() -> list[np.ndarray]:
        """The leaves of the trunk, in the weights and in their average."""
        trees = (train_state.params, train_state.batch_stats, *(train_state.average or ()))
        trunk = [tree.get(name) for tree in trees for name in train_state.optimizer.trunk]
        return jax.tree.leaves(jax.device_get(trunk))

    before = frozen()
    found = {"batches": seen.hexdigest(), "collectives": collectives(program.as_text())}
    arrays = {}
    for name, number in (("one", 1), ("twenty", 19)):
        train_state = program(train_state, train, order, np.int32(number), keys[2], hyperparameters)
        found[name] = float(train_state.report.loss)
        # After one step the momentum is the gradient plus the weight decay.
        for kind in ("params", "opt_state", "batch_stats", "average"):
            leaves = map(np.asarray, jax.tree.leaves(getattr(train_state, kind)))
            arrays[f"{name} {kind}"] = np.concatenate(
                [np.zeros(0), *(leaf.ravel() for leaf in leaves)]
            )
    evaluated = step.evaluate(
        train_state.for_inference(),
        dataset.splits[Split.TEST],
        batch_size=50,
        preprocess=preprocess.for_evaluation(info),
        mesh=mesh,
    )
    found["evaluated"] = evaluated.compute()["examples"]
    leaves = jax.tree_util.tree_leaves_with_path(train_state.params)
    trained = [x for path, x in leaves if path[0].key not in train_state.optimizer.trunk]
    found["parameters"] = sum(leaf.size for leaf in trained)
    found["frozen"] = [*map(np.array_equal, before, frozen())]
    if parallel.is_first_process():
        np.savez(f"{out}.npz", **arrays)
        with open(f"{out}.json", "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    place, arguments = Place.parse(sys.argv[1:])
    with joined(place):
        main(*arguments)
