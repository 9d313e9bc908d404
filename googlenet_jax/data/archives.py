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
      files: What the archive knows about each of its files, by name.
    """

    def __init__(self, path: Path, files: Iterable[tuple[str, Any]]):
        self.path = path
        # Names may hold "./", "../" or a first slash. None of them is used as a path.
        self._members = {posixpath.normpath(f"/{n}").lstrip("/"): member for n, member in files}
        self._names = sorted(self._members)

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
        raise NotImplementedError

    def _check(self, name: str) -> None:
        if self.size(name) > decoding.MAX_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {decoding.MAX_BYTES:,} bytes")


class Zip(_Archive):
    """A zip archive."""

    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # of a damaged one
            raise DataError(f"{path}: is not a zip archive: {error}") from error
        files = [(info.filename, info) for info in self._zip.infolist() if not info.is_dir()]
        super().__init__(path, files)

    def size(self, name: str) -> int:
        """See `index.Store`."""
        return self._members[name].file_size

    def read(self, name: str) -> bytes:
        """See `index.Store`."""
        self._check(name)
        if self._members[name].compress_type not in METHODS:
            raise OSError(errno.EINVAL, "is compressed, but not by deflate")
        return self._zip.read(self._members[name])  # at most the size, and safe in threads


class Tar(_Archive):
    """A tar archive without compression, which would allow no access in any order."""

    def __init__(self, path: Path):
        try:
            with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                files = [(each.name, each) for each in tar if each.isreg() and not each.sparse]
        except Exception as error:  # of a damaged one
            raise DataError(
                f"{path}: is not a zip or an uncompressed tar archive (gunzip a .tar.gz first): "
                f"{error}"
            ) from error
        super().__init__(path, [(name, (each.offset_data, each.size)) for name, each in files])

    def size(self, name: str) -> int:
        """See `index.Store`."""
        return self._members[name][1]

    def read(self, name: str) -> bytes:
        """See `index.Store`."""
        self._check(name)
        offset, size = self._members[name]
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
