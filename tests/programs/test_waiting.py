"""What is said while a run waits: whether its program is in the cache, and for how long."""

import json
import os
import pty
import subprocess
import sys
import termios

import jax
import jax.numpy as jnp
import pytest

from train import waiting


class Feed:
    """Compiles a program of one addition."""

    def __init__(self, number, was_kept):
        self.lowered, self.was_kept = jax.jit(lambda x: x + number).lower(jnp.float32(1)), was_kept

    def compile(self, state, tell):
        tell(self.lowered)
        return self.was_kept


@pytest.fixture
def said(tmp_path, capsys):
    """Returns what is said about a program; the cache is a temporary folder."""

    def say(number, was_kept):
        assert waiting.compile_steps(Feed(number, was_kept), None) == was_kept
        return capsys.readouterr().out.removeprefix("compiling the training steps: ").strip()

    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield say
    jax.config.update("jax_compilation_cache_dir", kept)


def test_it_says_whether_the_program_is_cached_and_how_long_it_took(said, tmp_path):
    assert said(1, False) == "not in the cache"
    file = tmp_path / waiting.FILE
    ((first, _),) = json.loads(file.read_text()).items()
    file.write_text(json.dumps({first: 174.8}))
    assert said(1, True) == "in the cache; it took 175 s to compile them"
    assert json.loads(file.read_text()) == {first: 174.8}  # not how long it took to load
    assert said(2, False) == "not in the cache; the last ones took 175 s"
    assert len(json.loads(file.read_text())) == 2
    said(1, False)  # the cache was emptied
    assert json.loads(file.read_text())[first] < 174


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', '{"a": null}'])
def test_a_damaged_record_is_written_anew(said, tmp_path, content):
    file = tmp_path / waiting.FILE
    file.write_text(content)
    assert said(1, False) == "not in the cache"
    assert len(json.loads(file.read_text())) == 1


def test_without_a_cache_nothing_is_recorded(said, tmp_path):
    jax.config.update("jax_compilation_cache_dir", None)
    assert said(1, False) == "not in the cache"
    assert not list(tmp_path.iterdir())


def test_seconds_are_counted_on_a_terminal_and_cleared_before_a_line():
    """Each line stands alone, also one that a signal's handler prints."""
    code = """
import os, signal, sys, time
from train import console, waiting
from train.progress import Progress
from train.stop import StopRequest

with waiting.counting("compiling"):
    time.sleep(1.5)
    console.say("said")
with StopRequest.listen([signal.SIGINT]) as stop, Progress("epoch 1/2", 0, 9) as bar:
    bar.update(3, {"loss": "1.0"})
    os.kill(os.getpid(), signal.SIGINT)
    stop.check(lambda: None, 3)
"""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    ended = subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert ended.returncode == 130
    assert "compiling 00:01" in shown
    for line in ("said", "SIGINT: finishing the step and saving", "saving step 3; run the same"):
        before = shown[: shown.index(line)].rpartition("\n")[2]
        assert before.rpartition("\r")[2] == ""  # begins its line,
        assert before.rstrip("\r").rpartition("\r")[2].strip() == ""  # which was cleared
