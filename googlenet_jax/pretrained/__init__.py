"""Networks that ship with the package: each folder here is an export, with samples to try."""

from pathlib import Path

from googlenet_jax import store
from googlenet_jax.store import WorkdirPath
from googlenet_jax.workdir import CONFIG

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What they are called."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def find(name: str | WorkdirPath) -> WorkdirPath:
    """The folder of that path; where there is none, of the shipped network of that name."""
    path = store.parse(name) if isinstance(name, str) else name
    return FOLDER / path if str(path) in names() and not path.exists() else path
