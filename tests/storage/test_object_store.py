"""A working directory in an object store is equal to the bit to that of a local run.

The stores are local fakes of Google's and Amazon's interfaces (fake_stores.py).
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import compiling
import fake_stores
import histories
import jax
import multiprocess
import numpy as np
import pytest
from etils import epath

import train.epoch
import train.evaluate
import train.export
import train.main
from googlenet_jax.errors import CheckpointError, TrainingError
from googlenet_jax.storage import mirror
from googlenet_jax.storage.loading import load_model
from train import console

# 4 steps an epoch, of which the second is cut short.
STEPS = (4, 7)
ARGUMENTS = [
    *("--config", "digits", "--config.model.name=preact_resnet", "--config.model.depth=11"),
    *("--config.train.batch_size=8", "--config.train.steps=7", "--config.data.valid_examples=20"),
    "--config.data.max_train_examples=32",
]
ENDS = {"none": b"", "cr": b"\r", "lf": b"\n", "crlf": b"\r\n", "boundary": b"\n--"}
WALL_CLOCK = {"seconds", "images_per_second"}
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module", autouse=True)
def stores(tmp_path_factory):
    log = tmp_path_factory.mktemp("stores") / "log"
    with (
        log.open("w") as file,
        fake_stores.running(file) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture(params=["gs", "s3"])
def bucket(request):
    return epath.Path(f"{request.param}://bucket")


def history(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in lines]


def objects(folder):
    """The names of the objects in a folder."""
    files, key = mirror.open_store(folder)
    return {name.removeprefix(f"{key}/") for name in files.find(key)}


def test_line_ends_at_the_end_of_a_file_arrive(bucket, tmp_path):
    """A fake store that loses them would make every checkpoint look damaged."""
    contents = {name: b"content" + end for name, end in ENDS.items()}
    (tmp_path / "1").mkdir()
    for name, content in contents.items():
        (tmp_path / "1" / name).write_bytes(content)
    mirror.publish(tmp_path, bucket / "ends", "1", last="none")
    assert {name: (bucket / "ends" / "1" / name).read_bytes() for name in ENDS} == contents


def interrupt(monkeypatch, calls):
    """Sends SIGTERM after `calls` calls of the compiled steps."""
    check = train.epoch.check_finite

    def counting(*arguments):
        nonlocal calls
        check(*arguments)
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train.epoch, "check_finite", counting)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("local")
    with compiling.quickly():
        train.main.main([*ARGUMENTS, "--workdir", str(workdir)])
    return workdir


def test_a_run_stopped_within_an_epoch_goes_on(bucket, local, tmp_path, monkeypatch, capfd):
    workdir = bucket / "runs" / "lr[0.1]*"  # no pattern
    arguments = [*ARGUMENTS, "--workdir", str(workdir)]
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        more = ["--config.train.steps_per_call=1", "--config.checkpoint.every_steps=2"]
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            train.main.main([*arguments, *more])
    assert {name.split("/")[1] for name in objects(workdir) if "/" in name} == {".folder", "2", "3"}
    train.main.main(arguments)
    assert f"resuming {workdir} at step 3 of 7" in capfd.readouterr().out

    assert history(workdir) == history(local)
    states = [load_model(folder, "latest").state for folder in (workdir, local)]
    assert all(map(np.array_equal, *map(jax.tree.leaves, states)))
    names = objects(workdir)
    files = {path.relative_to(local).as_posix() for path in local.glob("*") if path.is_file()}
    assert {name for name in names if "/" not in name} == files - {".lock"}
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    steps = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert steps == {".folder", *map(str, STEPS)}
    copy = tmp_path / "events"
    copy.mkdir()
    for name in names:
        if name.startswith("tensorboard/"):
            path = copy / Path(name).relative_to("tensorboard")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((workdir / name).read_bytes())
    found, expected = (
        sorted(event[:2] for event in histories.read_scalars(folder))
        for folder in (copy, local / "tensorboard")
    )
    assert found == expected

    train.evaluate.main(["--workdir", str(workdir), "--checkpoint", "latest"])
    evaluated = json.loads((workdir / "evaluation_test_7.json").read_text())
    assert evaluated["accuracy"] == history(local)[-1]["test_accuracy"]

    data = max(name for name in names if name.startswith("checkpoints/7/state/d/"))
    content = bytearray((workdir / data).read_bytes())
    content[len(content) // 2] ^= 1
    (workdir / data).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint 7 .* is damaged"):
        load_model(str(workdir), "latest")


def test_a_copy_counts_once_its_last_file_is_there(bucket, tmp_path, monkeypatch):
    """The copy is cut short before the first request, then after it, and so on."""
    local = tmp_path / "local"
    (local / "2" / "deep").mkdir(parents=True)
    for name in ("deep/a", "seal"):
        (local / "2" / name).write_text("new")
    one, old, new = {"1/a", "1/seal"}, {"2/old", "2/seal"}, {"2/deep/a", "2/seal"}
    open_store, requests, done = mirror.open_store, 0, False
    seen = []
    while not done:
        remote = bucket / "folders" / str(requests)
        files, key = mirror.open_store(remote)
        files.pipe({f"{key}/{name}": b"old" for name in one | old | {"3/a"}})
        with monkeypatch.context() as patch:
            patch.setattr(
                mirror, "open_store", lambda path, n=requests: cut_short(*open_store(path), n)
            )
            with contextlib.suppress(TrainingError):
                mirror.publish(local, remote, "2", "seal")
                done = True
        copy = tmp_path / str(requests)
        mirror.download(remote, copy, "seal")
        seen.append({p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()})
        requests += 1
    nothing, *begun, copied, _, _, _ = seen
    assert nothing == one | old
    assert len(begun) == 3  # without two old files, and with the first new one
    assert all(each == one for each in begun)
    assert copied == one | new
    assert seen[-1] == objects(remote) == new


def test_a_name_that_leads_out_of_the_folder_is_not_followed(tmp_path, monkeypatch):
    class Store:
        def find(self, key):
            names = ("5/seal", "5/a", "5/../../b", "../5/seal", "5//c", "5/./d")
            return [f"{key}/{name}" for name in names]

        def get(self, keys, paths):
            got.update(zip(keys, paths, strict=True))

    got = {}
    monkeypatch.setattr(mirror, "open_store", lambda path: (Store(), "bucket/run"))
    mirror.download(epath.Path("gs://bucket/run"), tmp_path, "seal")
    assert got == {f"bucket/run/5/{name}": str(tmp_path / "5" / name) for name in ("seal", "a")}


def test_other_folders_in_a_store_stay(bucket, tmp_path):
    remote = bucket / "others"
    files, key = mirror.open_store(remote)
    files.pipe({f"{key}/{name}": b"x" for name in ("1/seal", "2/a", "notes/a", "3 copy/a")})
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "seal").write_text("x")
    mirror.publish(tmp_path, remote, "4", "seal")
    assert objects(remote) == {"4/seal", "notes/a", "3 copy/a"}


def cut_short(files, key, requests):
    """A store that fails after so many requests that change something."""

    def request(function, *arguments):
        nonlocal requests
        requests -= 1
        if requests < 0:
            raise ConnectionError("cut short")
        return function(*arguments)

    lost = types.SimpleNamespace(find=files.find)
    lost.put, lost.rm_file = (functools.partial(request, f) for f in (files.put, files.rm_file))
    return lost, key


def test_processes_share_a_store(tmp_path, stores):
    """Two processes are stopped; the first one has saved a whole checkpoint.

    JAX looks for a signal once a second, so the run is long enough for that.
    """
    workdir = "s3://bucket/shared"
    arguments = [*multiprocess.ARGUMENTS, "--config.train.epochs=100", "--workdir", workdir]
    last = multiprocess.killed("SIGTERM", 3)
    processes = multiprocess.start(
        multiprocess.Topology(2, 1),
        tmp_path / "out",
        ["-m", "train.main", *arguments],
        [*last, *arguments],
    )
    statuses = multiprocess.finish(processes)
    assert statuses == [143, 143], Path(tmp_path / "out.0").read_text()
    assert 3 <= load_model(workdir, "latest").state.step < 800


@pytest.fixture
def refused(capfd, monkeypatch):
    """Runs a program and returns its error line without the "error: "."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            console.run(main)
        (line,) = capfd.readouterr().err.splitlines()
        assert exit_info.value.code == 2, line
        return line.removeprefix("error: ")

    return run


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_missing_bucket_is_named(scheme, refused):
    workdir = f"{scheme}://nowhere/run"
    message = refused(train.main.main, *ARGUMENTS, f"--workdir={workdir}")
    assert message.startswith(f"--workdir={workdir}/")
    assert message.endswith("there is no such bucket")
    message = refused(train.evaluate.main, f"--workdir={workdir}")
    assert message == f"--workdir={workdir}: holds no run (no config.json)"


