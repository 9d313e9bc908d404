"""The fuzzed forms of input: how to make samples, mutate them and read them.

A sample is a folder, of which one file at a time is changed. The `repr` of what a reader returns
must describe everything it read.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz import mutate
from tests.fuzz.mutate import Mutation


@dataclasses.dataclass(frozen=True)
class Target:
    """A form of input.

    Attributes:
      make: Writes the samples, each in its own folder.
      mutations: Mutations by the end of the file's path within the sample.
      read: Reads a sample as the programs do.
      forge: Updates digests and seals after a change, as an attacker would; returns the names
        of the files that it wrote.
      is_proven: True if a digest protects the files, so that every change must be noticed.
      runs_code: True if the input is a program, which may do anything.
      is_file: True if a reader opens the path, which may then be a pipe, a folder or missing.
    """

    make: Callable[[Path], None]
    mutations: Mapping[str, Mutation]
    read: Callable[[Path], Any]
    forge: Callable[[Path], list[str]] | None = None
    is_proven: bool = False
    runs_code: bool = False
    is_file: bool = True


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def sum_of(values: Mapping[str, Any]) -> str:
    """Returns a SHA-256 of named arrays."""
    found = hashlib.sha256()
    for name, value in sorted(values.items()):
        value = np.asarray(value)
        found.update(f"{name} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return found.hexdigest()


def either(*mutations: Mutation) -> Mutation:
    """Applies one of the mutations, chosen at random."""
    return lambda rng, content: rng.choice(mutations)(rng, content)


# Data sets


def read_data(**settings: Any) -> Any:
    from googlenet_jax import data
    from googlenet_jax.config import DataConfig

    found = data.load(DataConfig(unofficial=True, **settings), seed=0)
    if isinstance(found, data.Dataset):
        arrays = {
            f"{split} {part}": getattr(value, part)
            for split, value in found.splits.items()
            for part in ("images", "labels")
        }
    else:
        pictures = [(s, [p[i] for i in range(len(p))]) for s, p in found.splits.items()]
        arrays = {str(split): [p.label for p in values] for split, values in pictures}
    return found.info, sum_of(arrays)


def make_binary(folder: Path) -> None:
    from cifar_files import as_tar, random_members

    members = random_members(records=2)[0]
    write(folder / "packed" / "archive.gz", gzip.compress(as_tar(members), 1, mtime=0))
    for name, content in members.items():
        write(folder / "unpacked" / name, content)


def read_binary(folder: Path) -> Any:
    archive = folder / "archive.gz"
    is_packed = archive.is_symlink() or archive.exists() or not [*folder.glob("*.bin")]
    return read_data(path=str(archive if is_packed else folder))


def make_pickles(folder: Path) -> None:
    from cifar_files import as_pickles, as_python_2, as_tar, random_members

    members = random_members(records=2)[0]
    python_2 = {name.removesuffix(".bin"): as_python_2(c) for name, c in members.items()}
    for version, batches in {"3": as_pickles(members), "2": python_2}.items():
        tar = as_tar(batches)
        write(folder / f"packed {version}" / "archive.gz", gzip.compress(tar, 1, mtime=0))
        for name, content in batches.items():
            write(folder / f"unpacked {version}" / name, content)


def read_pickles(folder: Path) -> Any:
    archive = folder / "archive.gz"
    is_packed = archive.is_symlink() or archive.exists() or not [*folder.glob("*_batch*")]
    return read_data(path=str(archive if is_packed else folder))


def make_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    for name, options in {"plain": {"compression": "none"}, "snappy": {}}.items():
        for split in ("train", "test"):
            images = [encode((32, 32, 3), "PNG", label) for label in range(10)]
            rows = [{"bytes": image, "path": None} for image in images]
            table = pa.table({"img": rows, "label": list(range(10))})
            path = folder / name / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, path, **options)


def read_parquet(folder: Path) -> Any:
    return read_data(path=str(folder), cache=False)


def make_own_pictures(folder: Path) -> None:
    from cifar_files import as_tar

    files = {
        f"{split}/{label}/{number}.png": encode((8, 8, 3), "PNG", number)
        for split in ("train", "test")
        for number, label in enumerate(("cat", "dog", "dog"))
    }
    write(folder / "tar" / "pictures.tar", as_tar(files))
    for name, method in {"zip": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}.items():
        (folder / name).mkdir(parents=True)
        with zipfile.ZipFile(folder / name / "pictures.zip", "w", method) as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    rows = [f"{path[:-4]},{path.split('/')[1]}" for path in files]
    write(folder / "table" / "pictures.csv", "\r\n".join(["id,label", *rows]).encode())
    for path, content in files.items():
        write(folder / "table" / path, content)


def read_own_pictures(folder: Path) -> Any:
    kind = {"deflated": "zip", "table": "csv"}.get(folder.name, folder.name)
    share = 0.3 if kind == "csv" else 0.0
    return read_data(name="folder", path=str(folder / f"pictures.{kind}"), test_share=share)


def make_prepared(folder: Path) -> None:
    from picture_files import prepare

    splits = {
        split: [(encode((8, 8, 3), "PNG", label), label % 2) for label in range(6)]
        for split in ("train", "test")
    }
    for name in ("whole", "stream"):
        prepared = prepare(folder / f"{name}.tmp", "tiny", splits, ["cat", "dog"])
        [found] = prepared.rglob("dataset_info.json")
        shutil.move(found.parent, folder / name)
        shutil.rmtree(prepared)
    # With a fixed image size: such sets need no stream.
    features = folder / "whole" / "features.json"
    values = json.loads(features.read_text())
    values["featuresDict"]["features"]["image"]["image"]["shape"]["dimensions"] = [*"883"]
    features.write_text(json.dumps(values))
    records = sorted((folder / "whole").glob("*array_record*"))
    found = hashlib.sha256(b"".join(path.read_bytes() for path in records)).hexdigest()
    sums = {"archive": "0" * 64, "records": found}
    write(folder / "whole" / "archive.json", json.dumps(sums).encode())


def read_prepared(folder: Path) -> Any:
    return read_data(
        name="tfds:tiny", path=str(folder), cache=False, stream=folder.name == "stream"
    )


# Pictures


def encode(shape: tuple[int, ...], kind: str, seed: int, mode: str = "", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    picture = Image.fromarray(pixels)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


PICTURES = {
    "PNG": ("RGB", "RGBA", "LA", "L", "1", "P", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "1", "P"),
    "GIF": ("P",),
    "TIFF": ("RGB", "F", "I;16"),
    "JPEG2000": ("RGB", "LA"),
    "PPM": ("RGB", "L", "1"),
}


def make_pictures(folder: Path) -> None:
    for kind, modes in PICTURES.items():
        for mode in modes:
            name = f"{kind} {mode}".replace(";", " ")
            options = {} if kind in ("BMP", "GIF", "JPEG2000", "PPM") else {"exif": turned()}
            write(folder / name / "picture", encode((12, 16, 3), kind, 0, mode, **options))
    progressive = encode((12, 16, 3), "JPEG", 1, progressive=True)
    write(folder / "JPEG progressive" / "picture", progressive)
    lossless = encode((12, 16, 3), "WEBP", 1, lossless=True)
    write(folder / "WEBP lossless" / "picture", lossless)
    write(folder / "PNG text" / "picture", png_with_text())


def turned() -> Image.Exif:
    """Returns EXIF data that asks for a rotation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def read_pictures(folder: Path) -> Any:
    from googlenet_jax.data import decoding

    path = folder / "picture"
    whole = decoding.read(path, (8, 8, 3), 0.875)
    part = decoding.read_random_crop(path, (8, 8, 1), np.random.default_rng(0), 0.08)
    return sum_of({"whole": whole, "part": part})


