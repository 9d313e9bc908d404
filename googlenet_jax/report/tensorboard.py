"""The same scalars for TensorBoard, written without TensorFlow."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self


class TensorBoard:
    """A folder of events that holds a run's history once, however often it was resumed.

    Use it as a context manager.

    Args:
      folder: its old events are replaced.
      history: of the epochs so far.
    """

    def __init__(self, folder: Path, history: list[dict[str, Any]]):
        # Here, since it imports PyTorch where that is installed.
        from tensorboardX import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder), flush_secs=10)
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
        self._writer.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the scalars of one epoch."""
        for name, value in entry.items():
            if name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, entry["epoch"])
