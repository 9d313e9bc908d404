"""Checkpoints: which are kept, that they are restored exactly, and that any damage is found."""

import dataclasses
import errno
import os
import random
import re
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from tiny import hyperparameters, make_data, make_state, noisy

from googlenet_jax.errors import CheckpointError
from googlenet_jax.storage import proof
from googlenet_jax.storage.checkpoint import Checkpoints, Record
from googlenet_jax.storage.proof import SEAL
from googlenet_jax.training import step

RECORD = Record([{"epoch": 1, "test_loss": 0.1}], {"name": "x"}, {"sha256": "0"}, 1.5)


@pytest.fixture(scope="module")
def state():
    return make_state()


def at(state, number):
    """The state as if it had taken `number` steps, with other weights for each number."""
    params = jax.tree.map(lambda leaf: leaf + number, state.params)
    return state.replace(step=jnp.int32(number), params=params)


def save(directory, state, metrics):
    with Checkpoints(directory) as checkpoints:
        for number, accuracy in metrics.items():
            checkpoints.save(at(state, number), RECORD, accuracy)


def assert_is(restored, expected):
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def score(accuracy, loss=1.0):
    return {"accuracy": accuracy, "loss": loss}


def test_everything_comes_back(tmp_path, state):
    save(tmp_path, state, {3: score(0.5)})
    with Checkpoints(tmp_path, writable=False) as checkpoints:
        restored, record = checkpoints.restore(3, jax.eval_shape(lambda: state))
    assert_is(restored, at(state, 3))
    assert record == RECORD


@pytest.mark.parametrize(
    ("metrics", "kept", "best"),
    [
        ({1: score(0.9), 2: score(0.5), 3: score(0.6), 4: score(0.7)}, [1, 3, 4], 1),
        ({1: score(0.9), 2: score(0.9, loss=0.5), 3: None, 4: None}, [2, 3, 4], 2),
        ({1: score(0.9), 2: score(0.9), 3: None, 4: None}, [2, 3, 4], 2),
        ({1: None, 2: None, 3: None}, [2, 3], None),
    ],
    ids=["accuracy", "loss breaks a tie", "the later of equals", "none was evaluated"],
)
def test_latest_two_and_best_are_kept(tmp_path, state, metrics, kept, best):
    save(tmp_path, state, metrics)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == kept
        assert checkpoints.best == best
        assert checkpoints.resolve("latest") == kept[-1]
        assert checkpoints.resolve(str(kept[0])) == kept[0]
        with pytest.raises(CheckpointError, match=r"no checkpoint '7'; there are: .*\d+"):
            checkpoints.resolve("7")


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    """The save goes on in the background while the next step reuses the buffers."""
    data, key = make_data(32), jax.random.key(0)
    current = make_state()
    order, expected = jnp.arange(32), {}
    with Checkpoints(tmp_path) as checkpoints:
        for number in (1, 2, 3):
            current = step.train_steps(
                current,
                data,
                order,
                jnp.int32(1),
                key,
                hyperparameters(),
                batch_size=8,
                preprocess=noisy,
            )
            expected[number] = jax.tree.map(np.array, current)
            checkpoints.save(current, RECORD)
    with Checkpoints(tmp_path) as checkpoints:
        for number in checkpoints.steps:
            assert_is(checkpoints.restore(number, current)[0], expected[number])


def test_the_death_of_another_process_is_not_told_as_a_failed_save(tmp_path, state, monkeypatch):
    def save(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: Task 1 heartbeat timeout.")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(checkpoints._orbax, "save_checkpointables_async", save)
        with pytest.raises(jax.errors.JaxRuntimeError, match="heartbeat"):
            checkpoints.save(at(state, 1), RECORD)


def test_a_step_can_be_saved_again(tmp_path, state):
    """A run that is stopped at an epoch's end saves before the evaluation and again after it."""
    save(tmp_path, state, {1: None})
    later = dataclasses.replace(RECORD, history=[])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), later, score(0.5))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best == 1
        assert checkpoints.restore(1, state)[1] == later


def test_a_step_that_was_evaluated_stays_so_when_a_signal_saves_it_again(tmp_path, state):
    save(tmp_path, state, {1: score(0.9)})
    save(tmp_path, state, {1: None})
    save(tmp_path, state, {2: score(0.5), 3: score(0.6), 4: score(0.7)})
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.steps, checkpoints.best) == ([1, 3, 4], 1)


