"""The same scalars for TensorBoard, written without TensorFlow."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from googlenet_jax import fileio
from googlenet_jax.fileio import WorkdirPath


class TensorBoard:
    """A folder of events that holds a run's history once, however often it was resumed.

    Use it as a context manager.

    Args:
      folder: its old events are replaced.
      history: of the epochs so far.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer:
            self._writer.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the scalars of one epoch.

        Raises:
          TrainingError: the folder is in a store that does not take them.
        """
        if isinstance(self._folder, Path):
            _add(self._writer, entry)
            return
        # Nothing can be appended there, so each epoch has a file of its own.
        with tempfile.TemporaryDirectory() as folder:
            writer = _open(Path(folder), f".{entry['epoch']}")
            _add(writer, entry)
            writer.close()
            for file in Path(folder).iterdir():
                fileio.write(self._folder / file.name, file.read_bytes())


def _open(folder: Path, suffix: str = "") -> Any:
    # Here, since it imports PyTorch where that is installed.
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), flush_secs=10, filename_suffix=suffix)


def _add(writer: Any, entry: dict[str, Any]) -> None:
    for name, value in entry.items():
        if name not in ("epoch", "step"):
            writer.add_scalar(name, value, entry["epoch"])
