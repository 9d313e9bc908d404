"""An installed wheel collides with no file of its user, and an editable install reads the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from googlenet_jax.__main__ import programs
from googlenet_jax.version import __version__
from train.flags import shipped_configs

ROOT = Path(__file__).parents[2]


def build(folder, version):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=[version])
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    with build(tmp_path_factory.mktemp("wheel"), "standard") as wheel:
        wheel.extractall(folder)
    return folder


def run(installed, folder, *arguments):
    """Runs the command in a folder, where Python looks for modules before all others."""
    return subprocess.run(
        [sys.executable, "-m", "googlenet_jax", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_the_wheel_claims_one_name_and_holds_everything(installed):
    names = {path.name for path in installed.iterdir()}
    assert names == {"googlenet_jax", f"googlenet_jax-{__version__}.dist-info"}
    for folder, inside in (
        ("googlenet_jax", "googlenet_jax"),
        ("train", "googlenet_jax/programs/train"),
        ("configs", "googlenet_jax/programs/configs"),
    ):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        for path in files:
            if "__pycache__" not in path.parts:
                copy = installed / inside / path.relative_to(ROOT / folder)
                assert copy.read_bytes() == path.read_bytes()


def test_a_users_own_train_configs_and_data_are_no_obstacle(installed, tmp_path):
    for name in ("configs", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError")
    (tmp_path / "train.py").write_text("raise AssertionError")
    (tmp_path / "configs" / "mine.py").write_text(
        "from configs import paper\n\ndef get_config():\n    return paper.get_config()\n"
    )
    shown = run(installed, tmp_path, "summarize", "--config", "configs/mine.py")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "10,334,030" in shown.stdout
    wrong = run(installed, tmp_path, "predict", "--model", "digits", "--top", "3")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "googlenet-jax predict --help" in wrong.stderr
    assert (
        "usage: googlenet-jax train --config" in run(installed, tmp_path, "train", "--help").stdout
    )


def test_the_command_lists_its_programs_and_refuses_others(installed, tmp_path):
    listed = run(installed, tmp_path, "--help").stdout
    assert all(f"  {name} " in listed for name in programs())
    assert {"train", "evaluate", "predict", "export", "report", "summarize"} < {*programs()}
    assert not {"main", "flags", "console"} & {*programs()}
    wrong = run(installed, tmp_path, "main")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: 'main': no such program; choose from: contact_sheet, ")


def test_an_editable_install_reads_the_clone(tmp_path):
    with build(tmp_path, "editable") as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".pth"))
        assert wheel.read(path).decode().strip() == str(ROOT)
        assert not any(name.endswith(".py") for name in wheel.namelist())
    assert shipped_configs()["digits"] == ROOT / "configs" / "digits.py"
