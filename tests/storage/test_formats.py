"""Runs and exports of every format ever written still load, with the same logits."""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

import googlenet_jax
from googlenet_jax.config import Config
from googlenet_jax.storage.loading import load_model
from train.loop import train_and_evaluate

FORMATS = sorted(Path(__file__).with_name("formats").glob("*.tar.xz"))
IMAGES = (np.arange(4 * 8 * 8) % 251).astype(np.uint8).reshape(4, 8, 8, 1)

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def number(archive: Path) -> str:
    return archive.name.partition(".")[0]


@pytest.mark.parametrize("archive", FORMATS, ids=number)
def test_a_run_and_an_export_load(archive, tmp_path):
    folder = unpack(archive, tmp_path)
    expected = json.loads(archive.with_name(f"{number(archive)}.json").read_text())
    for name in ("run", "export"):
        logits = googlenet_jax.load(folder / name).logits(IMAGES)
        # The exact bits depend on the CPU and on the version of XLA.
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3, err_msg=name)
    program = jax.export.deserialize(bytearray((folder / "export/model.jaxexport").read_bytes()))
    np.testing.assert_allclose(program.call(IMAGES), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("archive", FORMATS, ids=number)
def test_the_command_that_made_a_run_finds_it_finished(archive, tmp_path, capfd):
    workdir = unpack(archive, tmp_path) / "run"
    config = Config.from_dict(json.loads((workdir / "config.json").read_text()))
    before = json.loads((workdir / "summary.json").read_text())
    summary = train_and_evaluate(config, workdir)
    assert "compil" not in capfd.readouterr().out
    for name in ("final", "best", "parameters", "dataset", "data"):
        assert summary[name] == before[name]


def names(value) -> set[str]:
    """The dotted names in nested JSON objects."""
    if not isinstance(value, dict):
        return set()
    return set(value) | {f"{key}.{name}" for key in value for name in names(value[key])}


def test_the_newest_stored_format_is_the_current_one(tmp_path_factory, tmp_path):
    """Otherwise no test would show that later versions read what this one writes."""
    newest = unpack(max(FORMATS, key=lambda path: int(number(path))), tmp_path) / "run"
    found = []
    for workdir in (newest, tiny_run.make(tmp_path_factory)):
        record = load_model(workdir, "latest").record
        (folder, *_) = (workdir / "checkpoints").iterdir()
        metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
        metadata["leaves"] = {}  # these names are not part of the format
        metadata["record"] |= {"config": {}, "warnings": {}, "history": record.history[0]}
        found.append(names(metadata))
    assert found[0] == found[1]
