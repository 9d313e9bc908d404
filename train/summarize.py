"""Prints a network's layers and their costs: python -m train.summarize --config cifar10.

Takes the settings of `train.main`. Needs neither data nor weights, because it computes only shapes.
`googlenet_jax.models.layer_table` describes what is counted.
"""

from train import console, flags

FORMATS = ("text", "markdown", "json")


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = console.Parser(
        "train.summarize",
        usage=f"%(prog)s --config CONFIG [--config.FIELD=VALUE ...] [--format {'|'.join(FORMATS)}]",
        description="Prints each layer's shapes, parameters, memory, MACs and FLOPs per image.",
        epilog=f"For configs and settings see {console.command('train.main')} --help.",
    )
    parser.add_argument("--format", default="text", choices=FORMATS, help="default: text")
    arguments, settings = parser.parse_known_args(argv)
    config, _ = flags.parse(settings)

    from googlenet_jax import data
    from googlenet_jax.models import layer_table

    info = data.describe(config.data)
    rows = layer_table.layer_table(config.model, info.image_shape, info.num_classes)
    render = {
        "text": layer_table.to_text,
        "markdown": layer_table.to_markdown,
        "json": layer_table.to_json,
    }
    print(render[arguments.format](rows))


if __name__ == "__main__":
    console.start(main)
