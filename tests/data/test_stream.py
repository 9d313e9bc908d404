"""Streams: which pictures a batch holds, how they are cropped, and pictures that are damaged."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shutil
from pathlib import Path

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import picture_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import numbers, plain_folder

from googlenet_jax import data, parallel
from googlenet_jax.config import Config, DataConfig
from googlenet_jax.data import Split, decoding, index, preprocess
from googlenet_jax.errors import DataError
from googlenet_jax.training import feeds, state, step
from googlenet_jax.training.state import Keys

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIZES = {"cat": 9, "dog": 6, "eel": 8}  # 23 training pictures
ALL = range(sum(SIZES.values()))


def load(path, seed=0, **fields):
    return data.load(DataConfig(name="folder", path=str(path), crop_size=8, **fields), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return plain_folder(tmp_path_factory.mktemp("plain"), SIZES)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The same pictures with the same numbers, prepared by TFDS."""
    train = [(picture_files.plain(n), label_of(n)) for n in ALL]
    test = [(picture_files.plain(n), (n - 23) // 3) for n in range(23, 32)]
    splits = {"train": train, "validation": test, "test": [(picture_files.plain(99), -1)]}
    return picture_files.prepare(tmp_path_factory.mktemp("records"), "zoo", splits, [*SIZES])


def label_of(number):
    return int(np.searchsorted(np.cumsum([*SIZES.values()]), number, side="right"))


def load_records(path, **fields):
    return data.load(
        DataConfig(name="tfds:zoo", stream=True, path=str(path), crop_size=8, **fields), 0
    )


def take(batches, count):
    with contextlib.closing(batches):
        return list(itertools.islice(batches, count))


def flat(lists):
    return [*itertools.chain(*lists)]


def train_numbers(stream, batch_size, count, rows=None, first_step=0):
    rows = np.arange(batch_size) if rows is None else rows
    batches = take(stream.training_batches(batch_size, rows, first_step), count)
    for batch in batches:
        assert batch.labels.tolist() == [label_of(number) for number in numbers(batch.images)]
        assert batch.counts.all()
        assert (batch.corrupt == -1).all()
    return [numbers(batch.images) for batch in batches]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch_size=st.integers(1, 23),
    first_step=st.integers(0, 30),
    processes=st.integers(1, 5),
)
def test_an_epoch_has_every_example_once_in_an_order_that_depends_on_the_seed_alone(
    folder, seed, batch_size, first_step, processes
):
    """Up to whole batches, for any step at which a run resumes and any number of processes."""
    stream = load(folder, seed)
    steps = len(ALL) // batch_size
    found = train_numbers(stream, batch_size, 2 * steps)
    for epoch in (found[:steps], found[steps:]):
        seen = flat(epoch)
        assert len(set(seen)) == len(seen) == steps * batch_size
        assert set(seen) <= set(ALL)

    later = train_numbers(stream, batch_size, 2, first_step=first_step)
    assert later[0] == train_numbers(stream, batch_size, first_step + 1)[-1]

    shares = np.array_split(np.arange(batch_size), processes)
    parts = [train_numbers(stream, batch_size, 2, rows) for rows in shares]
    assert [flat(rows) for rows in zip(*parts, strict=True)] == found[:2]


def test_epochs_and_seeds_differ_in_order(folder):
    first, second = (train_numbers(load(folder, seed), 23, 3) for seed in (0, 1))
    orders = [tuple(epoch) for epoch in first + second]
    assert len(set(orders)) == 6
    assert {tuple(sorted(order)) for order in orders} == {tuple(ALL)}


def test_records_are_read_like_a_folder(records):
    """The test split without labels is ignored, and the validation split takes its place."""
    stream = load_records(records)
    assert {split: len(found) for split, found in stream.splits.items()} == {"train": 23, "test": 9}
    assert stream.info.class_names == tuple(SIZES)
    found = train_numbers(stream, 5, 8)
    for epoch in (found[:4], found[4:]):
        assert len(set(flat(epoch))) == 20
    assert load_records(records, max_train_examples=5).splits[Split.TRAIN][4].label == label_of(
        numbers(next(stream.batches(Split.TRAIN, 23)).images)[4]
    )


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_worker_processes_change_nothing(tmp_path, records, kind):
    """Bit for bit, with random crops of real pictures, in training and evaluation."""
    path = picture_files.digits_folder(tmp_path, 40, 20)

    def batches(workers):
        if kind == "folder":
            stream = load(path, workers=workers)
        else:
            stream = load_records(records, workers=workers)
        rows = np.arange(2, 7)
        found = take(stream.training_batches(8, rows, 1), 5)
        return found + take(stream.evaluation_batches(Split.TEST, 8, rows), 4)

    expected = batches(0)
    assert len({batch.images.tobytes() for batch in expected}) > 5
    for batch, other in zip(batches(2), expected, strict=True):
        assert all(map(np.array_equal, batch, other))


@given(batch_size=st.integers(1, 12))
@settings(max_examples=6, deadline=None)
def test_evaluation_counts_every_example_once(folder, batch_size):
    stream = load(folder)
    count = -(-9 // batch_size)
    batches = take(stream.evaluation_batches(Split.TEST, batch_size, np.arange(batch_size)), 99)
    assert len(batches) == count
    # First of each class, second of each, ...
    seen = flat(numbers(batch.images[batch.counts]) for batch in batches)
    assert seen == [23, 26, 29, 24, 27, 30, 25, 28, 31]
    assert flat(batch.labels[batch.counts].tolist() for batch in batches) == 3 * [0, 1, 2]


def test_a_picture_that_cannot_be_decoded(folder, tmp_path):
    """In training the next picture replaces it; in evaluation its row does not count."""
    path = shutil.copytree(folder, tmp_path / "damaged")
    for split, number, name in (("train", 4, "cat"), ("test", 26, "dog")):
        file = path / split / name / f"{number:05d}.png"
        file.write_bytes(file.read_bytes()[:40])
    stream = load(path)
    stored = [stream.splits[Split.TRAIN][index].name[-9:-4] for index in ALL]
    (batch,) = take(stream.training_batches(23, np.arange(23), 0), 1)
    damaged = stored.index("00004")
    assert sorted(batch.corrupt)[-2:] == [-1, damaged]
    seen = numbers(batch.images)
    expected = [number for number in ALL if number != 4] + [int(stored[damaged + 1])]
    assert sorted(seen) == sorted(expected)
    assert batch.counts.all()

    (batch,) = take(stream.evaluation_batches(Split.TEST, 10, np.arange(10)), 1)
    assert batch.counts.tolist() == [True, False, *[True] * 7, False]
    assert batch.corrupt.tolist() == [-1, 1, *[-1] * 8]
    assert [*map(len, stream.batches(Split.TEST, 4))] == [3, 4, 1]
    shutil.rmtree(path / "test" / "dog")
    assert take(stream.evaluation_batches(Split.TEST, 9, np.arange(9)), 1)[0].counts.sum() == 6


def make_feed(path, **fields):
    config = Config(data=DataConfig(name="folder", path=str(path), crop_size=8, **fields))
    config.model.name, config.model.depth = "preact_resnet", 11
    config.train.batch_size, config.eval.batch_size = 5, 4
    dataset = data.load(config.data, config.seed)
    fresh = state.initialize(Keys.of(0).init, config, dataset.info)
    return contextlib.closing(feeds.create(dataset, config)), fresh


def test_a_corrupt_picture_is_refused_or_named_once_and_skipped(folder, tmp_path, caplog):
    path = shutil.copytree(folder, tmp_path / "damaged")
    for split, name in (("train", "cat/00004.png"), ("test", "dog/00026.png")):
        (path / split / name).write_bytes(b"no picture")
    feed, fresh = make_feed(path)
    with (
        feed as opened,
        pytest.raises(DataError, match=r"00026\.png: is not a picture.*corrupt=skip"),
    ):
        opened.evaluate(fresh, Split.TEST)

    feed, fresh = make_feed(path, corrupt="skip")
    with feed as opened:
        for _ in range(2):
            assert opened.evaluate(fresh, Split.TEST).compute()["examples"] == 8
        opened.compile(fresh)
        for _ in range(9):  # two epochs
            fresh = opened.train(fresh, 1)
        assert int(fresh.metrics.count.sum()) == 5
    named = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert [("00026" in line, "00004" in line) for line in named] == [(True, False), (False, True)]


def test_a_batch_that_cannot_be_read_costs_no_step(folder, tmp_path):
    """The error is raised when the batch is needed, not during the step before it."""
    feed, fresh = make_feed(shutil.copytree(folder, tmp_path / "vanishing"))
    with feed as opened:
        opened.compile(fresh)
        shutil.rmtree(tmp_path / "vanishing")
        reason = ""
        while not reason:
            try:
                fresh = opened.train(fresh, 1)
            except DataError as error:
                reason = str(error)
        assert "cannot be read: No such file" in reason
        # The batch that was decoded before the files vanished has been used.
        assert int(fresh.step) >= 1
        assert np.isfinite(float(fresh.report.loss))


def test_a_picture_that_comes_back_is_counted_again(folder, tmp_path):
    """Files on another machine may vanish and come back."""
    path = shutil.copytree(folder, tmp_path / "copy")
    away = path / "test" / "dog" / "00026.png"
    feed, fresh = make_feed(path, corrupt="skip")
    with feed as opened:
        content = away.read_bytes()
        for there, expected in ((True, 9), (False, 8), (True, 9)):
            away.write_bytes(content if there else b"")
            assert opened.evaluate(fresh, Split.TEST).compute()["examples"] == expected


def test_a_pipe_among_pictures_is_not_waited_for(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "copy")
    (path / "test" / "dog" / "00026.png").unlink()
    os.mkfifo(path / "test" / "dog" / "00026.png")
    feed, fresh = make_feed(path)
    with feed as opened, pytest.raises(DataError, match=r"00026\.png: .*is not a regular file"):
        opened.evaluate(fresh, Split.TEST)


def test_a_batch_of_evaluation_is_no_larger_than_the_split(folder):
    """A large batch size does not allocate memory for images that do not exist."""
    feed, fresh = make_feed(folder)
    with feed as opened:
        opened._config.eval.batch_size = 10**9
        assert opened.evaluate(fresh, Split.TEST).compute()["examples"] == 9


def test_a_prepared_set_runs_no_code(records, tmp_path, monkeypatch):
    """TFDS imports any module that features.json names, even from the current folder."""
    path = shutil.copytree(records, tmp_path / "records")
    (features,) = path.rglob("features.json")
    values = json.loads(features.read_text())
    values["featuresDict"]["features"]["label"]["pythonClassName"] = "evil.Label"
    features.write_text(json.dumps(values))
    (tmp_path / "evil.py").write_text("raise SystemExit('it runs')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for read in (data.load, data.describe):
        config = DataConfig(name="tfds:zoo", stream=True, path=str(path))
        with pytest.raises(DataError, match=r"names 'evil\.Label', not a TFDS feature"):
            read(config, *([0] if read is data.load else []))


@pytest.mark.parametrize("name", ["label.labels.txt", "zoo-train.array_record-00000-of-00001"])
def test_a_pipe_in_a_prepared_set_is_not_waited_for(records, tmp_path, name):
    path = shutil.copytree(records, tmp_path / "records")
    (file,) = path.rglob(name)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match=f"{name}: is not a regular file"):
        data.load(DataConfig(name="tfds:zoo", stream=True, path=str(path)), 0)


def test_a_damaged_set_is_one_line_whatever_tfds_prints(records, tmp_path, capfd, caplog):
    """TFDS prints how to install TensorFlow, or logs that a split is empty."""
    path = shutil.copytree(records, tmp_path / "records")
    (info,) = path.rglob("dataset_info.json")
    (features,) = path.rglob("features.json")
    values = json.loads(info.read_text())
    values["splits"][0]["shardLengths"] = ["0"]
    info.write_text(json.dumps(values))
    for text in (features.read_text(), features.read_text().replace("uint8", "string")):
        features.write_text(text)
        with pytest.raises(DataError, match="not an image classification set"):
            data.load(DataConfig(name="tfds:zoo", stream=True, path=str(path)), 0)
    assert (*capfd.readouterr(), caplog.records) == ("", "", [])


def test_a_set_whose_pictures_all_vanished(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "copy")
    feed, fresh = make_feed(path, corrupt="skip")
    shutil.rmtree(path)
    with feed as opened, pytest.raises(DataError, match="too much cannot be read"):
        opened.compile(fresh)


def test_a_record_that_cannot_be_read(records):
    class Broken:
        def __getitem__(self, index):
            raise RuntimeError("Corrupted Riegeli/records file")

    stream = load_records(records)
    broken = dataclasses.replace(stream.splits[Split.TEST], source=Broken())
    stream = dataclasses.replace(stream, splits={**stream.splits, Split.TEST: broken})
    (batch,) = take(stream.evaluation_batches(Split.TEST, 9, np.arange(9)), 2)
    assert batch.corrupt.tolist() == [*range(9)]
    assert "validation, record 3: cannot be read: Corrupted" in stream.describe_corrupt(
        Split.TEST, 3
    )


def test_classes_of_a_prepared_set_that_tfds_does_not_know(records):
    config = DataConfig(name="tfds:zoo", stream=True, path=str(records))
    assert data.describe(config).class_names == tuple(SIZES)


def test_a_streamed_step_equals_a_step_in_memory(folder, monkeypatch):
    """Bit for bit on the same batch."""
    compiling.with_all_emitters(monkeypatch)
    feed, fresh = make_feed(folder, flip=True)
    config = feed.thing._config
    stream = feed.thing.dataset
    (batch,) = take(stream.training_batches(5, np.arange(5), 0), 1)
    other = state.initialize(Keys.of(0).init, config, stream.info)
    rates = np.full(4, feed.thing.plan.schedule(0), np.float32)
    with feed as opened:
        opened.compile(fresh)
        streamed = opened.train(fresh, 1)
    arguments = (
        other,
        jax.device_put(data.Arrays(batch.images, batch.labels)),
        np.arange(5),
        np.int32(1),
        Keys.of(0).step,
        step.Hyperparameters.of(config, rates),
    )
    program = step.train_steps.lower(
        *arguments,
        batch_size=5,
        preprocess=preprocess.for_training(config.data, stream.info),
    ).compile()
    expected = program(*arguments)
    leaves = [jax.tree.leaves(each) for each in (streamed.params, expected.params)]
    assert all(map(np.array_equal, *leaves))
    assert float(streamed.report.loss) == float(expected.report.loss)


def test_rows_of_a_batch_on_several_devices():
    """A batch keeps its order on the devices, whichever process decoded its rows."""
    mesh = parallel.create_mesh()
    rows = parallel.rows(6 * mesh.size, mesh)
    assert rows.tolist() == [*range(6 * mesh.size)]
    found = parallel.from_rows({"a": rows, "b": rows[:, None]}, len(rows), mesh)
    assert np.asarray(found["a"]).tolist() == rows.tolist()
    assert found["b"].sharding.spec == jax.sharding.PartitionSpec(parallel.AXIS)


def positions(height=60, width=90):
    """A picture whose pixels hold their own column and row."""
    y, x = np.mgrid[:height, :width]
    return picture_files.encoded(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


@given(seed=st.integers(0, 2**32), min_area=st.sampled_from([0.08, 0.5, 1.0]))
def test_a_random_crop_has_the_paper_s_area_and_ratio(seed, min_area):
    shape = (60, 90)
    rng = np.random.default_rng(seed)
    found = decoding.read_random_crop(positions(*shape), (200, 200, 3), rng, min_area).astype(int)
    width, height = (np.ptp(found[:, :, axis]) + 1 for axis in (0, 1))
    # Up to rounding. If no patch fits, it is the central square: the picture is wider than 4/3.
    if (width, height) != (60, 60):
        assert width * height >= min_area * 60 * 90 - (width + height)
        assert 3 / 4 - 0.1 <= width / height <= 4 / 3 + 0.1
    else:
        assert min_area > 0.08


def test_crops_differ_and_stay_inside():
    crops = [
        decoding.read_random_crop(positions(), (8, 8, 3), np.random.default_rng(seed), 0.08)
        for seed in range(50)
    ]
    assert len({crop.tobytes() for crop in crops}) == 50
    lefts, tops = ([int(crop[0, 0, axis]) for crop in crops] for axis in (0, 1))
    assert min(lefts) < 8
    assert max(lefts) > 40
    assert min(tops) < 8
    assert max(tops) > 25


def test_the_central_crop():
    """80 % of the shorter side of 90 x 60: 48 pixels from column 21 and row 6."""
    found = decoding.read(positions(), (48, 48, 3), 0.8)
    assert found[0, 0].tolist() == [21, 6, 0]
    assert found[-1, -1].tolist() == [68, 53, 0]


def test_splits_of_a_folder(folder, tmp_path):
    sizes = {split: len(found) for split, found in load(folder).splits.items()}
    assert sizes == {"train": 23, "test": 9}
    (tmp_path / "two").symlink_to(folder)
    both = shutil.copytree(folder, tmp_path / "both")
    (both / "test").rename(both / "val")
    assert set(load(both).splits) == {"train", "test"}
    assert set(load(both, test_examples=3).splits) == {"train", "valid", "test"}
    shutil.copytree(folder / "test", both / "test")
    assert set(load(both).splits) == {"train", "valid", "test"}
    with pytest.raises(
        DataError, match=r"valid_examples=3: .* already has a folder of valid images"
    ):
        load(both, valid_examples=3)


def test_images_set_apart_from_one_folder(folder):
    """The test images are the same for every seed; the validation images depend on it."""
    with pytest.raises(DataError, match=r"no folder called test.*data\.test_examples=N"):
        load(folder / "train")
    found = [load(folder / "train", seed, test_examples=6, valid_examples=3) for seed in range(4)]
    names = {
        split: [frozenset(each.splits[split].names) for each in found] for split in found[0].splits
    }
    assert len(set(names[Split.TEST])) == 1
    assert len(set(names[Split.VALID])) > 1
    for stream in found:
        assert [len(stream.splits[split]) for split in Split] == [14, 3, 6]
        assert sorted(stream.splits[Split.TEST].labels) == [0, 0, 1, 1, 2, 2]
        together = set.union(*(set(each.names) for each in stream.splits.values()))
        assert len(together) == 23
    few = load(folder, max_train_examples=6).splits[Split.TRAIN]
    assert few.labels.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(DataError, match=r"max_train_examples=24: folder has 23"):
        load(folder, max_train_examples=24)


def write(path, text):
    path.write_text(text)
    return path


def test_classes_from_a_file(folder, tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("eel European eel, Anguilla anguilla\n\ndog\ncat the cat\n")
    stream = load(folder, classes=str(file))
    assert stream.info.class_names == ("European eel, Anguilla anguilla", "dog", "the cat")
    # ImageNet has two classes called crane.
    same = index.read_classes(write(file, "n1 crane\nn2 crane\nold n3\n"), ["n1", "n2", "old n3"])
    assert same == {"n1": "crane (n1)", "n2": "crane (n2)", "old n3": "old n3"}
    picture = stream.splits[Split.TRAIN][0]
    assert (picture.label, "eel" in picture.name) == (0, True)
    assert stream.provenance["sha256"] != load(folder).provenance["sha256"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "lists no class"),
        ("cat\ncat\n", "or one class twice"),
        ("cat\ndog\n", "'eel' is not one of the 2 classes"),
        ("cat\ndog\neel\nfox\n", "no pictures of class 'fox'"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_classes_that_does_not_match(folder, tmp_path, classes, message):
    file = tmp_path / "classes.txt"
    if classes is not None:
        file.write_text(classes)
    with pytest.raises(DataError, match=message):
        load(folder, classes=str(file))


def test_folders_that_are_not_a_data_set(folder, tmp_path):
    with pytest.raises(DataError, match="must be a folder with a folder for each class"):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no class folders"):
        load(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="none called train"):
        load(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no pictures of class 'cat' \(\.jpg"):
        load(tmp_path)


def test_two_folders_of_validation_images(folder, tmp_path):
    both = shutil.copytree(folder, tmp_path / "both")
    for name in ("val", "valid"):
        shutil.copytree(folder / "test", both / name)
    with pytest.raises(DataError, match="has two folders of valid images"):
        load(both)


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "linked")
    (path / "train" / "cat" / "below").mkdir()
    (path / "train" / "cat" / "below" / "up").symlink_to(path / "train" / "cat")
    (path / "train" / "dog" / "more").symlink_to(path / "train" / "eel")
    assert np.bincount(load(path).splits[Split.TRAIN].labels).tolist() == [9, 14, 8]


def test_a_folder_without_permission(folder, tmp_path, monkeypatch):
    """With a fake `scandir`, because root may read everything."""
    path = shutil.copytree(folder, tmp_path / "locked")
    scandir = os.scandir

    def locked(place):
        if Path(place) == path / "test" / "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(DataError, match="dog: cannot be read: Permission denied"):
        load(path)


@pytest.mark.parametrize("name", ["folder", "tfds:zoo"])
@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "x" * 300, "\0"])
def test_impossible_paths(name, path):
    config = DataConfig(name=name, stream=True, path=path)
    for look in (lambda: data.load(config, 0), lambda: data.describe(config)):
        with pytest.raises(DataError):
            look()


def test_the_sum_of_a_folder_covers_names_sizes_and_classes(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "copy")
    assert load(path).provenance["sha256"] == load(folder).provenance["sha256"]
    file = path / "train" / "cat" / "00001.png"
    content = file.read_bytes()
    file.write_bytes(content + b"\0")
    changed = load(path).provenance["sha256"]
    file.write_bytes(content)
    file.rename(path / "train" / "dog" / "00001.png")
    assert len({changed, load(path).provenance["sha256"], load(folder).provenance["sha256"]}) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "absent"}, "not prepared in absent"),
        ({"valid_examples": 3}, "labels of its images are not known in advance"),
        ({"max_train_examples": 24}, "max_train_examples=24: tfds:zoo has 23"),
    ],
)
def test_records_that_do_not_match_the_config(records, fields, message):
    with pytest.raises(DataError, match=message):
        load_records(**{"path": records, **fields})


def test_records_of_any_size_are_not_held_in_memory(records):
    config = DataConfig(name="tfds:zoo", path=str(records), unofficial=True)
    with pytest.raises(DataError, match=r"data\.stream=True takes any"):
        data.load(config, 0)


def test_training_stops_at_a_step_that_is_not_finite(folder):
    """As in memory: no further step of the call is taken, so the step's number is known."""
    feed, fresh = make_feed(folder)
    broken = fresh.replace(report=fresh.report._replace(loss=jnp.float32(np.nan)))
    with feed as opened:
        opened.compile(broken)
        assert int(opened.train(broken, 3).step) == 0
