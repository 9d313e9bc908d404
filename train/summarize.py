"""Prints a network's layers and their costs: python -m train.summarize --config cifar10.

Takes the settings of `train.main`. Needs neither data nor weights, because it computes only shapes.
`googlenet_jax.models.layer_table` describes what is counted.
"""

from typing import TYPE_CHECKING

from train import console, flags

if TYPE_CHECKING:
    from googlenet_jax.config import Config

FORMATS = ("text", "markdown", "json")
BAR = 30  # characters of the highest rate


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = console.Parser(
        "train.summarize",
        usage="%(prog)s --config CONFIG [--config.FIELD=VALUE ...] "
        f"[--format {'|'.join(FORMATS)} | --schedule]",
        description="Prints each layer's shapes, parameters, memory, MACs and FLOPs per image.",
        epilog=f"For configs and settings see {console.command('train.main')} --help.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--format", default="text", choices=FORMATS, help="default: text")
    schedule_help = "instead, print the learning rates of a run; reads the data, to count them"
    form.add_argument("--schedule", action="store_true", help=schedule_help)
    arguments, settings = parser.parse_known_args(argv)
    config, _ = flags.parse(settings)
    print(schedule(config) if arguments.schedule else layers(config, arguments.format))


def layers(config: "Config", form: str) -> str:
    """The table of the layers in one of the `FORMATS`."""
    from googlenet_jax import data
    from googlenet_jax.models import layer_table

    info = data.describe(config.data)
    rows = layer_table.layer_table(config.model, info.image_shape, info.num_classes)
    render = {
        "text": layer_table.to_text,
        "markdown": layer_table.to_markdown,
        "json": layer_table.to_json,
    }
    return render[form](rows)


def schedule(config: "Config") -> str:
    """The learning rates of a run, a line for each epoch or for epochs of one constant rate.

    Raises:
      UserError: The data cannot be loaded, or do not fill one batch.
    """
    import numpy as np

    from googlenet_jax import data
    from googlenet_jax.training.plan import Plan

    dataset = data.load(config.data, config.seed)
    plan = Plan.of(config, data.Split.TRAIN.num_examples(dataset))
    steps = np.arange(plan.total_steps)
    rates = np.broadcast_to(plan.schedule(steps), steps.shape)
    parts: list[tuple[int, int]] = []  # the first epoch of each line, and the first after it
    for epoch in range(plan.epochs):
        start = plan.epoch_end(parts[-1][0] - 1) if parts else 0
        if parts and np.ptp(rates[start : plan.epoch_end(epoch)]) == 0:
            parts[-1] = (parts[-1][0], epoch + 1)
        else:
            parts.append((epoch, epoch + 1))
    lines = [
        f"{plan.total_steps:,} steps, {plan.steps_per_epoch:,} an epoch",
        f"{'epochs':>11}  {'steps':>17}  learning rate",
    ]
    for first, end in parts:
        start, stop = plan.epoch_end(first - 1), plan.epoch_end(end - 1)
        part = rates[start:stop]
        epochs = f"{first + 1}" if end == first + 1 else f"{first + 1} to {end}"
        ends = [f"{rate:.4g}" for rate in (part[0], part[-1])]
        bar = "#" * round(BAR * part.max() / rates.max())
        lines.append(
            f"{epochs:>11}  {f'{start + 1:,} to {stop:,}':>17}  "
            f"{' to '.join(dict.fromkeys(ends)):22}  {bar}".rstrip()
        )
    return "\n".join(lines)


if __name__ == "__main__":
    console.start(main)
