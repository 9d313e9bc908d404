"""Trains a network: python -m train.main --config configs/digits.py --workdir runs/digits."""

from train import STARTED, allocator, console


def main(argv: list[str]) -> None:
    """From flags to a trained network."""
    from train import cluster, flags  # here: what stands above is loaded twice, before and after

    if {"--help", "-h", "--helpfull"} & set(argv):
        print(flags.help_text(argv))
        return
    place, argv = cluster.Place.parse(argv)
    config, workdir = flags.parse(argv)

    console.outlive_terminal()
    # JAX is imported once the flags are known to be right: a mistake in them is told at once.
    from train.loop import train_and_evaluate

    with cluster.joined(place):
        train_and_evaluate(config, workdir, STARTED)


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
