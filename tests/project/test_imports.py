"""Imports run one way: from room to room as listed here, and nowhere in a circle."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = [
    {"errors", "version"},
    {"config", "fileio", "parallel"},
    {"data", "models"},
    {"training"},
    {"storage"},
    {"report", "load"},
    {"train", "configs"},
]
"""Each room may import from those before it; `load` is `googlenet_jax/__init__.py`."""


def modules():
    """The path of each module by its dotted name; a package is named by its folder."""
    paths = [
        p for room in ("googlenet_jax", "train", "configs") for p in ROOT.glob(f"{room}/**/*.py")
    ]
    found = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def imports():
    """The modules that each module imports, at its top or in a function, for typing too."""
    known = modules()
    found = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                whole = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                found[name] |= whole or {node.module}
    return found


def room(name):
    """The folder of a module, or the module itself where it has none."""
    package, _, rest = name.partition(".")
    return package if package != "googlenet_jax" else rest.partition(".")[0] or "load"


def test_a_room_imports_only_what_stands_above_it():
    level = {each: number for number, rooms in enumerate(LEVELS) for each in rooms}
    wrong = [
        f"{user} imports {used}"
        for user, names in imports().items()
        for used in names
        if room(user) != room(used) and level[room(user)] <= level[room(used)]
    ]
    assert not wrong


def test_modules_import_each_other_without_a_circle():
    order = graphlib.TopologicalSorter(imports()).static_order()
    assert len([*order]) == len(modules())
