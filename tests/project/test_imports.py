"""Imports between packages go one way only, and modules have no import cycles."""

import graphlib
import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "docs" / "draw.py"
spec = importlib.util.spec_from_file_location("draw", PATH)
draw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw)

LEVELS = [
    {"errors", "version"},
    {"config", "fileio", "parallel"},
    {"data", "models"},
    {"training"},
    {"storage"},
    {"report", "load"},
    {"train", "configs"},
]
"""Each package may import from earlier levels; `load` is `googlenet_jax/__init__.py`."""


def test_a_package_imports_only_from_earlier_levels():
    level = {each: number for number, rooms in enumerate(LEVELS) for each in rooms}
    wrong = [
        f"{user} imports {used}"
        for user, names in draw.imports().items()
        for used in names
        if draw.room(user) != draw.room(used) and level[draw.room(user)] <= level[draw.room(used)]
    ]
    assert not wrong


def test_modules_have_no_import_cycle():
    order = graphlib.TopologicalSorter(draw.imports()).static_order()
    assert len([*order]) == len(draw.modules())


def test_the_architecture_diagrams_can_be_drawn(tmp_path):
    draw.draw_rooms(tmp_path / "rooms.png")
    draw.draw_batch(tmp_path / "batch.png")
    assert all(path.stat().st_size > 20_000 for path in tmp_path.iterdir())
    assert max(draw.levels(draw.rooms()).values()) < len(LEVELS)
