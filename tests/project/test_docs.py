"""Links in the documentation work, and the settings it names exist."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from googlenet_jax.config import Config

ROOT = Path(__file__).parents[2]
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_work(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_the_readme_links_every_page():
    readme = PAGES[0].read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_named_in_a_page_exist(page):
    """In the text as well as in the commands."""
    settings = {name for name, _, _ in Config().options()}
    assert set(re.findall(r"--config\.([a-z][\w.]*\w)", page.read_text())) <= settings


def test_install_hints_name_only_known_packages():
    """Anyone could register a made-up name, and readers who follow the hint would run it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *itertools.chain(*project["optional-dependencies"].values()),
    ]
    known = {re.match(r"[\w.-]+", each).group().lower() for each in wanted} | {"pip-audit"}
    sources = [*PAGES, *ROOT.glob("googlenet_jax/**/*.py"), *ROOT.glob("train/*.py")]
    sources += [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("configs/*.py")]
    hints = re.findall(
        r"pip install ((?:-\S+ |--\S+ )*)['\"]?([\w.-]+)", "\n".join(p.read_text() for p in sources)
    )
    assert len(hints) > 5
    assert {name.lower() for _, name in hints} <= known | {"."}
