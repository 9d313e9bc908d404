"""Wrong input gives one line that names the cause and exit status 2; the workdir stays as it is."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
from PIL import Image

import googlenet_jax
import train.evaluate
import train.export
import train.loop
import train.main
import train.predict
import train.report
from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from googlenet_jax.report.tensorboard import TensorBoard
from googlenet_jax.storage.workdir import lock
from train import console

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ROOT = Path(__file__).parents[2]
DIGITS = "--config=digits"
SHIPPED = "cifar10, cifar100, cifar100_modern, cifar10_fast, cifar10_modern"  # and so on


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_run.make(tmp_path_factory)


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def refused(capfd, monkeypatch):
    """Runs a program in this process and returns its error line without the "error: ".

    Files in a folder that is given as `unchanged` must stay as they are.
    """

    # Input that is accepted by mistake fails its test at once instead of training for minutes.
    monkeypatch.setattr(train.loop, "train_epochs", lambda *_: pytest.fail("it was accepted"))

    def run(main, *arguments, unchanged=None):
        before = unchanged and files(unchanged)
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            console.run(main)
        assert before == (unchanged and files(unchanged))
        return complaint(exit_info.value.code, capfd.readouterr().err)

    return run


def complaint(status, stderr):
    assert status == 2, stderr
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def assert_names(message, *culprits):
    for culprit in culprits:
        assert str(culprit) in message, message


def files(folder):
    """The contents of all files except the lock, which is not part of a run."""
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return {path: path.read_bytes() for path in paths if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        ([], ["--config is required", SHIPPED]),
        (["--config"], ["--config is required"]),
        (["--config="], ["--config is required"]),
        (["--config", "--config.seed=1"], ["--config is required"]),
        ([DIGITS, "--config=cifar10"], ["--config is required once"]),
        (["--config=digitz"], ["--config=digitz", SHIPPED]),
        (
            ["--config=no/such.py"],
            ["--config=no/such.py", SHIPPED],
        ),
        (["--config=configs"], ["--config=configs", SHIPPED]),
        ([DIGITS, "--config.train.epoch=3"], ["train.epoch:", "did you mean train.epochs?"]),
        ([DIGITS, "--config.sed=3"], ["sed:", "did you mean seed?"]),
        ([DIGITS, "--config.seed.x=3"], ["seed.x:", "no such field"]),
        ([DIGITS, "--config.=3"], ["--config."]),
        ([DIGITS, "--config.train=3"], ["--config.train:", "--config.train.FIELD=VALUE"]),
        ([DIGITS, "--config.train.epochs"], ["--config.train.epochs: needs a value"]),
        ([DIGITS, "--config.train.epochs", "--config.seed=1"], ["train.epochs: needs a value"]),
        ([DIGITS, "--workdir"], ["--workdir: needs a value"]),
        ([DIGITS, "--config.train.epochs=ten"], ["train.epochs", "ten"]),
        ([DIGITS, "--config.data.flip=yes"], ["--config.data.flip=yes: must be True or False"]),
        ([DIGITS, "--config.train.epochs=1.5"], ["train.epochs", "1.5"]),
        ([DIGITS, "--config.train.epochs="], ["train.epochs"]),
        ([DIGITS, "--config.data.flip=maybe"], ["data.flip", "maybe"]),
        ([DIGITS, "--config.optimizer.learning_rate=fast"], ["optimizer.learning_rate", "fast"]),
        ([DIGITS, "--config.train.epochs=0"], ["train.epochs=0", "at least 1"]),
        ([DIGITS, "--config.seed", "-3"], ["seed=-3", "at least 0"]),
        ([DIGITS, "--config.model.dropout_rate=1"], ["model.dropout_rate=1", "less than 1"]),
        ([DIGITS, "--config.optimizer.learning_rate=nan"], ["optimizer.learning_rate=nan"]),
        ([DIGITS, "--config.optimizer.learning_rate=inf"], ["optimizer.learning_rate=inf"]),
        ([DIGITS, "--config.model.dtype=float16"], ["model.dtype='float16'", "bfloat16"]),
        (
            [DIGITS, "--config.data.name=mnist"],
            ["data.name='mnist'", "cifar10, cifar100, digits, folder, tfds:NAME"],
        ),
        ([DIGITS, "--config.train.steps=99999999999"], ["train.steps=99999999999", "less than"]),
        ([DIGITS, "--config.optimizer.learning_rate", "-.5"], ["optimizer.learning_rate=-0.5"]),
        ([DIGITS, "--workdir="], ["--workdir: needs a value"]),
        ([DIGITS, "--seed=3"], ["--seed: no such flag"]),
        ([DIGITS, "--wordkir", "x"], ["--wordkir: no such flag"]),
        ([DIGITS, "seed=3"], ["seed=3: not a flag"]),
        ([DIGITS, "--workdir=x", "y"], ["y: not a flag"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_flags(refused, arguments, culprits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a default workdir would appear
    assert_names(refused(train.main.main, *arguments), *culprits)
    assert not list(tmp_path.iterdir())


IMPORT = "from googlenet_jax.config import Config\n"
CONFIG_FILES = {
    "syntax": ("def get_config(:\n", ["SyntaxError", "line 1"]),
    "no get_config": ("x = 1\n", ["get_config"]),
    "dict": (
        "def get_config():\n    return {'seed': 3}\n",
        ["get_config() must return", "Config"],
    ),
    "None": ("def get_config():\n    return None\n", ["get_config() must return", "Config"]),
    "import": ("import no_such_module\n", ["no_such_module"]),
    "two lines": ("raise RuntimeError('two\\nlines')\n", ["RuntimeError: two lines"]),
    "exit": ("import sys\nsys.exit(3)\n", ["SystemExit: 3"]),
    "raises": ("def get_config():\n    return 1 / 0\n", ["ZeroDivisionError"]),
    "field": (IMPORT + "def get_config():\n    return Config(sed=3)\n", ["sed"]),
    "range": (
        IMPORT + "def get_config():\n    return Config(seed=-3)\n",
        ["seed=-3", "at least 0"],
    ),
}


@pytest.mark.parametrize(("text", "culprits"), CONFIG_FILES.values(), ids=CONFIG_FILES)
@pytest.mark.parametrize("override", [[], ["--config.seed=3"]], ids=["plain", "override"])
def test_config_file(refused, text, culprits, override, tmp_path, monkeypatch):
    # ml_collections would load all config files as this module, over values of the last one.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(text)
    if override and "seed=-3" in culprits:
        pytest.skip("the override corrects it")
    message = refused(train.main.main, f"--config={path}", *override)
    assert_names(message, *culprits)
    if "seed=-3" not in culprits:  # that one names the field, as for an override
        assert_names(message, path)


@pytest.mark.parametrize(
    ("line", "culprits"),
    [
        ("config.model = None", ["model=None", "must be of type ModelConfig"]),
        ("config.train = config.eval", ["train=EvalConfig", "must be of type TrainConfig"]),
        ("config.data = print", ["data=<built-in function print>", "must be of type DataConfig"]),
        ("del config.seed", ["seed: is missing from Config"]),
        ("raise BaseException('no')", ["BaseException: no"]),
        ("raise Mute", ["Mute: (no text: KeyError)"]),
    ],
)
def test_config_files_that_break_the_config_or_raise(
    refused, line, culprits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from googlenet_jax.config import Config\n"
        "class Mute(Exception):\n    def __str__(self):\n        raise KeyError\n"
        f"def get_config():\n    config = Config()\n    {line}\n    return config\n"
    )
    assert_names(refused(train.main.main, "--config=mine.py"), *culprits)


def test_a_long_value_is_shortened(refused):
    """The beginning says what is wrong, and the end what to do."""
    message = refused(train.main.main, DIGITS, f"--config.data.name={'x' * 5000}")
    assert_names(message, "data.name='xxx", "tfds:NAME")
    assert len(message) <= 1000
    assert_names(refused(train.main.main, f"--config={'x' * 400}"), "no such file", SHIPPED)


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["--config=cifar10"], ["no CIFAR data is on this machine", "--config.data.path=FILE"]),
        (["--config=cifar10", "--config.data.path=no.tar.gz"], ["data.path='no.tar.gz'"]),
        (
            [DIGITS, "--config.data.path=digits.npz"],
            ["data.path='digits.npz'", "come with scikit-learn and take no path"],
        ),
        (
            [DIGITS, "--config.train.batch_size=2000"],
            ["train.batch_size=2000", "1442 images", "choose at most 1442"],
        ),
        (
            [DIGITS, "--config.train.batch_size=64", "--config.train.accumulate=3"],
            ["train.batch_size=64", "times train.accumulate=3, such as 63 or 66"],
        ),
        (
            [DIGITS, "--config.data.max_train_examples=64", "--config.train.batch_size=65"],
            ["train.batch_size=65", "64 images"],
        ),
        ([DIGITS, "--config.data.valid_examples=1440"], ["data.valid_examples=1440", "144"]),
        (
            [DIGITS, "--config.data.max_train_examples=1443"],
            ["data.max_train_examples=1443", "1442"],
        ),
        (
            [DIGITS, "--config.train.init_from=no/run"],
            ["no/run", "train.import_torch FILE --workdir no/run", "--config.train.init_from=)"],
        ),
        (
            [DIGITS, "--config.optimizer.trunk=fc"],  # then nothing would learn
            ["optimizer.trunk='fc'", "conv1, conv2, inception3a", "maxpool4", "inception5b"],
        ),
    ],
    ids=lambda part: " ".join(part),
)
def test_data(refused, arguments, culprits, tmp_path):
    workdir = tmp_path / "run"
    message = refused(train.main.main, *arguments, "--workdir", workdir)
    assert_names(message, *culprits)
    assert files(workdir) == {}  # nothing is left that could disturb a later start


@pytest.mark.parametrize("unofficial", [False, True])
@pytest.mark.parametrize("content", [b"", b"no archive" * 100, b"\x1f\x8b" + bytes(100)])
def test_archive(refused, unofficial, content, tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(content)
    message = refused(
        train.main.main,
        *("--config=cifar10", f"--config.data.path={archive}", "--workdir", tmp_path / "run"),
        f"--config.data.unofficial={unofficial}",
    )
    expected = "not a readable gzipped tar" if unofficial else "--config.data.unofficial=True"
    assert_names(message, archive, expected)
    assert files(tmp_path / "run") == {}


@pytest.mark.parametrize("below", ["", "run"], ids=["a file", "below a file"])
def test_workdir_is_a_file(refused, below, tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    message = refused(train.main.main, DIGITS, "--workdir", path / below)
    assert_names(message, f"--workdir={path / below}")
    assert path.read_text() == "precious"


def test_workdir_in_use(refused, workdir):
    arguments = [*tiny_run.ARGUMENTS, "--workdir", workdir]
    with (workdir / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        message = refused(train.main.main, *arguments, unchanged=workdir)
    assert_names(message, f"--workdir={workdir}", "another process")


@pytest.mark.parametrize(
    ("changes", "culprits"),
    [
        (["--config.seed=5"], ["seed (was 0, is 5)"]),
        (
            ["--config.optimizer.learning_rate=0.2", "--config.data.pad=2"],
            ["optimizer.learning_rate (was 0.1, is 0.2)", "data.pad (was 1, is 2)"],
        ),
        (["--config.train.steps=0", "--config.train.epochs=50"], ["train.epochs=50", "cosine"]),
        (["--config.train.steps=24"], ["train.steps=24", "were 40, 9", "cosine"]),
        (["--config.train.steps=3"], ["train.steps=3", "already taken 9 steps"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_workdir_of_another_run(refused, workdir, changes, culprits):
    arguments = [*tiny_run.ARGUMENTS, *changes, "--workdir", workdir]
    assert_names(refused(train.main.main, *arguments, unchanged=workdir), *culprits)


def test_refused_extension_deletes_no_damaged_checkpoint(refused, workdir):
    """Only a run that is resumed falls back to an older checkpoint."""
    damage(workdir, tiny_run.STEPS[-1])
    arguments = [*tiny_run.ARGUMENTS, "--config.train.steps=24", "--workdir", workdir]
    assert_names(refused(train.main.main, *arguments, unchanged=workdir), "train.steps=24")


@pytest.mark.parametrize(
    "text", ["", "{", '{"sed": 3}', '{"seed": "3"}', '{"train": 3}', "\x00\xff"]
)
@pytest.mark.parametrize("program", [train.main, train.evaluate])
def test_config_json_damaged(refused, workdir, text, program):
    (workdir / "config.json").write_bytes(text.encode("latin-1"))
    arguments = tiny_run.ARGUMENTS if program is train.main else []
    message = refused(program.main, *arguments, "--workdir", workdir, unchanged=workdir)
    assert_names(message, workdir / "config.json")


def test_all_checkpoints_damaged(refused, workdir):
    for step in tiny_run.STEPS:
        damage(workdir, step)
    arguments = [*tiny_run.ARGUMENTS, "--workdir", workdir]
    message = refused(train.main.main, *arguments, unchanged=workdir)
    assert_names(message, "checkpoint 9", "none of 2 checkpoints is whole; put back a copy")


def test_a_renamed_checkpoint_is_not_deleted(refused, workdir):
    """It looks damaged, but it is valid, and the user may need it."""
    folder = workdir / "checkpoints"
    (folder / "9").rename(folder / "10")
    before = files(workdir)
    message = refused(train.main.main, *tiny_run.ARGUMENTS, "--workdir", workdir)
    assert_names(message, "checkpoint 10", folder, "is the one of step 9: rename", "or move it")
    (folder / "8").rename(folder / "9")
    message = refused(train.main.main, *tiny_run.ARGUMENTS, "--workdir", workdir)
    assert_names(message, "is the one of step 8")
    (folder / "9").rename(folder / "8")
    assert files(workdir) == before


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["--checkpoint=999"], ["'999'", "8, 9", "latest"]),
        (["--checkpoint=nonsense"], ["'nonsense'", "8, 9", "latest"]),
        (["--checkpoint=-1"], ["'-1'", "8, 9"]),
        (["--checkpoint="], ["''", "8, 9"]),
        (["--split=nonsense"], ["--split", "nonsense", "'train', 'valid', 'test'"]),
        (["--split"], ["--split"]),
        (["--data-path=x.npz"], ["x.npz"]),
        (["--checkpoints=best"], ["--checkpoints"]),
        (["stray"], ["stray"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_evaluate(refused, workdir, arguments, culprits):
    message = refused(train.evaluate.main, "--workdir", workdir, *arguments, unchanged=workdir)
    assert_names(message, *culprits)


def test_evaluate_without_workdir(refused):
    assert_names(refused(train.evaluate.main), "--workdir", "required")


@pytest.mark.parametrize("kind", ["absent", "empty", "file", "no checkpoints", "no steps"])
def test_evaluate_a_folder_without_a_run(refused, finished, tmp_path, kind):
    folder = tmp_path / "run"
    if kind == "file":
        folder.write_text("precious")
    elif kind != "absent":
        folder.mkdir()
    if kind.startswith("no "):
        shutil.copy(finished / "config.json", folder)
    if kind == "no steps":
        (folder / "checkpoints").mkdir()
    assert_names(refused(train.evaluate.main, "--workdir", folder, unchanged=folder), folder)
    assert folder.exists() == (kind != "absent")


def test_evaluate_without_a_valid_split(refused, workdir):
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    config["data"]["valid_examples"] = 0
    tiny_run.set_config(workdir, config)
    arguments = ["--workdir", workdir, "--split=valid"]
    message = refused(train.evaluate.main, *arguments, unchanged=workdir)
    assert_names(message, "--split=valid", "the data has only train, test")


def test_evaluate_damaged_checkpoint(refused, workdir):
    newest = tiny_run.STEPS[-1]
    damage(workdir, newest)
    arguments = ["--workdir", workdir, "--checkpoint=latest"]
    message = refused(train.evaluate.main, *arguments, unchanged=workdir)
    assert_names(message, f"checkpoint {newest}", workdir, "damaged")


def damage(workdir, step):
    """Flips a bit in the middle of a checkpoint's largest file, which holds weights."""
    folder = workdir / "checkpoints" / str(step)
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["--config.train.epoch=3"], ["did you mean train.epochs?"]),
        (["--config.data.valid_examples=1440"], ["data.valid_examples=1440"]),
        (["--workdir=used"], ["--workdir=used", "another process"]),
        (["--config=none.py"], ["none.py", "get_config() must return"]),
    ],
    ids=["before JAX is imported", "after", "a second process", "a config file"],
)
def test_in_another_process(tmp_path, arguments, culprits):
    """Nothing else, such as a library's log, is written to stderr."""
    (tmp_path / "used").mkdir()
    (tmp_path / "none.py").write_text("def get_config():\n    pass\n")
    if "--config=none.py" not in arguments:
        arguments = [DIGITS, *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "used" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = subprocess.run(
            [sys.executable, "-m", "train.main", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert_names(complaint(ended.returncode, ended.stderr), *culprits)


def test_a_config_with_other_array_shapes_than_the_checkpoints(refused, workdir):
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["width_multiplier"] = 0.125
    tiny_run.set_config(workdir, config)
    message = refused(train.evaluate.main, "--workdir", workdir)
    assert_names(message, "its arrays are not those of this config", "block1_1")
    assert len(message) < 400


@pytest.mark.parametrize(
    ("name", "value"), [("bn_momentum", 0.5), ("bn_epsilon", 0.1), ("image_size", 16)]
)
def test_a_config_with_other_values_than_the_checkpoints(refused, workdir, tmp_path, name, value):
    """All arrays keep their shapes, so the network would load and be worse without an error."""
    config = json.loads((workdir / "config.json").read_text())
    was, config["model"][name] = config["model"][name], value
    (workdir / "config.json").write_text(json.dumps(config))
    picture = tmp_path / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    changed = [f"--config.model.{name}={value}"]
    for program, *arguments in (
        (train.evaluate.main, "--workdir", workdir),
        (train.predict.main, "--workdir", workdir, picture),
        (train.export.main, "--workdir", workdir, "--out", tmp_path / "out"),
        (train.report.main, workdir, "--out", tmp_path / "out"),
        (train.main.main, *tiny_run.ARGUMENTS, *changed, "--workdir", workdir),
    ):
        message = refused(program, *arguments)
        assert_names(message, workdir / "config.json", f"model.{name} is {value!r}", repr(was))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_config_still_loads(workdir):
    """Earlier versions wrote such checkpoints."""
    tiny_run.change_records(workdir, lambda proven: proven["record"].pop("config"))
    assert googlenet_jax.load(str(workdir)).record.config == {}


def test_checkpoints_that_are_a_file(refused, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    assert_names(refused(train.main.main, DIGITS, "--workdir", tmp_path), tmp_path)


def test_an_evaluation_that_cannot_be_written(refused, workdir):
    (workdir / f"evaluation_test_{tiny_run.STEPS[-1]}.json").mkdir()
    arguments = ["--workdir", workdir, "--checkpoint", tiny_run.STEPS[-1]]
    assert_names(refused(train.evaluate.main, *arguments), "evaluation_test", "cannot be written")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
def test_a_folder_that_is_not_a_run(refused, tmp_path, name):
    """For example an export, whose config.json would be overwritten."""
    (tmp_path / name).write_text("{}")
    arguments = [*tiny_run.ARGUMENTS, "--workdir", tmp_path]
    message = refused(train.main.main, *arguments, unchanged=tmp_path)
    assert_names(message, tmp_path, f"holds {name} but no run; choose another")


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "summary.json", "curves.png", ".config.json.tmp", ".lock"]
)
def test_a_folder_or_pipe_in_the_place_of_a_file(refused, workdir, name):
    """The run is refused before it trains."""
    (workdir / name).unlink(missing_ok=True)
    (workdir / name).mkdir()
    assert_names(refused(train.main.main, *tiny_run.ARGUMENTS, "--workdir", workdir), name)
    (workdir / name).rmdir()
    os.mkfifo(workdir / name)
    assert_names(refused(train.main.main, *tiny_run.ARGUMENTS, "--workdir", workdir), name)


def test_a_refused_start_leaves_nothing(refused, tmp_path):
    arguments = ["--config.data.path=/not/there", "--workdir", tmp_path / "a" / "b"]
    refused(train.main.main, "--config=cifar10", *arguments)
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    refused(train.main.main, "--config=cifar10", *arguments[:-1], tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_run_without_checkpoints_starts_again(workdir):
    """So does a run that was killed before its first checkpoint."""
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()
    with lock(workdir):
        pass
    assert (workdir / "config.json").exists()


def test_a_lock_file_that_is_removed_still_locks(tmp_path, monkeypatch):
    """Another process removes .lock after it is opened and before it is locked."""
    flock, removed = fcntl.flock, []

    def remove_first(file, how):
        if not removed:
            removed.append((tmp_path / "run" / ".lock").unlink())
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with lock(tmp_path / "run"):
        with pytest.raises(UserError, match="another process"), lock(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / "checkpoints").is_dir()


def test_a_pipe_or_link_where_a_file_is_first_written(tmp_path):
    """A pipe would block, and a link leads to another file."""
    (tmp_path / "mine").write_text("precious")
    os.mkfifo(tmp_path / ".one.json.tmp")
    (tmp_path / ".two.json.tmp").symlink_to(tmp_path / "mine")
    for name in ("one.json", "two.json"):
        fileio.write_json(tmp_path / name, 1)
        assert fileio.read_json(tmp_path / name) == 1
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_folder_among_the_event_files_is_kept(tmp_path):
    (tmp_path / "events.out.tfevents.mine").mkdir()
    with TensorBoard(tmp_path, []):
        pass
    assert (tmp_path / "events.out.tfevents.mine").is_dir()


def test_a_workdir_that_is_a_link_to_itself(refused, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for program, *arguments in (
        (train.main.main, *tiny_run.ARGUMENTS, "--workdir", loop),
        (train.evaluate.main, "--workdir", loop),
        (train.export.main, "--workdir", loop, "--out", tmp_path / "out"),
        (train.report.main, loop, "--out", tmp_path / "out"),
    ):
        assert_names(refused(program, *arguments), loop)
    assert list(tmp_path.iterdir()) == [loop]


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda proven: proven["record"]["dataset"].pop("mean"), "does not describe images"),
        (
            lambda proven: proven["record"]["dataset"].update(class_names=[3]),
            "does not describe images",
        ),
        (lambda proven: proven["record"].update(config={"model": 3}), "model=3"),
        (lambda proven: proven["leaves"].update(x=3), "digests"),
        (lambda proven: proven["record"]["history"][0].update(seconds="x"), "no history"),
    ],
    ids=["no mean", "class 3", "config", "leaf", "seconds"],
)
def test_an_impossible_record_with_right_checksums(refused, workdir, tmp_path, change, culprit):
    """Checksums detect damage, but not wrong content that was written on purpose."""
    tiny_run.change_records(workdir, change)
    message = refused(train.report.main, workdir, "--out", tmp_path / "page")
    assert_names(message, workdir, culprit)
