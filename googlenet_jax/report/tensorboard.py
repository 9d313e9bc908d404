"""The scalars of metrics.jsonl as TensorBoard events, written without TensorFlow."""

import tempfile
from pathlib import Path
from typing import Any, Self

from googlenet_jax import fileio
from googlenet_jax.fileio import WorkdirPath


class TensorBoard:
    """Writes a run's scalars into a folder, each once, however often the run is resumed.

    Use it as a context manager.

    Args:
      folder: Its old event files are deleted.
      history: The epochs so far; they are written at once.
    """

    def __init__(self, folder: WorkdirPath, history: list[dict[str, Any]]):
        for old in folder.glob("events.out.tfevents.*"):
            if not isinstance(old, Path) or not old.is_dir():
                old.unlink()
        self._folder = folder
        self._writer = _open(folder) if isinstance(folder, Path) else None
        for entry in history:
            self.write(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer:
            self._writer.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the scalars of one epoch.

        Raises:
          TrainingError: The folder is in an object store and cannot be written.
        """
        if isinstance(self._folder, Path):
            _add(self._writer, entry)
            return
        # An object cannot be appended to, so each epoch gets its own file.
        with tempfile.TemporaryDirectory() as folder:
            writer = _open(Path(folder), f".{entry['epoch']}")
            _add(writer, entry)
            writer.close()
            for file in Path(folder).iterdir():
                fileio.write(self._folder / file.name, file.read_bytes())


def _open(folder: Path, suffix: str = "") -> Any:
    # Imported here because it imports PyTorch if that is installed.
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), flush_secs=10, filename_suffix=suffix)


def _add(writer: Any, entry: dict[str, Any]) -> None:
    for name, value in entry.items():
        if name not in ("epoch", "step"):
            writer.add_scalar(name, value, entry["epoch"])
