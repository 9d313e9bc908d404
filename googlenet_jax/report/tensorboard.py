"""The scalars of metrics.jsonl as TensorBoard events, written without TensorFlow."""

import tempfile
from pathlib import Path
from typing import Any, Self

from googlenet_jax import fileio
from googlenet_jax.data import Split
from googlenet_jax.fileio import WorkdirPath


class TensorBoard:
    """Writes a run's scalars into a folder, each once, however often the run is resumed.

    `train_loss` becomes `loss` in the subfolder `train`, and so for each split: TensorBoard draws
    scalars of one name from several folders into one chart. Use it as a context manager.

    Args:
      folder: Old event files in it and in its subfolders are deleted.
      history: The epochs so far; they are written at once.
    """

    def __init__(self, folder: WorkdirPath, history: list[dict[str, Any]]):
        for place in (folder, *(folder / split for split in Split)):
            for old in place.glob("events.out.tfevents.*"):
                if not isinstance(old, Path) or not old.is_dir():
                    old.unlink()
        self._folder = folder
        self._writers: dict[Path, Any] = {}
        for entry in history:
            self.write(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the scalars of one epoch.

        Raises:
          TrainingError: The folder is in an object store and cannot be written.
        """
        if isinstance(self._folder, Path):
            for name, value in entry.items():
                if name not in ("epoch", "step"):
                    split, _, metric = name.partition("_")
                    if split in set(Split):
                        self._add(self._folder / split, metric, value, entry["epoch"])
                    else:
                        self._add(self._folder, name, value, entry["epoch"])
            return
        # An object cannot be appended to, so each epoch gets its own files.
        with tempfile.TemporaryDirectory() as folder:
            with TensorBoard(Path(folder), [entry]):
                pass
            for file in Path(folder).rglob("events.out.tfevents.*"):
                name = f"{file.relative_to(folder)}.{entry['epoch']}"
                fileio.write(self._folder / name, file.read_bytes())

    def _add(self, folder: Path, name: str, value: float, epoch: int) -> None:
        # Imported here because it imports PyTorch if that is installed.
        from tensorboardX import SummaryWriter

        if folder not in self._writers:
            self._writers[folder] = SummaryWriter(str(folder), flush_secs=10)
        self._writers[folder].add_scalar(name, value, epoch)
