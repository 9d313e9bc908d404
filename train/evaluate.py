"""Evaluates a checkpoint of a run: python -m train.evaluate --workdir runs/digits --split test."""

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from googlenet_jax import fileio
from googlenet_jax.errors import DataError, UserError
from googlenet_jax.fileio import WorkdirPath
from train import allocator, console

if TYPE_CHECKING:
    from googlenet_jax.data import DatasetInfo


def main(argv: list[str]) -> None:
    """Prints loss and accuracies, and writes them to a JSON file in the working directory."""
    parser = console.Parser(
        "train.evaluate",
        description="Evaluates a checkpoint of a run on every image of a split.",
    )
    parser.add_checkpoint()
    splits = ("train", "valid", "test")
    parser.add_argument("--split", default="test", choices=splits, help="default: test")
    parser.add_data_path()
    parser.add_tta()
    arguments = parser.parse_args(argv)

    result = evaluate(
        arguments.workdir,
        arguments.checkpoint,
        arguments.split,
        arguments.data_path,
        arguments.tta,
    )
    # Results on other data get another file name, so that they do not replace the run's own.
    other = f"_{result['data']['sha256'][:12]}" if result["other_data"] else ""
    tta = f"_{arguments.tta}" if arguments.tta != "none" else ""
    name = f"evaluation_{arguments.split}_{result['step']}{tta}{other}.json"
    console.say(
        f"{arguments.split} split, {result['examples']:,} images, checkpoint of step "
        f"{result['step']} (epoch {result['epoch']}): loss {result['loss']:.4f}, "
        f"top-1 {result['accuracy']:.4f}, top-5 {result['top5_accuracy']:.4f}"
    )
    console.say(f"  weights: {result['weights']}; test-time augmentation: {arguments.tta}")
    if other:
        console.say(f"  on other data than the run used: {result['data']['source']}")
    for label, accuracy in result["per_class_accuracy"].items():
        console.say(f"  {label:12} {accuracy:.4f}")
    try:
        fileio.write_json(arguments.workdir / name, result)
    except OSError as error:
        raise UserError(f"{arguments.workdir / name}: cannot be written: {error}") from error
    console.say(f"written to {arguments.workdir / name}")


def evaluate(
    workdir: WorkdirPath, checkpoint: str, split_name: str, data_path: str, tta: str = "none"
) -> dict[str, Any]:
    """Returns the metrics of a checkpoint on a split, with the provenance of both.

    Raises:
      UserError: The run, checkpoint, split or data cannot be used.
    """
    # Imported here so that a mistake on the command line is reported before JAX is loaded.
    from googlenet_jax import data
    from googlenet_jax.report.runs import identity
    from googlenet_jax.storage.loading import load_data, load_model
    from googlenet_jax.storage.workdir import read_config
    from googlenet_jax.training import feeds

    allocator.keep_memory()
    config = read_config(workdir)
    model = load_model(workdir, checkpoint)
    dataset = load_data(config, data_path)
    source, is_imported = dataset.provenance["source"], "imported" in model.record.provenance
    # A PyTorch state dict has no class names, so imported networks may have numbers instead.
    are_numbers = model.info.class_names == tuple(map(str, range(model.info.num_classes)))
    check_fits(source, dataset.info, model.info, with_names=not (is_imported and are_numbers))
    split = data.Split(split_name)
    if split not in dataset.splits:
        raise UserError(f"--split={split}: the data has only {', '.join(dataset.splits)}")
    # Normalise and crop as in training. The other splits are not copied to the device.
    only: Any = {split: dataset.splits[split]}  # for either kind of data set
    dataset = dataclasses.replace(dataset, info=model.info, splits=only)
    with contextlib.closing(feeds.create(dataset, config)) as feed:
        metrics = feed.evaluate(model.state, split, tta).compute()
    per_class = dict(zip(model.info.class_names, metrics.pop("per_class_accuracy"), strict=True))
    return {
        "checkpoint": checkpoint,
        "step": int(model.state.step),
        "epoch": len(model.record.history),
        "split": split_name,
        "weights": model.weights,
        "tta": tta,
        **metrics,
        "per_class_accuracy": per_class,
        "data": dataset.provenance,
        "other_data": not is_imported
        and identity(dataset.provenance) != identity(model.record.provenance),
    }


def check_fits(
    source: str, found: "DatasetInfo", expected: "DatasetInfo", with_names: bool
) -> None:
    """Checks that image shape and classes of a data set are those of the network.

    Args:
      source: Where the data comes from, for error messages.
      found: Description of the data set.
      expected: Description of the data set that the network was trained on.
      with_names: Whether to compare class names; False if the network's classes have none.

    Raises:
      DataError: They differ.
    """
    if found.image_shape != expected.image_shape:
        raise DataError(
            f"{source}: images of shape {found.image_shape}; the network takes "
            f"{expected.image_shape}"
        )
    if found.num_classes != expected.num_classes:
        raise DataError(
            f"{source}: {found.num_classes} classes; the network has {expected.num_classes}"
        )
    for label, (one, other) in enumerate(zip(found.class_names, expected.class_names, strict=True)):
        if with_names and one != other:
            raise DataError(f"{source}: class {label} is {one!r}; the network has {other!r}")


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