def png_with_text() -> bytes:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 100, zip=True)
    info.add_itxt("Title", "y" * 100)
    return encode((12, 16, 3), "PNG", 2, pnginfo=info)


# Weights


def remember_shapes() -> None:
    """Caches traced networks, because only the code before and after tracing is fuzzed."""
    from googlenet_jax.storage import loading

    if hasattr(loading.abstract_state, "cache_clear"):
        return
    trace = loading.abstract_state
    known: dict[str, Any] = {}

    def abstract_state(config: Any, info: Any) -> Any:
        key = json.dumps([config.to_dict(), info.to_dict()])
        if key not in known:
            known[key] = trace(config, info)
        return known[key]

    abstract_state.cache_clear = known.clear  # type: ignore[attr-defined]
    loading.abstract_state = abstract_state


@functools.cache
def torch_tensors() -> dict[str, np.ndarray]:
    """Returns a state dict of the narrowest GoogLeNet, with the article's names."""
    import jax

    from googlenet_jax.config import Config, ModelConfig
    from googlenet_jax.data.cifar import FORMATS
    from googlenet_jax.storage import loading, torch_weights

    model = ModelConfig(width_multiplier=1 / 64)
    like = loading.abstract_state(Config(model=model), FORMATS["cifar10"].info)
    rng = np.random.default_rng(0)
    params, stats = (
        jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), tree)
        for tree in (like.params, like.batch_stats)
    )
    return torch_weights.export(params, stats, 7, torch_weights.layout_of(params))


