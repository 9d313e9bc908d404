"""constraints.txt pins each package that this project needs, in a version that it allows."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
UNUSED = {"cuda", "tpu", "onnx", "mlflow", "trackio"}  # extras that no figure in docs/ comes from


def test_every_requirement_is_pinned_to_an_allowed_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)  # no host, no path
    pinned = {canonicalize_name(name): version for name, version in (p.split("==") for p in pins)}
    assert len(pinned) == len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(n for e in extras.keys() - UNUSED for n in extras[e])]
    for requirement in map(Requirement, needed):
        version = pinned[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement
