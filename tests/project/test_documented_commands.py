"""Runs every command and every Python block of the README and docs/, on small data.

Each line is run unchanged, in a folder that holds only the files it names; overrides are only
appended. The network is `Small` unless a line needs GoogLeNet. Lines that CI cannot run carry a
comment (`MARK`); lines that `.ci/run` itself runs are in `BY_CI`.
"""

import functools
import importlib
import inspect
import io
import itertools
import os
import re
import shlex
import shutil
import sys
import tomllib
import types
from pathlib import Path

import cifar_files
import jax
import numpy as np
import parity
import picture_files
import pytest
import tiny_run
import yaml
from flax import nnx
from PIL import Image

import train.export
import train.main
from googlenet_jax import models
from googlenet_jax.__main__ import programs
from googlenet_jax.config import Config
from googlenet_jax.errors import UserError
from googlenet_jax.models.layers import Linear, Unit
from googlenet_jax.storage import pretrained
from googlenet_jax.storage.workdir import read_config
from train import flags
from train.cluster import Place

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(
    r"# needs (a GPU|a TPU|the network|Docker|SLURM|a spot machine|several processes)$"
)
UNKNOWN = f"neither run nor marked by {MARK.pattern!r}"
OPERATORS = "&|<>;"
BY_CI = {
    *("python3 -m venv .venv", "source .venv/bin/activate", ".ci/run", "mypy"),
    *(".venv/bin/pytest -n 2", "pytest -n 2", "ruff check .", "ruff format --check ."),
}
SHORT = [
    *("--config.train.steps=2", "--config.train.batch_size=4", "--config.eval.batch_size=20"),
    "--config.data.unofficial=True",
]
EXPERIMENTS = {
    "train.reproduce": ["--rows=8", "--seeds=0"],
    "benchmarks.reproduce_torch": ["--rows=8", "--seeds=0"],
    "benchmarks.recipes": ["--arms=row 8", "--seeds=0"],
    "benchmarks.question": ["--arms=row 8", "--seeds=0"],
}
SMALLER = [
    *("--config.data.max_train_examples=40", "--config.train.epochs=1"),
    *("--config.train.batch_size=20", "--config.eval.batch_size=20"),
]
MAKES_WORKDIR = {"train.main", "train.import_torch", "train.contact_sheet"}
NEEDS_GOOGLENET = {"train.import_torch", "train.export_torch", "examples.to_onnx"}
NEEDS_TORCH = {"benchmarks.compare", "benchmarks.gpu", "benchmarks.reproduce_torch", "parity"}


def blocks(language):
    """Yields (page, code) for each code block in a language."""
    for page in PAGES:
        for block in page.read_text().split("```")[1::2]:
            name, _, code = block.partition("\n")
            if name == language:
                yield page, code


def documented_lines():
    """Returns each distinct command line once, with continued lines joined."""
    found = {}
    for page, code in blocks("sh"):
        for line in code.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                found.setdefault(line, pytest.param(line, id=f"{page.stem}: {line}"))
    return found.values()


def documented_blocks():
    return [
        pytest.param(code, id=f"{page.stem}: {code.splitlines()[0]}")
        for page, code in blocks("python")
    ]


def commands(line):
    """Splits a line at "&&" into commands, each a list of words; drops comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=OPERATORS)
    lexer.whitespace_split = True
    grouped = itertools.groupby(lexer, lambda word: word == "&&")
    return [list(words) for is_and, words in grouped if not is_and]


class Small(nnx.Module):
    """A convolution and a classifier, which compile quickly."""

    averaged = "conv1"

    def __init__(self, config, image_shape, num_classes):
        self.conv1 = Unit(image_shape[2], 4, 3, config)
        self.dropout = nnx.Dropout(0.4)
        self.fc = Linear(4, num_classes, config)

    def __call__(self, x, *, train, key=None):
        x = self.conv1(x, train).mean(axis=(1, 2))
        return self.fc(self.dropout(x, deterministic=True)), ()


@pytest.fixture(scope="module")
def googlenet_run(tmp_path_factory):
    return tiny_run.make(tmp_path_factory, tiny_run.GOOGLENET)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The working directory of a run; its export is in the folder beside it."""
    workdir = tmp_path_factory.mktemp("small") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", Small)
        train.main.main(["--config=digits", *SHORT, f"--workdir={workdir}"])
        train.export.main([f"--workdir={workdir}", f"--out={workdir.with_name('export')}"])
    return workdir


