"""Compares runs on an HTML page: python -m train.report runs/one runs/two --out report."""

import os
from pathlib import Path

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from googlenet_jax.report import PAGE
from train import console


def main(argv: list[str]) -> None:
    """Writes index.html, which is self-contained, and its plots as separate PNG files."""
    parser = console.Parser(
        "train.report",
        description="Writes an HTML page that says which run is best and what it gets wrong. "
        "Runs that differ only in the seed count as one.",
    )
    parser.add_argument(
        "workdirs", nargs="+", type=fileio.parse, metavar="WORKDIR", help="folder of a run"
    )
    parser.add_argument("--out", type=fileio.parse, required=True, help="folder for the page")
    parser.add_data_path()
    arguments = parser.parse_args(argv)
    if isinstance(arguments.out, Path):
        check_folder(arguments.out)
    else:
        fileio.check(arguments.out)

    # Imported here so that a mistake on the command line is reported before JAX is loaded.
    from googlenet_jax.report import page
    from googlenet_jax.storage.workdir import CHECKPOINTS, CONFIG

    # `runs/*` may name folders of another kind.
    others = [
        folder
        for folder in arguments.workdirs
        if folder.is_dir() and not any((folder / name).exists() for name in (CONFIG, CHECKPOINTS))
    ]
    runs = [folder for folder in arguments.workdirs if folder not in others]
    for folder in others if runs else ():
        console.say(f"{folder}: holds no run; left out")
    report = page.build(runs or others, arguments.data_path)
    try:
        if isinstance(arguments.out, Path):
            arguments.out.mkdir(parents=True, exist_ok=True)
        for name, content in report.files.items():
            fileio.write(arguments.out / name, content)
        for old in arguments.out.glob("*.png"):  # of an earlier report, of more runs or mistakes
            if page.PICTURES.fullmatch(old.name) and old.name not in report.files:
                old.unlink()
    except OSError as error:
        raise UserError(f"--out={arguments.out}: cannot be written: {error}") from error
    console.say(report.verdict)
    console.say(f"written to {arguments.out / PAGE}")


def check_folder(folder: Path) -> None:
    """Checks, before minutes of work, that a folder exists or can be created.

    Raises:
      UserError: It is a file, or its place cannot be written.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"--out={folder}: cannot be written: {error}") from error
    if not nearest.is_dir():
        raise UserError(f"--out={folder}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"--out={folder}: {nearest} cannot be written")
    page = folder / PAGE
    if page.exists() and not page.is_file():
        raise UserError(f"{page}: is not a regular file; move it, since the report has that name")


if __name__ == "__main__":
    console.start(main)