def test_a_refused_start_leaves_nothing(bucket, refused):
    workdir = bucket / "refused"
    arguments = ["--config=cifar10", "--config.data.path=/not/there", f"--workdir={workdir}"]
    assert "/not/there" in refused(train.main.main, *arguments)
    assert objects(workdir) == set()


@pytest.mark.parametrize(
    ("folder", "missing", "message"),
    [
        ("gs://bucket/run", "gcsfs", "gs://bucket/run: needs pip install gcsfs"),
        ("s3://bucket/run", "s3fs", "s3://bucket/run: needs pip install s3fs"),
        ("s3://bucket/run", None, "s3://bucket/run: cannot be reached: NoCredentialsError"),
    ],
)
def test_what_is_missing_is_named(folder, missing, message, stores):
    """In a new process, without credentials."""
    program = (
        "import sys; sys.modules[sys.argv[2]] = None; from train import console;"
        "from googlenet_jax import fileio; folder = fileio.parse(sys.argv[1]);"
        "console.run(lambda argv: fileio.check(folder))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"AWS_ENDPOINT_URL": stores["AWS_ENDPOINT_URL"]}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"}
    command = [sys.executable, "-c", program, folder, str(missing)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_exports_stay_on_this_machine(refused):
    arguments = ["--workdir=s3://bucket/run", "--out=s3://bucket/export"]
    assert "--out: s3://bucket/export: must be on this machine" in refused(
        train.export.main, *arguments
    )