# These make the files that the pages name. `run()` returns the working directory of a run.


def copy_of_run(path, run, seed=0):
    shutil.copytree(run(), path)
    config = read_config(path)
    config.seed = seed
    tiny_run.set_config(path, config.to_dict())


def export(path, run):
    shutil.copytree(run().with_name("export"), path)


def picture(path, run):
    Image.new("RGB", (40, 30), "orange").save(path)


def pictures(path, run):
    path.mkdir()
    picture(path / "a.png", run)
    picture(path / "b.jpg", run)


def samples(path, run):
    shutil.copytree(pretrained.FOLDER / "digits" / "samples", path)


def list_of_pictures(path, run):
    picture(path.with_name("c.jpg"), run)
    path.write_text("c.jpg\n")


def torch_checkpoint(path, run):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_networks import GoogLeNet

    torch.save({"net": GoogLeNet(10, 1 / 16).state_dict(), "acc": 10.0, "epoch": 0}, path)


def torchvision_weights(path, run):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_networks import GoogLeNet

    torch.save(GoogLeNet(1000, 1 / 16, **parity.TORCHVISION).state_dict(), path)


def run_on_pictures(path, run):
    folder = picture_files.plain_folder(path.parent / "others", {"ant": 4, "bee": 4})
    arguments = [f"--config.data.path={folder}", "--config.train.init_from=", f"--workdir={path}"]
    train.main.main(["--config=folder", *SHORT[:3], *arguments])


def folder_of_pictures(path, run):
    picture_files.plain_folder(path, {"cat": 9, "dog": 6, "eel": 8})


def csv_of_pictures(path, run):
    folder = path.with_name("train_images")
    folder.mkdir()
    rows = [f"{number},{'cat' if number % 3 else 'dog'}" for number in range(12)]
    for number in range(12):
        (folder / f"{number}.png").write_bytes(picture_files.plain(number))
    path.write_text("\n".join(["id,breed", *rows]))


def prepared_imagenet(path, run):
    splits = {
        split: [(picture_files.plain(number), number) for number in range(size)]
        for split, size in (("train", 9), ("validation", 4))
    }
    picture_files.prepare(path, "imagenet2012", splits, [f"n{i:08d}" for i in range(1000)])


def config_file(path, run):
    (code,) = (code for _, code in blocks("python") if code.startswith(f"# {path.name}\n"))
    path.write_text(code)


def archive(path, run):
    cifar_files.write_archive(path, cifar_files.random_members(40)[0])


FILES = {
    "runs/digits": copy_of_run,
    "runs/cifar10": copy_of_run,
    "runs/folder": copy_of_run,
    "runs/slower": functools.partial(copy_of_run, seed=1),
    "exports/cifar10": export,
    "googlenet_jax/storage/pretrained/digits/samples": samples,
    "photo.jpg": picture,
    "holiday": pictures,
    "scans": pictures,
    "list.txt": list_of_pictures,
    "scans/*.jpg": lambda path, run: picture(path.with_name("d.jpg"), run),
    "ckpt.pth": torch_checkpoint,
    "mine.py": config_file,
    "cifar-10-binary.tar.gz": archive,
    "googlenet-1378be20.pth": torchvision_weights,
    "runs/torchvision": run_on_pictures,
    "runs/animals": copy_of_run,
    "photos": folder_of_pictures,
    "animals": folder_of_pictures,
    "train.csv": csv_of_pictures,
    "tensorflow_datasets": prepared_imagenet,
}


