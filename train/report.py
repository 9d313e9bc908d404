"""A page about runs: python -m train.report runs/one runs/two --out report."""

import os
from pathlib import Path

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from train import console


def main(argv: list[str]) -> None:
    """Writes index.html, which needs no other file, and the PNG files of its pictures."""
    parser = console.Parser(
        "train.report",
        description="Writes a page that says which run is best and on what it fails. Runs that "
        "differ in nothing but their seed count as one.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "workdirs", nargs="+", type=fileio.parse, metavar="WORKDIR", help="of a run"
    )
    parser.add_argument("--out", type=fileio.parse, required=True, help="folder of the page")
    parser.add_argument("--data-path", default="", help="of the data, if they are elsewhere now")
    arguments = parser.parse_args(argv)
    if isinstance(arguments.out, Path):
        check_folder(arguments.out)
    else:
        fileio.check(arguments.out)

    # Imported here so that a mistake on the command line is told before JAX has loaded.
    from googlenet_jax.report import page

    report = page.build(arguments.workdirs, arguments.data_path)
    try:
        if isinstance(arguments.out, Path):
            arguments.out.mkdir(parents=True, exist_ok=True)
        for name, content in report.files.items():
            fileio.write(arguments.out / name, content)
    except OSError as error:
        raise UserError(f"--out={arguments.out}: cannot be written: {error}") from error
    console.say(report.verdict)
    console.say(f"written to {arguments.out / page.PAGE}")


def check_folder(folder: Path) -> None:
    """Checks, before minutes are spent, that a folder is there or can be made.

    Raises:
      UserError: it is a file, or lies in a place that cannot be written.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"--out={folder}: cannot be written: {error}") from error
    if not nearest.is_dir():
        raise UserError(f"--out={folder}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"--out={folder}: {nearest} cannot be written")


if __name__ == "__main__":
    console.start(main)
