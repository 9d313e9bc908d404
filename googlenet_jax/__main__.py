"""The command `googlenet-jax`: googlenet-jax evaluate is python -m train.evaluate.

Many people have files or folders named `train` and `configs`. So a wheel keeps this project's in
`googlenet_jax/programs`, and this command makes Python look there first. In a clone, they are
beside this package.
"""

import ast
import runpy
import sys
from pathlib import Path

from googlenet_jax.version import __version__

PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / "programs" if (PACKAGE / "programs").is_dir() else PACKAGE.parent


def programs() -> dict[str, tuple[str, str]]:
    """The module and the purpose of each program, by name; `train` is the module train.main."""
    found = {}
    for path in sorted((FOLDER / "train").glob("*.py")):
        source = path.read_text()
        if "\ndef main(" in source:
            purpose = (ast.get_docstring(ast.parse(source)) or "").partition(":")[0]
            found["train" if path.stem == "main" else path.stem] = f"train.{path.stem}", purpose
    return found


def main() -> None:
    """Runs the program that the command line names."""
    found = programs()
    name, *rest = sys.argv[1:] or [""]
    if name in ("--help", "-h"):
        print("usage: googlenet-jax PROGRAM ...\n")
        print("\n".join(f"  {program:16}{purpose}" for program, (_, purpose) in found.items()))
        print("\ngooglenet-jax PROGRAM --help lists a program's flags.")
    elif name == "--version":
        print(__version__)
    elif name not in found:
        choices = ", ".join(found)
        print(f"error: {name!r}: no such program; choose from: {choices}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.path.insert(0, str(FOLDER))
        sys.argv = ["-m", *rest]  # as after `python -m`, see train/__init__.py
        runpy.run_module(found[name][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
