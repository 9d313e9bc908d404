"""Prints a network's layers and their costs: python -m train.summarize --config cifar10.

Takes the settings of `train.main`. It needs neither the data set nor weights, and computes
nothing but shapes. What is counted: `googlenet_jax.report.layer_table`.
"""

from typing import TYPE_CHECKING

from googlenet_jax.config import DataConfig
from googlenet_jax.errors import UserError
from train import console, flags
from train.evaluate import Parser

if TYPE_CHECKING:
    from googlenet_jax.data import DatasetInfo

FORMATS = ("text", "markdown", "json")


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = Parser(
        "train.summarize",
        usage="python -m train.summarize --config CONFIG [--config.FIELD=VALUE ...] "
        f"[--format {'|'.join(FORMATS)}]",
        description="Prints each layer's shapes, parameters, memory, MACs and FLOPs per image.",
        epilog="Configs and settings are those of train.main; see python -m train.main --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--format", default="text", choices=FORMATS, help="default: text")
    arguments, settings = parser.parse_known_args(argv)
    config, _ = flags.parse(settings)
    info = describe(config.data)

    from googlenet_jax.report import layer_table

    rows = layer_table.layer_table(config.model, info.image_shape, info.num_classes)
    render = {
        "text": layer_table.to_text,
        "markdown": layer_table.to_markdown,
        "json": layer_table.to_json,
    }
    print(render[arguments.format](rows))


def describe(config: DataConfig) -> "DatasetInfo":
    """What a network must know of a data set, without reading it.

    Raises:
      UserError: that stands in the data set alone, or `data.downscale` does not fit its images.
    """
    if config.name.startswith("tfds:"):
        raise UserError(
            f"data.name={config.name!r}: its images and classes are known only once it is read; "
            "for the same network on others, pass --config.data.name=cifar10"
        )
    # Imported here so that a mistake on the command line is told before JAX has loaded.
    from googlenet_jax.data import Dataset, cifar, digits

    info = digits.INFO if config.name == "digits" else cifar.FORMATS[config.name].info
    return Dataset(info, splits={}, provenance={}).downscaled(config.downscale).info


if __name__ == "__main__":
    console.run(main)