def read_torch(folder: Path) -> Any:
    """Does what `train.import_torch` does, but writes nothing."""
    from googlenet_jax.storage import loading, torch_weights
    from train import flags

    remember_shapes()
    name = "net.safetensors" if folder.name == "safetensors" else "net.pth"
    file = torch_weights.read(folder / name)
    found, info = torch_weights.describe(file, True)
    config, _ = flags.apply(found, [])
    like = loading.abstract_state(config, info)
    params, stats, steps = torch_weights.import_into(like.params, like.batch_stats, file)
    like.with_weights(steps, params, stats)
    leaves = dict(torch_weights._leaves({"params": params, "batch_stats": stats}))
    return config, info, steps, file.extra, sum_of({str(path): leaves[path] for path in leaves})


def make_torch(folder: Path, new: bool) -> None:
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in torch_tensors().items()}
    for name, value in {
        "bare": tensors,
        "nested": {"net": tensors, "acc": 95.16, "epoch": 3},
        "bfloat16": {n: v.bfloat16() if v.is_floating_point() else v for n, v in tensors.items()},
    }.items():
        file = io.BytesIO()
        torch.save(value, file, _use_new_zipfile_serialization=new)
        write(folder / name / "net.pth", file.getvalue())


def make_safetensors(folder: Path) -> None:
    import safetensors.numpy

    content = safetensors.numpy.save(torch_tensors(), {"format": "pt"})
    write(folder / "safetensors" / "net.safetensors", content)


def read_safetensors(folder: Path) -> Any:
    return read_torch(folder / "net.safetensors")


# Exports


def read_export(folder: Path) -> Any:
    from googlenet_jax.storage import loading

    remember_shapes()
    found = loading.load_model(str(folder), "best")
    return found.info, found.record, sum_of_state(found.state)


def sum_of_state(state: Any) -> str:
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return sum_of({jax.tree_util.keystr(path): leaf for path, leaf in leaves})


def make_export(folder: Path) -> None:
    import jax

    from googlenet_jax.config import Config, DataConfig, ModelConfig
    from googlenet_jax.data import digits
    from googlenet_jax.storage import export, loading
    from googlenet_jax.storage.checkpoint import Record
    from googlenet_jax.storage.summary import environment

    model = ModelConfig(name="preact_resnet", depth=11, width_multiplier=0.0625)
    config = Config(model=model, data=DataConfig(name="digits"))
    like = loading.abstract_state(config, digits.INFO)
    rng = np.random.default_rng(0)
    params, stats = (
        jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), tree)
        for tree in (like.params, like.batch_stats)
    )
    state = like.with_weights(9, params, stats)
    metrics = {"epoch": 1, "step": 9, "test_accuracy": 0.5, "test_loss": 1.5, "seconds": 1.0}
    provenance = {"source": "digits", "sha256": "0" * 64, "official": True}
    record = Record([metrics], digits.INFO.to_dict(), provenance, config=config.to_dict())
    network = loading.Model(digits.INFO, state, record)
    environments = {"training": {}, "date": "2026-11-27", "export": environment()}
    described = export.describe(network, config, "best", "python -m train.main", environments)
    export.write(folder / "export", network, described)


