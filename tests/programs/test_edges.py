"""How programs exit when the machine, the terminal or a signal interferes."""

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import compiling
import jax
import pytest
import tiny_run

from googlenet_jax.data import cache
from train import console, loop


def program(body, *, redirect="", timeout=60, **options):
    """Runs the body of a `main(argv)` as a program, with a redirection of the shell."""
    code = "import os, signal, sys, threading, time\nfrom googlenet_jax.errors import UserError\n"
    code += "from train import console\n\ndef main(argv):\n"
    code += "".join(f"    {line}\n" for line in body.splitlines()) + "\nconsole.start(main)\n"
    shell = ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, code]
    return subprocess.run(shell, capture_output=True, text=True, timeout=timeout, **options)


def test_a_failed_program_does_not_wait_for_its_threads():
    """Orbax has such threads after a failed save."""
    ended = program(
        "threading.Thread(target=time.sleep, args=[600]).start()\nraise UserError('no')"
    )
    assert (ended.returncode, ended.stderr) == (2, "error: no\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_an_error_of_the_machine_is_one_line(capfd, number):
    def main(argv):
        raise OSError(number, os.strerror(number), "runs/a/metrics.jsonl")

    with pytest.raises(SystemExit) as exit_:
        console.run(main)
    assert exit_.value.code == 1
    assert capfd.readouterr().err == f"error: runs/a/metrics.jsonl: {os.strerror(number)}\n"


def test_a_defect_keeps_its_traceback():
    ended = program("raise OSError(2, 'No such file')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


@pytest.mark.parametrize(("reason", "told"), [("Event loop is closed", 0), ("a defect", 1)])
def test_cancelled_reads_are_not_reported(reason, told):
    """After a failed read, Orbax cancels the others; a callback then finds its loop closed."""
    body = f"""
class Callback:
    def __del__(self):
        raise RuntimeError({reason!r})

async def read():
    try:
        await asyncio.Future(loop=asyncio.new_event_loop())
    finally:
        raise OSError("half read")

reading = read()
reading.send(None)
del reading
Callback()
"""
    ended = program("import asyncio" + body)
    assert ended.returncode == 0
    assert ended.stderr.count("Traceback") == told, ended.stderr


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_replaced(tmp_path, redirect):
    """Otherwise a file would get the stream's number, and what is printed."""
    body = (
        f"file = open({str(tmp_path / 'file')!r}, 'w')\nconsole.say('said')\n"
        "console.complain('told')\nos.write(1, b'raw'), os.write(2, b'raw')\nfile.write('mine')"
    )
    ended = program(body, redirect=redirect)
    assert ended.returncode == 0
    assert (tmp_path / "file").read_text() == "mine"


def test_what_the_library_logs_is_one_line():
    """Such as the name of a picture that is left out."""
    body = "import logging\nlogging.basicConfig()  # as some libraries do\n"
    body += "logging.getLogger('googlenet_jax.training').warning('left out: %s', 'a\\nb')"
    assert program(body).stderr == "warning: left out: a\\nb\n"


def test_a_full_disk_under_stdout_is_one_line():
    ended = program("console.say('x')", redirect="> /dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "error: output: No space left on device\n"


@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        # In a destructor, which cannot raise.
        "class Late:\n    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "late = Late()\ndel late\ntime.sleep(60)",
        # Where a library raises another error instead.
        "try:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    raise ImportError('half imported')",
    ],
    ids=["anywhere", "destructor", "replaced"],
)
def test_ctrl_c_ends_a_program_without_a_traceback(body):
    ended = program(body)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


def test_ctrl_c_during_an_import(tmp_path):
    """NumPy prints a traceback there, and goes on."""
    (tmp_path / "half.py").write_text(
        "import os, sys\ntry:\n    os.kill(os.getpid(), 2)\n"
        "except KeyboardInterrupt:\n    print('Traceback', file=sys.stderr)\n"
    )
    ended = program("import half", env=os.environ | {"PYTHONPATH": f"{tmp_path}:."})
    assert (ended.returncode, ended.stderr) == (130, "")


def test_ctrl_c_before_the_program_has_begun():
    """While Python imports the modules at its top."""
    code = "import sys; sys.argv = ['-m']; import train, os, signal; os.kill(os.getpid(), 2)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-2, "")


def test_a_process_outlives_its_terminal(tmp_path):
    """It ignores SIGHUP and the errors of writing to a closed terminal."""
    ours, theirs = pty.openpty()
    code = (
        "import sys, time; from train import console; console.outlive_terminal(); print('ready')\n"
        "time.sleep(3)\nfor _ in range(9): print('x' * 9999, flush=True); print(file=sys.stderr)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    assert os.read(ours, 5) == b"ready"
    os.close(ours)
    assert started.wait(60) == 0
    assert (tmp_path / "done").exists()


def test_a_user_without_a_home(monkeypatch):
    """As in many containers: the run works without caches."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache.cached("key", lambda: {}) == ({}, "none (there is no home directory)")
    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        loop.keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)


def test_a_save_that_fails_ends_the_run_in_one_line(tmp_path):
    """And the run resumes when there is room again."""
    driver = """
import os, sys, train.epoch, train.main
from train import console

workdir, steps = sys.argv[-1], 0
check = train.epoch.check_finite

def block(run, state):
    global steps
    steps += 1
    if steps == 2:
        os.rename(f"{workdir}/checkpoints", f"{workdir}/aside")
        open(f"{workdir}/checkpoints", "w").close()
    check(run, state)

train.epoch.check_finite = block
console.start(train.main.main)
"""
    workdir = tmp_path / "run"
    arguments = [*tiny_run.ARGUMENTS, "--config.train.steps_per_call=1", "--workdir", str(workdir)]
    ended = subprocess.run(
        [sys.executable, "-c", driver, *arguments],
        capture_output=True,
        text=True,
        env=compiling.environment(),
        timeout=300,
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: checkpoint 8 in {workdir}/checkpoints cannot be written: ")
    (workdir / "checkpoints").unlink()
    (workdir / "aside").rename(workdir / "checkpoints")
    ended = subprocess.run(
        [sys.executable, "-m", "train.main", *arguments],
        capture_output=True,
        text=True,
        env=compiling.environment(),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (workdir / "summary.json").exists()


@pytest.mark.parametrize("platform", ["tpu", "cuda", "foo"])
def test_a_missing_platform(platform):
    """JAX's own error is a page long, or empty."""
    ended = program(
        "import jax; jax.devices()", env=compiling.environment() | {"JAX_PLATFORMS": platform}
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: JAX has no such device here: ")


@pytest.mark.parametrize("name", ["main", "evaluate", "predict", "export", "report", "summarize"])
def test_help_in_any_locale(name):
    ended = subprocess.run(
        [sys.executable, "-m", f"train.{name}", "--help"],
        capture_output=True,
        env=compiling.environment()
        | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "20"},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"--help" in ended.stdout