class Shell:
    """Runs commands in this process, in a folder that is empty at first."""

    def __init__(self, folder, request, monkeypatch):
        self.folder, self.request, self.monkeypatch = folder, request, monkeypatch
        monkeypatch.chdir(folder)

    def provide(self, names, googlenet=False):
        """Makes the named files that are in `FILES`."""
        if not googlenet:
            self.monkeypatch.setattr(models, "create", Small)
        for name in names:
            path = self.folder / name
            if name in FILES and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                run = "googlenet_run" if googlenet else "small_run"
                FILES[name](path, functools.partial(self.request.getfixturevalue, run))

    def run(self, line):
        for words in commands(line):
            self.run_command(words)

    def run_command(self, words):
        while re.fullmatch(r"\w+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.monkeypatch.setenv(name, value)
        if words[0] == "taskset":
            words = words[3:]
        if words[-2:-1] == ["<"]:
            self.provide(words[-1:])
            content = io.BytesIO(Path(words[-1]).read_bytes())
            self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
            words = words[:-2]
        match words:
            case _ if any(set(word) <= set(OPERATORS) for word in words):
                pytest.fail(f"{shlex.join(words)}: {UNKNOWN}")
            case ["python" | ".venv/bin/python", "-m", name, *arguments]:
                self.run_program(name, arguments)
            case ["googlenet-jax", "--help"]:
                pass
            case ["googlenet-jax", program, *arguments]:
                self.run_program(programs()[program][0], arguments)
            case ["python", "tests/helpers/parity.py", *arguments]:
                self.run_program("parity", arguments)
            case ["pip" | ".venv/bin/pip", "install", *arguments]:
                check_install([word for word in arguments if not word.startswith("-")])
            case _ if shlex.join(words) not in BY_CI:
                pytest.fail(f"{shlex.join(words)}: {UNKNOWN}")

    def run_program(self, name, arguments):
        """Runs the `main` of a module on small data, after making the files that it reads."""
        if name in NEEDS_TORCH:
            pytest.importorskip("torch")
        if name == "examples.to_onnx":
            pytest.importorskip("onnxscript")
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
        written = {"--out", "--workdir"} if name in MAKES_WORKDIR else {"--out"}
        read = [w for flag, w in itertools.pairwise(["", *arguments]) if flag not in written]
        self.provide(
            [word.rpartition("=")[2].rstrip("/") for word in read],
            googlenet=name in NEEDS_GOOGLENET or arguments[:2] == ["--model", "digits"],
        )
        if name == "train.main" and "--help" not in arguments:
            self.provide([flags.parse(arguments)[0].train.init_from])
        arguments = [*arguments, *made_small(name, arguments)]
        self.monkeypatch.setattr(sys, "argv", [name, *arguments])
        if name.startswith("benchmarks.") or name == "parity":
            self.replace_measurements(module)
        module.main(*[arguments] * len(inspect.signature(module.main).parameters))
        for flag, word in itertools.pairwise(arguments):
            if flag in ("--out", "--workdir", "--json", "--plot"):
                assert Path(word).exists(), f"{flag} {word}: was not written"

    def replace_measurements(self, module):
        """Replaces slow measurements, which are tested elsewhere."""

        def measure(entrants, rounds):
            return [[1.0] * rounds for _ in entrants], [1.0 for _ in entrants]

        def compile_steps(batch_size, dtype):
            return lambda number: None, types.SimpleNamespace(as_text=lambda: "")

        for name, stand_in in {
            "measure": measure,
            "start_up": lambda batch_size: [],
            "table": lambda networks: "",
            "memory_table": lambda batch_sizes: "",
            "BATCHES": 1,
            "WARM_UP": 1,
            "measure_speed": lambda contender, batch_size, limit: 1.0,
            "run_until": lambda deadline, words, output=None: self.run_program(words[0], words[1:]),
            "COMPILERS": {name: ("not_there", name) for name in ("tpu", "cuda")},
        }.items():
            if hasattr(module, name):
                self.monkeypatch.setattr(module, name, stand_in)
        if hasattr(module, "jax_step"):
            self.monkeypatch.setattr(module.jax_step, "compile_steps", compile_steps)


def made_small(name, arguments):
    """Returns the overrides to append to a program's arguments."""
    if name == "train.contact_sheet":
        return ["--config.data.unofficial=True"]
    if name == "tests.fuzz":
        return ["--inputs=1", "--target=overrides"]
    if name in EXPERIMENTS:
        return [*EXPERIMENTS[name], *SMALLER]
    if name != "train.main" or "--help" in arguments:
        return []
    config, _ = flags.parse(arguments)
    return [*SHORT, *["--config.data.valid_examples=20"] * bool(config.data.valid_examples)]


def check_install(requirements):
    """Allows what `.ci/run` installs, the package itself, and its existing extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in requirements:
        if own := re.fullmatch(r"\.(?:\[(\w+)\])?", requirement):
            assert own[1] in (None, *project["optional-dependencies"]), requirement
        else:
            assert f"pip install --quiet {requirement}\n" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture
def shell(tmp_path, request, monkeypatch):
    # CIFAR is looked for here if no path is given.
    manual = Path(os.environ["TFDS_DATA_DIR"], "downloads", "manual")
    manual.mkdir(parents=True)
    archive(manual / "cifar-10-binary.tar.gz", None)
    # Flax's BatchNorm mixes types in bfloat16.
    with jax.numpy_dtype_promotion("standard"):
        yield Shell(tmp_path, request, monkeypatch)


@pytest.mark.parametrize("line", documented_lines())
def test_a_documented_line_runs(line, shell):
    if not MARK.search(line):
        shell.run(line)
        return
    for words in commands(line):
        if words[:3] == ["python", "-m", "train.main"]:
            flags.parse(Place.parse(words[3:])[1])


@pytest.mark.parametrize("code", documented_blocks())
def test_a_documented_block_runs(code, shell):
    """`images` is the only name that a block may leave undefined."""
    shell.provide(re.findall(r'"(\S+)"', code))
    names = {"images": np.zeros((3, 8, 8, 1), np.uint8)}
    exec(code, names)
    if "labels" in names:
        assert names["labels"].shape == (3,)
    elif "predictions" in names:
        best = [ranked[0].probability for ranked in names["predictions"]]
        assert len(best) == 3
        assert min(best) >= 0.1  # of 10 classes
    else:
        assert names["get_config"]().validate() != Config()


def test_quoted_lines_are_in_step_py():
    """Blocks marked "py" quote step.py; "..." stands for omitted lines."""
    source = {line.strip() for line in (ROOT / "googlenet_jax/training/step.py").open()}
    quoted = [line.strip() for _, code in blocks("py") for line in code.splitlines()]
    assert len(quoted) > 30
    assert not {*quoted} - source - {"", "..."}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_known_language(page):
    """Blocks without a language show output, so they must not hold commands."""
    blocks = [block.partition("\n") for block in page.read_text().split("```")[1::2]]
    assert {language for language, _, _ in blocks} <= {"sh", "python", "py", "yaml", ""}
    assert not any("python -m" in code for language, _, code in blocks if not language)


def test_the_kubernetes_manifest_has_valid_arguments():
    ((_, manifest),) = blocks("yaml")
    service, job = yaml.safe_load_all(manifest)
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]]
    place, others = Place.parse(arguments)
    assert place.num_processes == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert place.coordinator.startswith(
        f"{job['metadata']['name']}-0.{service['metadata']['name']}:"
    )
    flags.parse(others)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("make", "neither run nor marked"),
        ("python -m train.main --help | head", "neither run nor marked"),
        ("pip install -e '.[gpu]'", "gpu"),
        ("python -m train.predict --workdirs runs/digits photo.jpg", "--workdir"),
        ("python -m train.main --config digits --config.sed=1", "did you mean seed?"),
        ("python -m train.evaluate --workdir runs/nowhere", "holds no run"),
    ],
)
def test_a_wrong_line_fails(line, complaint, shell):
    with pytest.raises((AssertionError, UserError, pytest.fail.Exception), match=complaint):
        shell.run(line)
