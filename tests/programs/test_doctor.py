"""What `train.doctor` finds on this machine, and on others that are made up."""

import shutil
import subprocess
from importlib import metadata

import jax
import pytest
from packaging.requirements import Requirement

from train import doctor

LISTED = "GPU 0: NVIDIA H100"


def test_it_shows_this_machine_and_is_content(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doctor.main([])
    shown = capsys.readouterr().out
    assert f"jax {jax.__version__}, " in shown
    assert "devices    1 x cpu, " in shown
    assert "no GPU     JAX_PLATFORMS=cpu allows none; unset it\n" in shown
    assert f"runs       {tmp_path / 'runs'} (not there yet), " in shown
    assert f"data       {tmp_path / 'tfds'} (not there yet), " in shown
    assert f"cache      {tmp_path / 'cache' / 'googlenet_jax'} (not there yet), " in shown
    assert shown.endswith("ready to train\n")
    assert len(shown.splitlines()) <= 24
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MIN_FREE", 10**18, "the checkpoints of a run may need more"),
        ("PACKAGE", "not-there", "problem: not-there is not installed"),
        ("needs", lambda *_: [Requirement("numpy>=999")], "missing: numpy>=999, not "),
    ],
)
def test_a_problem_is_named_and_the_status_is_1(name, value, problem, capsys, monkeypatch):
    monkeypatch.setattr(doctor, name, value)
    with pytest.raises(SystemExit) as exit_:
        doctor.main([])
    assert exit_.value.code == 1
    assert problem in capsys.readouterr().out


def test_missing_packages_are_found_through_extras(monkeypatch):
    """`jax[cuda12]` is there only if its plugin is."""
    assert doctor.missing(Requirement("numpy>=1")) == []
    assert doctor.missing(Requirement("no-such-package>=1")) == ["no-such-package>=1"]
    required = {"a": ["b>=2; extra == 'x'", "c"], "b": []}
    monkeypatch.setattr(metadata, "requires", required.get)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    assert doctor.missing(Requirement("a")) == []
    assert doctor.missing(Requirement("a[x]")) == ["b>=2, not 1.0"]
    assert [str(need) for need in doctor.needs("a", "")] == ["c"]


@pytest.mark.parametrize(
    ("environment", "smi", "reason"),
    [
        ({"JAX_PLATFORMS": "cpu"}, (0, LISTED), "JAX_PLATFORMS=cpu allows none"),
        ({"CUDA_VISIBLE_DEVICES": ""}, (0, LISTED), "CUDA_VISIBLE_DEVICES= hides them"),
        ({}, None, "no NVIDIA driver was found"),
        ({}, (9, "couldn't communicate"), "the NVIDIA driver finds none: nvidia-smi -L: couldn't"),
        ({}, (0, LISTED), f"{LISTED}: JAX has no CUDA plugin; pip install 'jax[cuda12]'"),
    ],
)
def test_why_there_is_no_gpu(environment, smi, reason, monkeypatch):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shutil, "which", lambda name: name if smi else None)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], *(smi or (0, "")), "")
    )
    monkeypatch.setattr(doctor, "PLUGINS", ("no-such-plugin",))
    assert doctor.why_no_gpu().startswith(reason)
