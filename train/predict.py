"""Classifies pictures: python -m train.predict --workdir runs/digits photo.jpg scans/.

`googlenet_jax.data.decoding` converts a picture to the input of a network.
"""

import io
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from googlenet_jax import fileio
from googlenet_jax.config import TrainConfig
from googlenet_jax.errors import DataError, UserError
from googlenet_jax.storage import pretrained
from train import allocator, console

if TYPE_CHECKING:
    import numpy as np

    from googlenet_jax.storage.loading import Model

T = TypeVar("T")
Source = tuple[str, Path | bytes | DataError]
"""A picture's name, and its path, its content, or the reason why it cannot be read."""

BATCH_SIZE = 64
TOP_K = 5


def main(argv: list[str]) -> None:
    """Prints a line for each picture; exits with status 2 if a picture could not be read."""
    shipped = ", ".join(
        f"{name} ({pretrained.FOLDER / name / 'samples'})" for name in pretrained.names()
    )
    parser = console.Parser(
        "train.predict",
        description="Prints the most probable classes of pictures of any size and format.",
        epilog=f"Networks that ship with this package, with sample pictures: {shipped}",
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=fileio.parse, help="folder of a run")
    network.add_argument("--model", help="folder of an export, or name of a shipped network")
    parser.add_argument("--checkpoint", help="of the run: best (default), latest or a step")
    top_k_help = f"classes per picture (default: {TOP_K}, or all if there are fewer)"
    parser.add_argument("--top-k", type=int, metavar="K", help=top_k_help)
    parser.add_tta()
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    images_help = "a file, a folder with its subfolders, or - for standard input"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=images_help)
    arguments = parser.parse_args(argv)
    if arguments.model is not None and arguments.checkpoint is not None:
        raise UserError("--checkpoint: an export holds one checkpoint; use it with --workdir")

    # Imported here so that a mistake on the command line is reported before JAX is loaded.
    from googlenet_jax.storage.loading import load_export, load_run

    if arguments.workdir:
        model = load_run(arguments.workdir, arguments.checkpoint or "best")
    else:
        model = load_export(pretrained.find(arguments.model))
    names = model.info.class_names
    top_k = min(TOP_K, len(names)) if arguments.top_k is None else arguments.top_k
    if not 1 <= top_k <= len(names):
        raise UserError(f"--top-k={top_k}: must be 1 to {len(names)}, the number of classes")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes

    if model.weights != TrainConfig().weights:
        print(f"weights: {model.weights}", file=sys.stderr)
    failed = False
    for name, result in classify(model, find_images(arguments.images), arguments.tta):
        if isinstance(result, DataError):
            failed = True
            console.complain(f"{name}: {result}")
        else:
            # Each line is flushed, so a reader need not wait for the last batch.
            console.say(render(name, result, names, top_k, arguments.json))
    if failed:
        sys.exit(2)


def render(
    name: str, probabilities: "np.ndarray", class_names: Sequence[str], top_k: int, as_json: bool
) -> str:
    """Formats the most probable classes in one line; equal ones in the order of the classes."""
    best = (-probabilities).argsort(stable=True)[:top_k]
    if as_json:
        predictions = [
            {
                "class": class_names[label],
                "label": int(label),
                "probability": float(probabilities[label]),
            }
            for label in best
        ]
        return json.dumps({"image": name, "predictions": predictions})
    return f"{name}: " + ", ".join(f"{class_names[i]} {probabilities[i]:.2%}" for i in best)


def find_images(arguments: Sequence[str]) -> list[Source]:
    """Returns the pictures that the arguments name, in order; a folder's files sorted by path."""
    found: list[Source] = []
    for argument in arguments:
        if argument == "-":
            found.append((argument, _read_stdin()))
        elif not os.path.isdir(argument):
            found.append((argument, Path(argument)))
        else:
            problems: list[OSError] = []
            walk = list(os.walk(argument, onerror=problems.append))
            paths = sorted(Path(root, name) for root, _, names in walk for name in names)
            files: list[Source] = [(str(path), path) for path in paths if os.path.isfile(path)]
            files += [
                (str(e.filename), DataError(f"cannot be read: {e.strerror}")) for e in problems
            ]
            found += files or [(argument, DataError("holds no files"))]
    return found


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


def classify(
    model: "Model", sources: Sequence[Source], tta: str = "none"
) -> Iterator[tuple[str, "np.ndarray | DataError"]]:
    """Yields each picture's name and class probabilities, or the error, in the order of `sources`.

    Threads decode the next batch while the device computes the current one. All batches have the
    same size, so the network is compiled once.

    Args:
      model: The network, with the image shape and normalisation that it expects.
      sources: The pictures, at least one.
      tta: Test-time augmentation, see `data.augment.views`.
    """
    import jax
    import numpy as np

    shape = model.info.image_shape
    batches = -(-len(sources) // BATCH_SIZE)
    size = -(-len(sources) // batches)  # equal batches need little padding

    def decode(file: Path | bytes | DataError) -> "np.ndarray | DataError":
        try:
            return file if isinstance(file, DataError) else model.info.read(file)
        except DataError as error:
            return error

    def compute(decoding: "list[Future]") -> "tuple[list, jax.Array]":
        decoded = [future.result() for future in decoding]
        images = np.zeros((size, *shape), np.uint8)
        for index, pixels in enumerate(decoded):
            if not isinstance(pixels, DataError):
                images[index] = pixels
        return decoded, jax.nn.softmax(model.logits(images, tta))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = one_ahead(
            [pool.submit(decode, file) for _, file in sources[start : start + size]]
            for start in range(0, len(sources), size)
        )
        done = 0
        for decoded, probabilities in one_ahead(map(compute, futures)):
            rows = np.asarray(probabilities)
            for (name, _), pixels, row in zip(
                sources[done : done + size], decoded, rows, strict=False
            ):
                yield name, pixels if isinstance(pixels, DataError) else row
            done += size


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the same items, each one after the next has been taken from `items`."""
    for item, _ in itertools.pairwise(itertools.chain(items, [None])):
        yield item  # type: ignore[misc]


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