def test_a_flipped_bit_in_any_of_20_places_is_found(tmp_path, state):
    save(tmp_path, state, {1: score(0.5), 2: score(0.6)})
    shutil.copytree(tmp_path, whole := tmp_path.with_name("whole"))
    files = sorted(path for path in (whole / "2").rglob("*") if path.is_file())
    rng = random.Random(0)
    for trial in range(20):
        # Every file at least once, then places by size.
        sizes = [path.stat().st_size for path in files]
        file = files[trial] if trial < len(files) else rng.choices(files, sizes)[0]
        damaged = tmp_path.with_name(f"damaged{trial}")
        shutil.copytree(whole, damaged)
        target = damaged / file.relative_to(whole)
        content = bytearray(target.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        target.write_bytes(content)
        with Checkpoints(damaged) as checkpoints:
            with pytest.raises(CheckpointError, match=r"checkpoint 2 .* is damaged"):
                checkpoints.restore(2, state)
            restored, _, problems = checkpoints.restore_newest(state)
            assert_is(restored, at(state, 1))
            assert len(problems) == 1
            checkpoints.delete_newer(1)
            assert checkpoints.steps == [1], "the damaged one must not be resumed later"


def test_a_damaged_best_checkpoint_is_not_replaced_by_another(tmp_path, state):
    save(tmp_path, state, {1: score(0.9), 2: score(0.5), 3: score(0.6)})
    (tmp_path / "1" / "state" / "_METADATA").write_text("{}")
    with Checkpoints(tmp_path, writable=False) as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoint 1 .* is damaged"):
            checkpoints.resolve("best")
        assert checkpoints.resolve("latest") == 3


def test_other_contents_are_found_without_a_seal(tmp_path, state):
    """Such as after a kill between Orbax's commit and the seal."""
    save(tmp_path, state, {1: None, 2: None})
    (tmp_path / "2" / SEAL).unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert_is(checkpoints.restore(2, state)[0], at(state, 2))
    shutil.rmtree(tmp_path / "2" / "state")
    shutil.copytree(tmp_path / "1" / "state", tmp_path / "2" / "state")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"arrays have changed, first \.step"),
    ):
        checkpoints.restore(2, state)


def test_a_changed_history_is_found_without_a_seal(tmp_path, state):
    save(tmp_path, state, {1: None})
    (tmp_path / "1" / SEAL).unlink()
    file = tmp_path / "1" / "_CHECKPOINT_METADATA"
    text = file.read_text()
    assert '"test_loss": 0.1' in text
    file.write_text(text.replace('"test_loss": 0.1', '"test_loss": 0.2'))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="record has changed"),
    ):
        checkpoints.restore(1, state)


def test_a_half_deleted_checkpoint_is_skipped(tmp_path, state):
    save(tmp_path, state, {1: None, 2: None})
    for file in list((tmp_path / "2" / "state").rglob("*"))[::2]:
        if file.is_file():
            file.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        restored, _, _ = checkpoints.restore_newest(state)
    assert_is(restored, at(state, 1))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ESTALE, "Stale file handle"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
    ids=["memory", "file system", "device"],
)
def test_a_whole_checkpoint_that_cannot_be_read_now_is_not_deleted(
    tmp_path, state, monkeypatch, error
):
    save(tmp_path, state, {1: None, 2: None})

    def fail(*_):
        raise error

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._orbax, "load_checkpointables", fail)
        with pytest.raises(CheckpointError, match=r"^checkpoint 2 in .* cannot be read: "):
            checkpoints.restore_newest(state)
    if isinstance(error, OSError):  # the same at the opening
        monkeypatch.setattr(proof, "_file_digest", fail)
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(CheckpointError, match=r"^checkpoint 1 in .* cannot be read: "),
        ):
            checkpoints.restore_newest(state)


def test_if_none_is_whole_nothing_is_deleted(tmp_path, state):
    save(tmp_path, state, {1: None, 2: None})
    for number in (1, 2):
        (tmp_path / str(number) / "state" / "_METADATA").write_text("{}")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            CheckpointError,
            match=r"none of 2 checkpoints is whole; put back a copy.*; the newest: checkpoint 2",
        ):
            checkpoints.restore_newest(state)
        assert checkpoints.steps == [1, 2]


def test_another_network_is_refused(tmp_path, state):
    save(tmp_path, state, {1: None})
    (tmp_path / "1" / SEAL).unlink()
    other = state.replace(params={**state.params, "fc": {"kernel": jnp.zeros((4, 3))}})
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError):
        checkpoints.restore(1, other)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_folder_under_another_steps_name_is_refused(tmp_path, state, is_old):
    """Resuming would go on from the wrong step, or delete it as damaged."""
    save(tmp_path, state, {3: score(0.5), 5: None})
    (tmp_path / "5").rename(tmp_path / "8")
    if is_old:  # older versions did not record the step
        tiny_run.change_records(tmp_path.parent, lambda p: p.pop("step"), tmp_path.name)
    with Checkpoints(tmp_path) as checkpoints:
        for restore in (
            lambda: checkpoints.restore(8, jax.eval_shape(lambda: state)),
            lambda: checkpoints.restore_newest(state),
        ):
            with pytest.raises(
                CheckpointError,
                match=r"checkpoint 8 .* is the one of step 5: rename its",
            ):
                restore()
        assert checkpoints.steps == [3, 8]


