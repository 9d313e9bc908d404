"""Networks that ship with the package: each folder here is an export, with sample pictures."""

from pathlib import Path

from googlenet_jax import fileio
from googlenet_jax.fileio import WorkdirPath
from googlenet_jax.storage.workdir import CONFIG

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the shipped networks."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def find(name: str | WorkdirPath) -> WorkdirPath:
    """The folder at that path; if there is none, the shipped network of that name."""
    path = fileio.parse(name) if isinstance(name, str) else name
    return FOLDER / path if str(path) in names() and not path.exists() else path
