"""The pictures that a command line names, and the network that they are for."""

import argparse
import glob
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tqdm import tqdm

from googlenet_jax import fileio
from googlenet_jax.errors import DataError, UserError
from googlenet_jax.storage import pretrained
from train import allocator, console

if TYPE_CHECKING:
    import numpy as np

    from googlenet_jax.storage.model import Model

Source: TypeAlias = tuple[str, str | bytes | DataError]
"""A picture's name, and its path, its content, or the reason why it cannot be read."""


class Parser(console.Parser):
    """A parser for programs that apply a network to pictures."""

    def __init__(self, module: str, description: str):
        shipped = ", ".join(
            f"{name} ({pretrained.FOLDER / name / 'samples'})" for name in pretrained.names()
        )
        epilog = f"Networks that ship with this package, with sample pictures: {shipped}"
        super().__init__(module, description=description, epilog=epilog)
        network = self.add_mutually_exclusive_group(required=True)
        network.add_argument("--workdir", type=fileio.parse, help="folder of a run")
        network.add_argument("--model", help="folder of an export, or name of a shipped network")
        self.add_argument("--checkpoint", help="of the run: best (default), latest or a step")
        list_help = "a file with more of them, one on each line; - for standard input"
        self.add_argument("--files-from", metavar="FILE", help=list_help)
        images_help = (
            "a file, a folder with its subfolders, a pattern such as 'scans/**/*.png', or - for a "
            "picture on standard input"
        )
        self.add_argument("images", nargs="*", metavar="IMAGE", help=images_help)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The arguments, checked as far as that needs no files."""
        parsed = self.parse_args(argv)
        if not parsed.images and parsed.files_from is None:
            self.error("the following arguments are required: IMAGE, or --files-from FILE")
        if parsed.files_from == "-" and "-" in parsed.images:
            self.error("--files-from=-: standard input cannot be both a list and a picture")
        if parsed.model is not None and parsed.checkpoint is not None:
            raise UserError("--checkpoint: an export holds one checkpoint; use it with --workdir")
        return parsed


def load(arguments: argparse.Namespace) -> "Model":
    """The network that the arguments name.

    Raises:
      UserError: See `googlenet_jax.load`.
    """
    from googlenet_jax.config import TrainConfig
    from googlenet_jax.storage.loading import load_export, load_run

    allocator.keep_memory()
    if arguments.workdir:
        model = load_run(arguments.workdir, arguments.checkpoint or "best")
    else:
        model = load_export(pretrained.find(arguments.model))
    if model.weights != TrainConfig().weights:
        print(f"weights: {model.weights}", file=sys.stderr)
    return model


def find(arguments: argparse.Namespace) -> list[Source]:
    """The pictures that the arguments name, in order; a folder's files sorted by path.

    Only their names are kept in memory.

    Raises:
      UserError: The list of `--files-from` cannot be read.
    """
    found: list[Source] = []
    for argument in arguments.images:
        found += [("-", _read_stdin())] if argument == "-" else _expand(argument)
    if arguments.files_from is not None:
        for name in _read_list(arguments.files_from):
            found += _expand(name)
    return found


def _expand(argument: str) -> Iterator[Source]:
    if os.path.isdir(argument):
        yield from _walk(argument)
    elif os.path.lexists(argument):  # whatever letters its name has
        yield argument, argument
    else:
        matches = sorted(glob.iglob(argument, recursive=True))
        # A pattern with ** matches folders as well as the files in them.
        files = [path for path in matches if not os.path.isdir(path)]
        for path in files or [argument]:
            yield path, path


def _walk(folder: str) -> Iterator[Source]:
    problems: list[OSError] = []
    walk = list(os.walk(folder, onerror=problems.append))
    paths = sorted(Path(root, name) for root, _, names in walk for name in names)
    files = [str(path) for path in paths if os.path.isfile(path)]
    if not files and not problems:
        yield folder, DataError("holds no files")
    for name in files:
        yield name, name
    for error in problems:
        yield str(error.filename), DataError(f"cannot be read: {error.strerror}")


def _read_list(file: str) -> list[str]:
    from googlenet_jax.data.decoding import MAX_BYTES

    try:
        content = _read_stdin() if file == "-" else fileio.read(Path(file), MAX_BYTES)
        if isinstance(content, DataError):
            raise content
        if b"\0" in content:
            raise DataError("holds a NUL; it must have one name on each line")
        names = [os.fsdecode(line) for line in content.splitlines() if line]
        if not names:
            raise DataError("names no files")
    except OSError as error:
        raise UserError(f"--files-from={file}: cannot be read: {error.strerror}") from error
    except DataError as error:
        raise UserError(f"--files-from={file}: {error}") from error
    return names


def _read_stdin() -> bytes | DataError:
    from googlenet_jax.data.decoding import MAX_BYTES

    if sys.stdin is None:
        return DataError("standard input is closed")
    try:
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        return DataError(f"cannot be read: {error.strerror}")
    if len(content) > MAX_BYTES:
        return DataError(f"is too large: more than {MAX_BYTES:,} bytes")
    return content


class Results:
    """What a function of a batch of images finds for each picture, in the order of the pictures.

    Iterating complains about each picture that cannot be read, and yields the name, the pixels and
    the result of each other one. Meanwhile a terminal shows the progress on stderr.

    Args:
      model: The network.
      function: See `Model.map`.
      sources: The pictures.
      show_progress: Whether a terminal has room for it.

    Attributes:
      failed: How many pictures could not be read.
    """

    def __init__(
        self,
        model: "Model",
        function: Callable[[Any], Any],
        sources: list[Source],
        show_progress: bool = True,
    ):
        self.failed = 0
        self._names = [name for name, _ in sources]
        self._found = model.map(function, [image for _, image in sources])
        self._has_bar = show_progress and sys.stderr.isatty()

    def __iter__(self) -> Iterator[tuple[str, "np.ndarray", Any]]:
        bar = tqdm(
            self._found,
            total=len(self._names),
            unit=" images",
            leave=False,
            dynamic_ncols=True,
            disable=not self._has_bar,
        )
        for name, each in zip(self._names, bar, strict=True):
            if isinstance(each, DataError):
                self.failed += 1
                with tqdm.external_write_mode(sys.stderr):  # takes the bar away meanwhile
                    console.complain(f"{name}: {each}")
            else:
                yield name, *each

    def end(self) -> None:
        """Ends the program with status 2 if a picture could not be read."""
        if self.failed:
            sys.exit(2)