def test_a_whole_checkpoint_of_another_network_is_not_deleted(tmp_path, state):
    save(tmp_path, state, {1: None, 2: None})
    other = state.replace(params={**state.params, "more": jnp.zeros(3)})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"not those of this config: 1 differ, first"):
            checkpoints.restore_newest(other)
        assert checkpoints.steps == [1, 2]


STRAYS = ["12 copy", "007", "٩", ".DS_Store", "notes", "-3", "1e3", "12.old"]


def test_other_names_among_the_checkpoints_do_not_matter(tmp_path, state):
    for name in STRAYS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "seal.json").write_text("{}")
    save(tmp_path, state, {1: None, 2: None, 3: None})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [2, 3]
        assert_is(checkpoints.restore_newest(state)[0], at(state, 3))
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3", *STRAYS}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("12", lambda path: path.write_text("precious")),
        ("12", os.mkfifo),
        ("12", lambda path: path.symlink_to("elsewhere")),
        ("12", lambda path: path.symlink_to(path)),
        ("1٢", os.mkdir),
        ("12\n", os.mkdir),
        ("9" * 200, os.mkdir),
        ("1/_CHECKPOINT_METADATA", os.mkfifo),
        ("1/state/pipe", os.mkfifo),
    ],
)
def test_anything_else_with_the_name_of_a_checkpoint_is_named(tmp_path, state, name, make):
    """Orbax would list all of these, and fail or block forever."""
    save(tmp_path, state, {1: None})
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / name}: is not a ")):
        Checkpoints(tmp_path)
    assert (tmp_path / name).is_symlink() or (tmp_path / name).exists()
    assert (tmp_path / "1" / SEAL).exists()


DEEP = b"[" * 100_000
CONTENTS = [b"", b"{", b"[]", b"0", b"null", b'{"x": {}}', b'{"x\\u0000": 1}', b"\x00\xff", DEEP]
CONTENTS += [b'{"../../x": 1}', b'{"custom_metadata": []}', b'{"custom_metadata": {"digest": {}}}']


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: str(content[:20]))
@pytest.mark.parametrize("name", [SEAL, "_CHECKPOINT_METADATA", "state/_METADATA"])
def test_invalid_contents_are_told_in_one_line(tmp_path, state, whole, caplog, name, content):
    """And not logged by the libraries, which would print the file's raw bytes."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "2" / SEAL).unlink()  # it would find every change
    (tmp_path / "2" / name).write_bytes(content)
    with pytest.raises(CheckpointError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(2, state)
    assert (tmp_path / "2").exists()
    assert not caplog.records


@pytest.fixture(scope="module")
def whole(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("whole")
    save(folder, state, {1: None, 2: None})
    return folder


@pytest.mark.parametrize("name", ["9" * 5000, "٢", "02", "+2", "2 ", "2_0", "1" * 30])
def test_names_of_no_checkpoint(whole, name):
    with (
        Checkpoints(whole, writable=False) as checkpoints,
        pytest.raises(CheckpointError, match=r"no checkpoint .*; there are: 1, 2 \(or") as error,
    ):
        checkpoints.resolve(name)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["lr[0.1]", "a\\b", "*?${}~%#:'\"\\ \t\n[é]"])
def test_a_path_of_any_characters(tmp_path, state, name):
    """Orbax reads brackets as a pattern, and TensorStore a backslash as an escape."""
    (tmp_path / name).mkdir()
    save(tmp_path / name, state, {1: None, 2: None, 3: None})
    with Checkpoints(tmp_path / name) as checkpoints:
        assert checkpoints.steps == [2, 3]
        assert_is(checkpoints.restore(3, state)[0], at(state, 3))
        checkpoints.delete_newer(2)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["2"]


def test_a_temporary_folder_of_any_characters(tmp_path, state, monkeypatch):
    (tmp_path / "a[b]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a[b]"))
    save(tmp_path / "a[b]", state, {1: None})
    with Checkpoints(tmp_path / "a[b]", writable=False) as checkpoints:
        assert_is(checkpoints.restore(1, state)[0], at(state, 1))


def test_added_files_in_a_checkpoint_do_not_matter(tmp_path, state):
    save(tmp_path, state, {3: score(0.5)})
    for name in (".DS_Store", "state/Thumbs.db", "_CHECKPOINT_METADATA~"):
        (tmp_path / "3" / name).write_text("x")
    with Checkpoints(tmp_path, writable=False) as checkpoints:
        restored, _ = checkpoints.restore(3, jax.eval_shape(lambda: state))
    assert_is(restored, at(state, 3))
