"""A folder of pictures on a disk."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from googlenet_jax import fileio
from googlenet_jax.data import decoding


@dataclasses.dataclass(frozen=True)
class Folder:
    """An `index.FolderStore`; follows links, but not in circles."""

    path: Path

    def folders(self, folder: str) -> list[str]:
        """See `index.FolderStore`."""
        return [entry.name for entry in os.scandir(self.path / folder) if entry.is_dir()]

    def files(self, folder: str) -> Iterator[str]:
        """See `index.FolderStore`."""
        return self._files(folder, set())

    def _files(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        status = (self.path / folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        for entry in sorted(os.scandir(self.path / folder), key=lambda entry: entry.name):
            if entry.is_dir():
                yield from self._files(f"{folder}{entry.name}/", seen)
            else:
                yield f"{folder}{entry.name}"

    def size(self, name: str) -> int:
        """See `index.Store`."""
        return (self.path / name).stat().st_size

    def read(self, name: str) -> bytes:
        """See `index.Store`."""
        return fileio.read(self.path / name, decoding.MAX_BYTES)
