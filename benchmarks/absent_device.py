"""Compiles a config's programs for devices that this machine does not have."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from benchmarks.targets import Target
from googlenet_jax import data, parallel
from googlenet_jax.config import Config
from googlenet_jax.data import Arrays, DatasetInfo, Split, preprocess
from googlenet_jax.data.cifar import FORMATS
from googlenet_jax.errors import ConfigError
from googlenet_jax.training import state, step
from train import flags

WHOLE = PartitionSpec()
CLASSES = 1000  # assumed for a streamed data set, whose number of classes only its files tell


def compile_program(
    target: Target, number: int, work: str, arguments: list[str]
) -> tuple[jax.stages.Compiled, float]:
    """The compiled program of one call, and the FLOPs of one step on each device.

    FLOPs are counted in JAX's CPU program before compilation, because a GPU's compiler does not
    report them.

    Args:
      target: The device to compile for.
      number: How many devices.
      work: "training" or "evaluation".
      arguments: Command line of `train.main`: --config and its overrides.

    Raises:
      UserError: The config is not valid, or does not fit the devices.
    """
    config, _ = flags.parse(arguments)
    try:
        devices = target.devices(number)
    except ValueError as error:
        raise ConfigError(f"--devices={number}: {error}") from error
    meshes = [
        Mesh(np.array(each), (parallel.AXIS,), axis_types=(AxisType.Auto,))
        for each in (devices, jax.devices("cpu")[:1])
    ]
    parallel.check_batch_size(config.train.batch_size, meshes[0])
    info, counts = describe_data(config)
    abstract = jax.eval_shape(lambda: state.initialize(jax.random.key(0), config, info))
    trace = trace_training if work == "training" else trace_evaluation
    traced, on_cpu = (trace(config, info, counts, placed(abstract, mesh), mesh) for mesh in meshes)
    costs = on_cpu.lower().cost_analysis()
    lowered = traced.lower(lowering_platforms=(target.platform,))
    # As a run compiles them: evaluation by `jax.jit`, without options.
    training = work == "training"
    program = parallel.compiled(lowered, target.platform) if training else lowered.compile()
    return program, costs["flops"] / number


def describe_data(config: Config) -> tuple[DatasetInfo, dict[Split, int]]:
    """The published description of a config's data set, and its images in each split.

    For a streamed data set the numbers are unknown and not needed.
    """
    name = config.data.name
    if name == "digits":  # ships with scikit-learn
        dataset = data.load(config.data, config.seed)
        return dataset.info, {split: split.num_examples(dataset) for split in dataset.splits}
    if name in FORMATS:
        counts = dict(FORMATS[name].counts)
        train = counts[Split.TRAIN] - config.data.valid_examples
        counts[Split.TRAIN] = min(train, config.data.max_train_examples or train)
        return data.describe(config.data), counts
    side, names = config.data.crop_size, tuple(map(str, range(CLASSES)))
    return DatasetInfo(name, names, (side, side, 3), (0.5,) * 3, (0.25,) * 3), {}


def placed(tree: PyTree, mesh: Mesh, spec: PartitionSpec = WHOLE) -> PyTree:
    """The shapes with a sharding; replicated on all devices by default."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def trace_training(
    config: Config, info: DatasetInfo, counts: dict[Split, int], abstract: Any, mesh: Mesh
) -> Any:
    """Traces the training steps on a data set in memory, or one step on a streamed batch."""
    batch, examples = config.train.batch_size, counts.get(Split.TRAIN)
    number, index = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((), np.int32)
    rates = jax.ShapeDtypeStruct((max(1, (examples or batch) // batch),), np.float32)
    weights = jax.ShapeDtypeStruct((info.num_classes,), np.float32)
    numbers = [number] * (len(step.Hyperparameters._fields) - 2)
    hyperparameters = step.Hyperparameters(
        rates, *numbers, class_weights=weights if config.train.class_weights else None
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    for_training = preprocess.for_training(config.data, info)
    if examples is None:
        images, labels = placed(arrays(batch, info), mesh, PartitionSpec(parallel.AXIS))
        rest = placed((key, hyperparameters), mesh)
        return step.train_on_batch.trace(
            abstract, images, labels, *rest, preprocess=for_training, mesh=mesh
        )
    images = Arrays(*arrays(examples, info, as_rows=True))
    order = jax.ShapeDtypeStruct((examples,), np.int32)
    rest = placed((images, order, index, key, hyperparameters), mesh)
    return step.train_steps.trace(
        abstract, *rest, batch_size=batch, preprocess=for_training, mesh=mesh
    )


def trace_evaluation(
    config: Config, info: DatasetInfo, counts: dict[Split, int], abstract: Any, mesh: Mesh
) -> Any:
    """Traces the evaluation of a test set in memory, or of one streamed batch."""
    examples, for_evaluation = counts.get(Split.TEST), preprocess.for_evaluation(info)
    batch = parallel.divisible(config.eval.batch_size, mesh)
    if examples is None:
        mask = jax.ShapeDtypeStruct((batch,), jnp.bool)
        inputs = placed((*arrays(batch, info), mask), mesh, PartitionSpec(parallel.AXIS))
        return step.evaluate_on_batch.trace(abstract, *inputs, preprocess=for_evaluation, mesh=mesh)
    images = placed(Arrays(*arrays(examples, info, as_rows=True)), mesh)
    return step.evaluate.trace(
        abstract, images, batch_size=batch, preprocess=for_evaluation, mesh=mesh
    )


def arrays(number: int, info: DatasetInfo, as_rows: bool = False) -> tuple[Any, Any]:
    """The shapes of `number` images and labels."""
    shape = (math.prod(info.image_shape),) if as_rows else info.image_shape
    images = jax.ShapeDtypeStruct((number, *shape), np.uint8)
    return images, jax.ShapeDtypeStruct((number,), np.int32)
