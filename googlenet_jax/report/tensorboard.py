"""The same scalars for TensorBoard, written without TensorFlow."""

import contextlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from googlenet_jax import store
from googlenet_jax.store import WorkdirPath


class TensorBoard:
    """A folder of events that holds a run's history once, however often it was resumed.

    Use it as a context manager.

    Args:
      folder: its old events are replaced.
      history: of the epochs so far.
    """

    def __init__(self, folder: WorkdirPath, history: list[dict[str, Any]]):
        # Here, since it imports PyTorch where that is installed.
        from tensorboardX import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._folder = folder
        self._exit = contextlib.ExitStack()
        local = str(folder)
        if not isinstance(folder, Path):  # a store appends nothing: each time the whole file goes
            local = self._exit.enter_context(tempfile.TemporaryDirectory())
        self._writer = SummaryWriter(local, flush_secs=10)
        self._exit.callback(self._writer.close)
        for entry in history:
            self._add(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the scalars of one epoch.

        Raises:
          TrainingError: the folder is in a store that does not take them.
        """
        self._add(entry)
        if not isinstance(self._folder, Path):
            self._writer.flush()
            for file in Path(self._writer.logdir).iterdir():
                store.write(self._folder / file.name, file.read_bytes())

    def _add(self, entry: dict[str, Any]) -> None:
        for name, value in entry.items():
            if name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, entry["epoch"])