UNFIT = (OSError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def forge_export(folder: Path) -> list[str]:
    """Recomputes the digests for the changed files."""
    from googlenet_jax.storage import export
    from googlenet_jax.storage.proof import canonical, digest

    path = folder / export.CONFIG
    try:
        values = json.loads(path.read_bytes())
        values["sha256"] = {
            name: digest((folder / name).read_bytes()) for name in (export.WEIGHTS, export.PROGRAM)
        }
        values["sha256"][export.CONFIG] = digest(
            canonical({**values, "sha256": dict(values["sha256"])})
        )
        path.write_text(json.dumps(values))
    except UNFIT:
        return []
    return [export.CONFIG]


# Runs


@functools.cache
def tiny_state() -> Any:
    import tiny

    return tiny.make_state()


@contextlib.contextmanager
def tiny_network() -> Iterator[Any]:
    """Replaces the network of every config by `tiny`'s."""
    import jax

    from googlenet_jax.storage import loading

    loading.PAUSE_SECONDS = 0.0  # waiting does not repair damage
    before = loading.abstract_state
    shapes = jax.eval_shape(tiny_state)
    loading.abstract_state = lambda config, info: shapes
    try:
        yield
    finally:
        loading.abstract_state = before


def make_run(folder: Path) -> None:
    from googlenet_jax.config import Config, DataConfig
    from googlenet_jax.data import digits
    from googlenet_jax.storage import workdir
    from googlenet_jax.storage.checkpoint import Checkpoints, Record
    from googlenet_jax.storage.proof import SEAL
    from googlenet_jax.storage.summary import summarize

    config = Config(data=DataConfig(name="digits"))
    state = tiny_state()
    history = [
        {
            **{"epoch": epoch, "step": epoch, "learning_rate": 0.1, "seconds": 1.5},
            **{"train_loss": 2.0, "train_accuracy": 0.5, "images_per_second": 100.0},
            **{"valid_loss": 2.0, "valid_accuracy": 0.5, "valid_top5_accuracy": 0.75},
            **{"test_loss": 2.0, "test_accuracy": 0.5, "test_top5_accuracy": 0.75},
            **{"grad_norm": 1.0, "param_norm": 2.0, "update_norm": 0.1},
        }
        for epoch in (1, 2)
    ]
    provenance = {"source": "digits", "sha256": "0" * 64, "official": True}
    record = Record(history, digits.INFO.to_dict(), provenance, config=config.to_dict())
    run = folder / "sealed"
    (run / workdir.CHECKPOINTS).mkdir(parents=True)
    with Checkpoints(run / workdir.CHECKPOINTS) as checkpoints:
        checkpoints.save(state, record, {"accuracy": 0.5, "loss": 2.0})
    workdir.write_config(run, config)
    workdir.write_metrics(run, history)
    summary = summarize(config, record, 100)
    write(run / "summary.json", json.dumps(summary, indent=2).encode())
    shutil.copytree(run, folder / "unsealed")
    for seal in (folder / "unsealed").rglob(SEAL):
        seal.unlink()


def read_run(folder: Path) -> Any:
    from googlenet_jax.report import runs
    from googlenet_jax.storage import loading

    with tiny_network():
        found = loading.load_run(folder, "best")
        run = runs.read_run(folder, "a")
    state = sum_of_state(found.state)
    return found.info, found.record, state, run.best, run.final, run.seconds, run.settings


def forge_run(folder: Path) -> list[str]:
    """Recomputes the record's digest and the seal for the changed files."""
    from googlenet_jax.storage import proof

    checkpoints = folder / "checkpoints"
    written = []
    for step in checkpoints.iterdir():
        path = step / "_CHECKPOINT_METADATA"
        with contextlib.suppress(*UNFIT):
            values = json.loads(path.read_bytes())
            proven = values["custom_metadata"]
            proven.pop("digest", None)
            proven["digest"] = proof.digest(proof.canonical(proven))
            path.write_text(json.dumps(values))
            written.append(path)
        if (step / proof.SEAL).exists():
            with contextlib.suppress(OSError):
                proof.seal(step)
                written.append(step / proof.SEAL)
    return [str(path.relative_to(folder)) for path in written]


def read_run_json(folder: Path) -> Any:
    from googlenet_jax.report import runs
    from train import export

    with proven_record(folder):
        found = runs.read_run(folder, "a")
        environment = export.training_environment(folder)
    return found, found.settings, environment


@contextlib.contextmanager
def proven_record(folder: Path) -> Iterator[None]:
    """Skips opening the checkpoints, which are undamaged here and slow to open."""
    from googlenet_jax.report import runs

    before = runs.read_checkpoints
    runs.read_checkpoints = lambda workdir, read: read(known_checkpoints(workdir))
    try:
        yield
    finally:
        runs.read_checkpoints = before


@functools.cache
def known_checkpoints(folder: Path) -> Any:
    from googlenet_jax.storage import checkpoint, loading

    def read(checkpoints: Any) -> Any:
        step = checkpoints.resolve("best")
        return step, checkpoints.read_record(step)

    step, record = loading.read_checkpoints(folder, read)
    stand_in: Any = object.__new__(checkpoint.Checkpoints)
    stand_in.resolve, stand_in.read_record = lambda name: step, lambda step: record
    return stand_in


# Configs


def make_configs(folder: Path) -> None:
    from train import flags

    for name, path in flags.shipped_configs().items():
        write(folder / name / "config.py", path.read_bytes())


def read_configs(folder: Path) -> Any:
    from train import flags

    return flags.parse(["--config", str(folder / "config.py"), "--workdir=x"])


def make_overrides(folder: Path) -> None:
    lines = {
        "short": ["--config=cifar10"],
        "usual": ["--config", "digits", "--workdir", "runs/a", "--config.train.steps=9"],
        "long": [
            *("--config=cifar10", "--config.seed=1", "--config.model.width_multiplier=0.5"),
            *("--config.optimizer.schedule=step", "--config.optimizer.decay_at=0.5,0.75"),
            *("--config.data.flip=False", "--config.data.path", "a b"),
        ],
    }
    for name, arguments in lines.items():
        write(folder / name / "arguments.json", json.dumps(arguments).encode())


def read_overrides(folder: Path) -> Any:
    from train import cluster, flags

    place, rest = cluster.Place.parse(json.loads((folder / "arguments.json").read_bytes()))
    return place, flags.parse(rest)


# The fuzzer itself: a reader that does everything a reader must not do


KINDS = (
    *("same", "changed", "refused", "traceback", "slow", "hung", "memory", "died", "noisy"),
    "ran code",
)


def make_itself(folder: Path) -> None:
    write(folder / "sample" / "file", b"same")


def choose_itself(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(KINDS).encode()


def read_itself(folder: Path) -> Any:
    import os
    import subprocess

    from googlenet_jax.errors import DataError

    kind = (folder / "file").read_text()
    if kind == "refused":
        raise DataError("no")
    if kind == "traceback":
        raise KeyError("no")
    if kind == "slow":
        while True:
            pass
    if kind == "hung":
        hang_in_c()
    if kind == "memory":
        bytes(2**31)
    if kind == "died":
        os.abort()
    if kind == "noisy":
        os.write(2, b"look\n")
        return "same"
    if kind == "ran code":
        subprocess.run(["true"], check=True)
    return kind


def hang_in_c() -> None:
    """Blocks the signals of the time limits, so that only the watchdog can end it."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGPROF])
    time.sleep(600)


# All of them


PICKLE = mutate.inside_gzip(mutate.inside_tar(mutate.change_pickle))
EXPORTED = {
    "config.json": mutate.change_json,
    "model.safetensors": either(mutate.damage, mutate.header(mutate.change_json)),
}
# The slowest first, so that no job ends with one of them.
TARGETS = {
    "checkpoints": Target(
        make_run,
        {
            **{"_CHECKPOINT_METADATA": mutate.change_json, "seal.json": mutate.change_json},
            **{"_METADATA": mutate.change_json, "_sharding": mutate.change_json},
            **{"process_0": mutate.change_json, "commit_success.txt": mutate.damage},
            **{"manifest.ocdbt": mutate.damage, "/d/": mutate.damage},
        },
        read_run,
        is_proven=True,
    ),
    "checkpoints-forged": Target(
        make_run, {"_CHECKPOINT_METADATA": mutate.change_json}, read_run, forge_run
    ),
    "cifar-binary": Target(
        make_binary,
        {
            "archive.gz": either(
                mutate.damage,
                mutate.inside_gzip(mutate.damage),
                mutate.inside_gzip(mutate.inside_tar(mutate.damage)),
            ),
            ".bin": mutate.damage,
        },
        read_binary,
    ),
    "cifar-pickle": Target(
        make_pickles,
        {
            "archive.gz": either(mutate.inside_gzip(mutate.damage), PICKLE, PICKLE),
            "": mutate.change_pickle,
        },
        read_pickles,
    ),
    "parquet": Target(make_parquet, {".parquet": mutate.damage}, read_parquet),
    "own pictures": Target(
        make_own_pictures,
        {
            ".tar": either(mutate.damage, mutate.inside_tar(mutate.damage)),
            **{".zip": mutate.damage, ".csv": mutate.damage, ".png": mutate.damage},
        },
        read_own_pictures,
    ),
    "tfds": Target(
        make_prepared,
        {
            "features.json": either(*[mutate.change_json] * 4, mutate.change_module),
            ".json": mutate.change_json,
            "labels.txt": mutate.damage,
            "-00001": mutate.damage,  # the records
        },
        read_prepared,
    ),
    "pictures": Target(
        make_pictures, {"": either(mutate.damage, mutate.change_png)}, read_pictures
    ),
    "pth-old": Target(
        functools.partial(make_torch, new=False), {".pth": mutate.change_pickle}, read_torch
    ),
    "pth-new": Target(
        functools.partial(make_torch, new=True),
        {
            ".pth": either(
                mutate.damage,
                mutate.inside_zip({"data.pkl": mutate.change_pickle}),
                mutate.inside_zip(
                    {
                        **{"data.pkl": mutate.damage, "/0": mutate.damage},
                        **{"byteorder": mutate.damage, "version": mutate.damage},
                    }
                ),
            )
        },
        read_torch,
    ),
    "safetensors": Target(
        make_safetensors,
        {".safetensors": either(mutate.damage, mutate.header(mutate.change_json))},
        read_torch,
    ),
    "exports": Target(
        make_export,
        {**EXPORTED, "model.jaxexport": mutate.damage, "README.md": mutate.damage},
        read_export,
        is_proven=True,
    ),
    "exports-forged": Target(make_export, EXPORTED, read_export, forge_export),
    "run-json": Target(
        make_run,
        {
            "config.json": mutate.change_json,
            "summary.json": mutate.change_json,
        },
        read_run_json,
    ),
    "configs": Target(make_configs, {".py": mutate.change_python}, read_configs, runs_code=True),
    "overrides": Target(
        make_overrides, {".json": mutate.change_arguments}, read_overrides, is_file=False
    ),
}
ITSELF = Target(make_itself, {"file": choose_itself}, read_itself, is_proven=True, is_file=False)


def find(name: str) -> Target:
    """A target by its name."""
    return ITSELF if name == "itself" else TARGETS[name]
