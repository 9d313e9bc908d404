"""Zip and tar archives of pictures, read in any order without being unpacked."""

import bisect
import errno
import io
import posixpath
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from googlenet_jax.data import decoding
from googlenet_jax.errors import DataError

MAX_HEADER = 2**20  # of a file in a tar: a long name, for example
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others have no limit on what comes out


class _Archive:
    """An `index.FolderStore`.

    Args:
      path: The archive.
      files: Name and size of each file, and what else it takes to read it.
    """

    def __init__(self, path: Path, files: Iterable[tuple[str, int, Any]]):
        self.path = path
        # Names may hold "./", "../" or a first slash. None of them is used as a path.
        self._files = {posixpath.normpath(f"/{name}").lstrip("/"): rest for name, *rest in files}
        self._names = sorted(self._files)

    def __reduce__(self) -> tuple[Any, ...]:  # a worker process opens the archive again
        return type(self), (self.path,)

    def folders(self, folder: str) -> set[str]:
        """See `index.FolderStore`."""
        below = (name[len(folder) :].partition("/") for name in self.files(folder))
        return {name for name, slash, _ in below if slash}

    def files(self, folder: str) -> list[str]:
        """See `index.FolderStore`."""
        first, last = (bisect.bisect_left(self._names, folder + end) for end in ("", "\U0010ffff"))
        return self._names[first:last]

    def size(self, name: str) -> int:
        """See `index.Store`."""
        return self._files[name][0]

    def _checked(self, name: str) -> list[Any]:
        """Size and the rest of a file that is not too large."""
        if self.size(name) > decoding.MAX_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {decoding.MAX_BYTES:,} bytes")
        return self._files[name]


class Zip(_Archive):
    """A zip archive."""

    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # of a damaged one
            raise DataError(f"{path}: is not a zip archive: {error}") from error
        # Not each.is_dir(), which has an IndexError for a damaged name.
        files = [each for each in self._zip.infolist() if not each.filename.endswith("/")]
        super().__init__(path, [(each.filename, each.file_size, each) for each in files])

    def read(self, name: str) -> bytes:
        """See `index.Store`."""
        _, info = self._checked(name)
        if info.compress_type not in METHODS:
            raise OSError(errno.EINVAL, "is compressed, but not by deflate")
        with self._zip.open(info) as file:  # safe in threads
            return file.read(info.file_size)  # without a size it would first inflate everything


class Tar(_Archive):
    """A tar archive without compression, which would allow no access in any order."""

    def __init__(self, path: Path):
        try:
            with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                files = [each for each in tar if each.isreg() and not each.sparse]
        except Exception as error:  # of a damaged one
            raise DataError(
                f"{path}: is not a zip or an uncompressed tar archive (gunzip a .tar.gz first): "
                f"{error}"
            ) from error
        super().__init__(path, [(each.name, each.size, each.offset_data) for each in files])

    def read(self, name: str) -> bytes:
        """See `index.Store`."""
        size, offset = self._checked(name)
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


class _Headers(io.FileIO):
    """A file of which no large part is read at once, whatever sizes its headers name."""

    def read(self, size: int | None = -1) -> bytes:
        """Reads up to `size` bytes."""
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header is larger than {MAX_HEADER:,} bytes")
        return super().read(size)
