"""Classifies pictures: python -m train.predict --workdir runs/digits photo.jpg scans/.

`googlenet_jax.data.decoding` converts a picture to the input of a network.
"""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from train import allocator, console, pictures, table

if TYPE_CHECKING:
    from googlenet_jax.storage.model import Model, Prediction


def main(argv: list[str]) -> None:
    """Prints a line for each picture; exits with status 2 if a picture could not be read."""
    parser = pictures.Parser(
        "train.predict", "Prints the most probable classes of pictures of any size and format."
    )
    top_k_help = "classes per picture (default: 5, or all if there are fewer)"
    parser.add_argument("--top-k", type=int, metavar="K", help=top_k_help)
    parser.add_tta()
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per picture")
    format_help = "a row for each class of a picture, as CSV or as JSON lines"
    form.add_argument("--format", choices=table.FORMATS, help=format_help)
    out_help = "file for these rows; the same command goes on after an interruption"
    parser.add_argument("--out", type=console.local_path, metavar="FILE", help=out_help)
    explain_help = "folder for a figure of each picture: which parts of it speak for its class"
    parser.add_argument("--explain", type=console.local_path, metavar="DIR", help=explain_help)
    arguments = parser.parse(argv)
    if arguments.explain is not None and arguments.tta != "none":
        raise UserError("--explain: shows the picture alone; leave out --tta")
    if arguments.out is not None:
        check_out(arguments)

    sources = pictures.find(arguments)
    # Loads JAX: a mistake on the command line has been reported before.
    model = pictures.load(arguments)
    top_k = model.check_top_k(arguments.top_k, "--top-k")
    (print_all if arguments.out is None else write_all)(model, sources, top_k, arguments)


def check_out(arguments: argparse.Namespace) -> None:
    """Checks the options that go with --out, and chooses the format by its suffix.

    Raises:
      UserError: There is no format, pictures have no names, or the file cannot be written.
    """
    arguments.format = arguments.format or arguments.out.suffix[1:]
    if arguments.json or arguments.format not in table.FORMATS:
        raise UserError(f"--out={arguments.out}: use --format {' or '.join(table.FORMATS)}")
    if "-" in arguments.images:
        raise UserError("--out: needs pictures with names; the one on standard input has none")
    console.check_file(arguments.out)


def print_all(
    model: "Model", sources: list[pictures.Source], top_k: int, arguments: argparse.Namespace
) -> None:
    """Prints the classes of each picture."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    if arguments.format == "csv":
        console.say(table.HEADER)
    results = pictures.Results(
        model, classifier(model, arguments), sources, show_progress=not sys.stdout.isatty()
    )
    for name, ranked in concluded(model, results, top_k, arguments.explain):
        if arguments.format:
            lines = table.lines(name, ranked, arguments.format)
        else:
            lines = [to_json(name, ranked) if arguments.json else to_text(name, ranked)]
        # Each line is flushed, so a reader need not wait for the last batch.
        for line in lines:
            console.say(line)
    results.end()


def write_all(
    model: "Model", sources: list[pictures.Source], top_k: int, arguments: argparse.Namespace
) -> None:
    """Writes the classes of each picture that the table does not have yet."""
    made_by = {
        "network": repr(model),
        "sha256": fingerprint(model),
        "top_k": top_k,
        "tta": arguments.tta,
        "format": arguments.format,
    }
    started, count = time.monotonic(), 0
    with table.Table(arguments.out, made_by) as rows:
        # A picture that is named twice has its rows once.
        new = [source for source in dict(sources).items() if source[0] not in rows.done]
        results = pictures.Results(model, classifier(model, arguments), new)
        for name, ranked in concluded(model, results, top_k, arguments.explain):
            count += 1
            rows.write(table.lines(name, ranked, arguments.format))
    console.say(
        f"{arguments.out}: {len(rows.done) + count:,} pictures, {count:,} of them new, "
        f"{count / (time.monotonic() - started):.0f} images/s"
    )
    results.end()


def classifier(model: "Model", arguments: argparse.Namespace) -> Callable[[Any], Any]:
    """The class probabilities of a batch, with --explain also the map of each best class."""
    import jax

    def explained(images: Any) -> Any:
        logits, maps = model.explain(images)
        return jax.nn.softmax(logits), maps

    def probabilities(images: Any) -> Any:
        return model.probabilities(images, arguments.tta), ()

    return probabilities if arguments.explain is None else explained


def concluded(
    model: "Model", results: pictures.Results, top_k: int, folder: Path | None
) -> Iterator[tuple[str, "list[Prediction]"]]:
    """Yields each picture's most probable classes; draws into the folder why the first of them.

    Raises:
      UserError: A figure cannot be written.
    """
    for name, pixels, (probabilities, class_map) in results:
        ranked = model.ranked(probabilities, top_k)
        if folder is not None:
            from googlenet_jax.report import maps

            # As in the folders of the pictures, so that no two have one name; ".." leads nowhere.
            path = folder / f"{os.path.normpath(f'/{name}').lstrip('/')}.png"
            best = ranked[0]
            title = f"{os.path.basename(name)}: {best.class_name} {best.probability:.2%}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                fileio.write(path, maps.explain(pixels, class_map, title, best.class_name))
            except OSError as error:
                raise UserError(f"--explain={folder}: cannot be written: {error}") from error
        yield name, ranked


def to_text(name: str, ranked: "list[Prediction]") -> str:
    """A picture's classes in one line."""
    return f"{name}: " + ", ".join(f"{each.class_name} {each.probability:.2%}" for each in ranked)


def to_json(name: str, ranked: "list[Prediction]") -> str:
    """A picture's classes as one JSON object."""
    predictions: list[dict[str, Any]] = [
        {"class": each.class_name, "label": each.label, "probability": each.probability}
        for each in ranked
    ]
    return json.dumps({"image": name, "predictions": predictions})


def fingerprint(model: "Model") -> str:
    """The sha256 of a network's weights, normalisation and classes."""
    import numpy as np

    from googlenet_jax.storage import export, proof

    weights = [np.asarray(leaf).tobytes() for _, leaf in export.named_weights(model.state)]
    return proof.digest(b"".join([proof.canonical(model.info.to_dict()), *weights]))


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
