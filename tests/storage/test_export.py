"""An export holds the checkpoint's network, complete and verified."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy
import tiny_run
import yaml

import googlenet_jax
import train.export
from googlenet_jax import data
from googlenet_jax.config import Config, DataConfig
from googlenet_jax.data import DatasetInfo, preprocess
from googlenet_jax.errors import CheckpointError, UserError, printable
from googlenet_jax.storage import export
from googlenet_jax.storage.checkpoint import Record
from googlenet_jax.storage.loading import Model, start_from
from googlenet_jax.storage.proof import canonical, digest
from googlenet_jax.storage.workdir import read_config
from googlenet_jax.training import state
from train import flags

pytestmark = pytest.mark.usefixtures("compiled_quickly")
FILES = {"model.safetensors", "config.json", "model.jaxexport", "README.md"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose config names paths."""
    copy = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(tiny_run.make(tmp_path_factory, tiny_run.GOOGLENET), copy)
    config = read_config(copy)
    config.data.path, config.train.init_from = "/home/me/data", "/home/me/other"
    tiny_run.set_config(copy, config.to_dict())
    return copy


@pytest.fixture(scope="module")
def exported(workdir):
    """An export of the last checkpoint, in a folder that was empty."""
    folder = workdir.parent / "exported"
    folder.mkdir()
    train.export.main(["--workdir", str(workdir), "--checkpoint=latest", "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def trained(workdir):
    """The network that was exported."""
    return googlenet_jax.load(workdir, "latest")


@pytest.fixture(scope="module")
def model(exported):
    return googlenet_jax.load(exported)


@pytest.fixture
def damaged(exported, tmp_path):
    """A copy of the export, to be damaged."""
    return shutil.copytree(exported, tmp_path / "damaged")


@pytest.fixture(scope="module")
def images():
    return data.digits.load("", False).splits["test"].images[:37]


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_the_folder_holds_four_files_and_nothing_is_left_beside_it(workdir, exported):
    assert {path.name for path in exported.iterdir()} == FILES
    assert {path.name for path in workdir.parent.iterdir()} == {"run", "exported"}


def test_logits_are_the_checkpoint_s_to_the_bit(trained, model, images):
    np.testing.assert_array_equal(model.logits(images), trained.logits(images))
    assert model.info == trained.info
    assert int(model.state.step) == int(trained.state.step) == tiny_run.STEPS[-1]
    assert model.record.history == trained.record.history[-1:]
    assert model.record.provenance == trained.record.provenance


def test_the_weights_are_readable_by_their_layers_names(trained, exported):
    tensors = safetensors.numpy.load_file(exported / "model.safetensors")
    expected = trained.state
    leaves = jax.tree.leaves((expected.params, expected.batch_stats))
    assert len(tensors) == len(leaves)
    kernel = expected.params["inception3a"]["conv1x1"]["conv"]["kernel"]
    np.testing.assert_array_equal(tensors["params.inception3a.conv1x1.conv.kernel"], kernel)
    mean = expected.batch_stats["conv1"]["bn"]["mean"]
    np.testing.assert_array_equal(tensors["batch_stats.conv1.bn.mean"], mean)


PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["googlenet_jax", "flax", "optax", "orbax", "PIL"]))
import jax.export, numpy
folder, images = sys.argv[1:]
program = jax.export.deserialize(bytearray(open(f"{folder}/model.jaxexport", "rb").read()))
images = numpy.load(images)
assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
one, all = program.call(images[:1]), program.call(images)
numpy.save(sys.stdout.buffer, numpy.concatenate([one, all]))
"""


def test_the_program_needs_jax_alone(exported, model, images, tmp_path):
    """For batches of one and of many, without this project and its other dependencies."""
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", PROGRAM, exported, tmp_path / "images.npy"]
    output = tmp_path / "logits.npy"
    with output.open("wb") as file:
        subprocess.run(command, stdout=file, check=True, cwd=tmp_path)
    expected = model.logits(images)
    found = np.load(output)
    assert found.shape == (1 + len(images), 10)
    expected = np.concatenate([expected[:1], expected])
    # After nine steps BatchNorm's statistics are poor, and logits go into the thousands.
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_no_path_of_this_machine_is_exported(exported):
    for path in exported.iterdir():
        content = path.read_bytes()
        for secret in (b"/home/me", b"googlenet_jax/", b"site-packages"):
            assert secret not in content, (path, secret)


def test_the_program_holds_no_momentum(exported):
    """The momentum would be a third copy, as large as the parameters."""
    weights, program = (
        (exported / name).stat().st_size for name in ("model.safetensors", "model.jaxexport")
    )
    assert program < 1.5 * weights + 100_000


def test_figures_and_provenance_are_the_run_s(workdir, exported):
    values = config_of(exported)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert values["metrics"] == last
    assert values["provenance"]["data"]["official"]
    assert values["provenance"]["data"]["sha256"] == data.digits.SHA256
    assert values["provenance"]["training"]["versions"]["jax"] == jax.__version__
    assert values["config"]["train"]["init_from"] == "other"
    card = (exported / "README.md").read_text()
    for text in (
        f"| test accuracy, loss | {last['test_accuracy']:.2%}, {last['test_loss']:.4f} |",
        f"| valid accuracy, loss | {last['valid_accuracy']:.2%}, {last['valid_loss']:.4f} |",
        "latest: step 9, epoch 2 |",
        data.digits.SHA256,
        "8x8 pixels, 1 channel;",
        "mean 0.3052 ",
        "(batch, 8, 8, 1)",
    ):
        assert text in card


def test_no_path_is_left_in_the_settings_of_a_data_set():
    paths = {field: f"/home/me/{field}" for field in ("path", "pictures", "classes")}
    config = export.portable(Config(data=DataConfig(name="folder", **paths)))
    assert "/home/me" not in json.dumps(config.to_dict())
    assert config.data.classes == "classes"


def test_the_hub_reads_the_card_s_metadata(exported, model):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(exported / "README.md")
    assert card.data.library_name == "googlenet_jax"
    assert card.data.pipeline_tag == "image-classification"
    (result,) = card.data.eval_results
    accuracy = model.record.history[-1]["test_accuracy"]
    assert (result.dataset_type, result.metric_type, result.metric_value) == (
        *("digits", "accuracy", accuracy),
    )
    assert card.text.startswith("\n# googlenet on digits")


def test_a_snapshot_of_the_hub_loads(exported, trained, images, tmp_path):
    """The hub's cache has a folder of links to files that are named by their sums."""
    snapshot = tmp_path / "models--me--digits" / "snapshots" / "0123abc"
    (tmp_path / "models--me--digits" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in exported.iterdir():
        blob = f"../../blobs/{digest(path.read_bytes())}"
        shutil.copy(path, snapshot / blob)
        (snapshot / path.name).symlink_to(blob)
    found = googlenet_jax.load(snapshot)
    np.testing.assert_array_equal(found.logits(images), trained.logits(images))


def test_the_card_s_command_starts_the_same_run(exported):
    command = shlex.split(config_of(exported)["provenance"]["command"])
    assert command[:3] == ["python", "-m", "train.main"]
    assert flags.parse(command[3:])[0].to_dict() == config_of(exported)["config"]
    assert shlex.join(command) in (exported / "README.md").read_text()


def test_the_card_says_what_best_was_chosen_on_and_what_is_not_known(workdir, model, tmp_path):
    """Here for a run that was stopped, and so has no summary."""
    stopped = shutil.copytree(workdir, tmp_path / "stopped")
    (stopped / "summary.json").unlink()
    train.export.main(["--workdir", str(stopped), "--out", str(tmp_path / "new" / "out")])
    card = (tmp_path / "new" / "out" / "README.md").read_text()
    assert "the best epoch, chosen on the valid split |" in card
    assert config_of(tmp_path / "new" / "out")["provenance"]["training"] == {}

    config = read_config(stopped)
    environments = {"training": {}, "date": "", "export": {"versions": {}, "device": {"kind": ""}}}
    between = dataclasses.replace(model, state=model.state.replace(step=model.state.step + 1))
    description = export.describe(between, config, "latest", "", environments)
    assert description.metrics == {}
    assert "| accuracy | not measured at this step |" in export.card(description.to_dict(), 1)
    origin = {"source": "/x/net.pth", "sha256": "abc", "official": False, "imported": {"acc": 95.0}}
    imported = dataclasses.replace(
        model, record=dataclasses.replace(model.record, history=[], provenance=origin)
    )
    description = export.describe(imported, config, "best", "", environments)
    card = export.card(description.to_dict(), 1)
    assert "| weights | imported from `net.pth`, sha256 abc, acc 95.0 |" in card
    assert "trained by" not in card


def test_a_folder_in_use_is_refused_and_stays(workdir, exported, tmp_path):
    before = {path: path.read_bytes() for path in exported.iterdir()}
    with pytest.raises(UserError, match="is not empty; choose another"):
        train.export.main(["--workdir", str(workdir), "--out", str(exported)])
    assert {path: path.read_bytes() for path in exported.iterdir()} == before
    (tmp_path / "file").write_text("precious")
    for out in ("file", "file/below"):
        with pytest.raises(UserError, match="cannot be written"):
            train.export.main(["--workdir", str(workdir), "--out", str(tmp_path / out)])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        '{"wall_seconds": 1}',
        '{"wall_seconds": "1", "device": {"kind": "cpu"}, "versions": {}}',
        '{"wall_seconds": 1' + "0" * 400 + ', "device": {"kind": "cpu"}, "versions": {}}',
        '{"wall_seconds": 1, "device": {"kind": 1}, "versions": {}}',
        '{"wall_seconds": 1, "device": {"kind": "cpu"}, "versions": []}',
        "[" * 100_000,
    ],
    ids=["torn", "number", "seconds alone", "time", "long time", "device", "versions", "deep"],
)
def test_a_damaged_summary_is_told(workdir, tmp_path, text):
    broken = shutil.copytree(workdir, tmp_path / "broken")
    (broken / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json: not a summary of a run"):
        train.export.main(["--workdir", str(broken), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.jaxexport"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9])
def test_a_flipped_bit_is_found(damaged, name, place):
    content = bytearray((damaged / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (damaged / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        googlenet_jax.load(damaged)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.jaxexport"])
@pytest.mark.parametrize("kept", [0, 100])
def test_a_torn_file_is_found(damaged, name, kept):
    (damaged / name).write_bytes((damaged / name).read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=name):
        googlenet_jax.load(damaged)


def test_missing_files_are_told(damaged, tmp_path):
    (damaged / "model.jaxexport").unlink()  # loading the weights does not need it
    googlenet_jax.load(damaged)
    (damaged / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is missing; copy the whole"):
        googlenet_jax.load(damaged)
    (tmp_path / "odd" / "config.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: is not a regular"):
        read_config(tmp_path / "odd")
    for absent in ("absent", "x" * 300):
        with pytest.raises(CheckpointError, match="holds no run"):
            googlenet_jax.load(tmp_path / absent)


def rewrite(folder, change):
    """Changes config.json, and its sha256 with it."""
    values = config_of(folder)
    change(values)
    values["sha256"].pop("config.json", None)
    values["sha256"]["config.json"] = digest(canonical(values))
    (folder / "config.json").write_text(json.dumps(values))


def test_a_name_that_stands_twice_is_told(damaged):
    """People see the first one, and JSON readers take the last."""
    path = damaged / "config.json"
    path.write_text(path.read_text().replace('"step": 9', '"step": 7,\n  "step": 9'))
    with pytest.raises(CheckpointError, match="a name twice"):
        googlenet_jax.load(damaged)


def test_nothing_from_a_file_is_markdown(model, workdir, tmp_path):
    """In the model card, with names that anybody may have chosen."""
    hostile = "<script>x</script> ![i](http://e/) `a` | b\n# c\x1b[2J"
    origin = {"source": hostile, "sha256": "0", "official": False, "imported": {hostile: hostile}}
    info = dataclasses.replace(model.info, class_names=(hostile, *"123456789"), name=hostile)
    record = dataclasses.replace(model.record, history=[], provenance=origin)
    changed = dataclasses.replace(model, info=info, record=record)
    environments = {"training": {}, "date": "", "export": {"versions": {}, "device": {"kind": ""}}}
    config = read_config(workdir)
    description = export.describe(changed, config, "best", hostile, environments)
    card = export.card(description.to_dict(), 1)
    assert "\x1b" not in card
    assert "\n# c" not in card
    rows = [line for line in card.splitlines() if "script" in line]
    assert len(rows) == 3  # the title, the weights, the classes
    for row in rows:
        outside = re.sub(r"(`+) ?.*?[^`]\1(?!`)", "", row)  # in code, markup has no effect
        assert not re.search(r"(?<!\\)[<>`\[\]]", outside), outside
    measured = {"test_accuracy": 0.5, "test_loss": 1.0, "epoch": 1}
    card = export.card(dataclasses.replace(description, metrics=measured).to_dict(), 1)
    (result,) = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert result["dataset"]["name"] == printable(hostile)


@pytest.mark.parametrize(
    ("group", "name", "value", "culprit"),
    [
        (None, "format", 2, "format is not 1"),
        (None, "surprise", 1, "surprise"),
        (None, "step", None, "step: must be a whole number"),
        (None, "step", 10**30, "step: must be a whole number"),
        (None, "step", -1, "step: must be a whole number"),
        (None, "metrics", [], "metrics and"),
        ("config", "seed", -1, "seed=-1"),
        ("config", "surprise", 1, "surprise: no such field"),
        ("dataset", "mean", [0.1, 0.2], "does not describe images"),
        ("dataset", "std", [0.0], "does not describe images"),
        ("dataset", "std", ["1"], "does not describe images"),
        ("dataset", "image_shape", [8, 8], "does not describe images"),
        ("dataset", "image_shape", [10**6, 10**6, 1], "does not describe images"),
        ("dataset", "center_crop", 1.5, "does not describe images"),
        ("dataset", "center_crop", -5, "does not describe images"),
        ("dataset", "class_names", [], "does not describe images"),
        ("dataset", "class_names", [1, 2], "does not describe images"),
        ("dataset", "surprise", 1, "surprise"),
        ("dataset", "name", None, "does not describe images"),
        ("provenance", "data", None, "data"),
    ],
)
def test_config_json_is_read_strictly(damaged, group, name, value, culprit):
    def change(values):
        (values[group] if group else values)[name] = value

    rewrite(damaged, change)
    with pytest.raises(CheckpointError, match=culprit) as caught:
        googlenet_jax.load(damaged)
    assert str(damaged) in str(caught.value)


NO_CONFIGS = {
    "empty": b"",
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "text": b'"text"',
    "format alone": b'{"format": 1}',
    "deep": b"[" * 99999,
    "no text": b"\xff",
}


@pytest.mark.parametrize("kind", NO_CONFIGS)
def test_another_config_json_is_refused(damaged, kind):
    (damaged / "config.json").write_bytes(NO_CONFIGS[kind])
    with pytest.raises(CheckpointError, match=r"config\.json: not an export of this version"):
        googlenet_jax.load(damaged)


def test_weights_of_another_network_are_told(damaged):
    rewrite(damaged, lambda values: values["config"]["model"].update(width_multiplier=0.125))
    with pytest.raises(CheckpointError, match=r"do not fit its config: \d+ differ, first \w+\."):
        googlenet_jax.load(damaged)


def test_an_export_has_no_other_checkpoints(exported):
    with pytest.raises(CheckpointError, match="holds one checkpoint, not 'latest'; leave it out"):
        googlenet_jax.load(exported, "latest")


def test_a_run_starts_from_an_export(exported, model):
    config = Config.from_dict(config_of(exported)["config"])
    fresh = state.initialize(jax.random.key(7), config, data.digits.INFO)
    started, _ = start_from(fresh, str(exported), data.digits.INFO, config.model)
    source = model.state
    for found, expected in zip(
        jax.tree.leaves((started.params, started.batch_stats)),
        jax.tree.leaves((source.params, source.batch_stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    assert int(started.step) == 0


@pytest.mark.parametrize(
    "setting",
    [
        ["--config=cifar10_row1"],
        ["--config=cifar10_row9", "--config.model.depth=11"],
        ["--config=cifar10", "--config.model.dtype=bfloat16", "--config.model.image_size=16"],
    ],
    ids=["7x7 stem, heads", "resnet", "bfloat16, resized"],
)
def test_every_architecture_becomes_a_program(setting):
    """For any batch size, with the network's logits."""
    config, _ = flags.parse([*setting, "--config.model.width_multiplier=0.03"])
    info = DatasetInfo("colours", ("a", "b", "c"), (32, 32, 3), (0.5,) * 3, (0.25,) * 3)
    fresh = state.initialize(jax.random.key(7), config, info)
    program = jax.export.deserialize(
        bytearray(export.serialize(Model(info, fresh, Record([], {}, {}))))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    normalized = preprocess.for_evaluation(info)(jax.device_put(pixels))
    expected = fresh.apply(fresh.params, normalized, train=False)[0]
    np.testing.assert_allclose(program.call(pixels), expected, rtol=1e-4, atol=1e-4)
