"""Networks that ship with the package: each folder here is an export, with samples to try."""

from pathlib import Path

from googlenet_jax.workdir import CONFIG

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What they are called."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def find(name: str | Path) -> Path:
    """The folder of that path; where there is none, of the shipped network of that name."""
    return FOLDER / name if str(name) in names() and not Path(name).exists() else Path(name)
