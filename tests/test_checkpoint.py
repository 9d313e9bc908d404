"""Checkpoints: what is kept, what comes back, and that damage is found wherever it is."""

import dataclasses
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import make_data, make_state, noisy

from googlenet_jax import step
from googlenet_jax.checkpoint import SEAL, Checkpoints, Record
from googlenet_jax.errors import CheckpointError

RECORD = Record([{"epoch": 1, "test_loss": 0.1}], {"name": "x"}, {"sha256": "0"}, 1.5)


@pytest.fixture(scope="module")
def state():
    return make_state()


def at(state, number):
    """The state as if it had taken so many steps, recognisable by its first weight."""
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
    ids=["accuracy", "loss breaks a tie", "of equals the later", "none was evaluated"],
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
    """The save goes on in the background while the buffers are given to the next step."""
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
                batch_size=8,
                preprocess=noisy,
                aux_loss_weight=0.3,
            )
            expected[number] = jax.tree.map(np.array, current)
            checkpoints.save(current, RECORD)
    with Checkpoints(tmp_path) as checkpoints:
        for number in checkpoints.steps:
            assert_is(checkpoints.restore(number, current)[0], expected[number])


def test_a_step_can_be_saved_again(tmp_path, state):
    """A stop at an epoch's end is saved before its evaluation, and again after it."""
    save(tmp_path, state, {1: None})
    later = dataclasses.replace(RECORD, history=[])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), later, score(0.5))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best == 1
        assert checkpoints.restore(1, state)[1] == later


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
            assert checkpoints.steps == [1], "the damaged one must not be resumed from later"


def test_a_damaged_best_checkpoint_is_not_replaced_by_another(tmp_path, state):
    save(tmp_path, state, {1: score(0.9), 2: score(0.5), 3: score(0.6)})
    (tmp_path / "1" / "state" / "_METADATA").write_text("{}")
    with Checkpoints(tmp_path, writable=False) as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoint 1 .* is damaged"):
            checkpoints.resolve("best")
        assert checkpoints.resolve("latest") == 3


def test_other_contents_are_found_without_a_seal(tmp_path, state):
    """As a run leaves it that is killed between Orbax's commit and the seal."""
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


def test_a_half_deleted_checkpoint_is_passed_over(tmp_path, state):
    save(tmp_path, state, {1: None, 2: None})
    for file in list((tmp_path / "2" / "state").rglob("*"))[::2]:
        if file.is_file():
            file.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        restored, _, _ = checkpoints.restore_newest(state)
    assert_is(restored, at(state, 1))


def test_where_none_is_whole_nothing_is_deleted(tmp_path, state):
    save(tmp_path, state, {1: None, 2: None})
    for number in (1, 2):
        (tmp_path / str(number) / "state" / "_METADATA").write_text("{}")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="none of 2 checkpoints is whole; the newest"):
            checkpoints.restore_newest(state)
        assert checkpoints.steps == [1, 2]


def test_another_network_is_refused(tmp_path, state):
    save(tmp_path, state, {1: None})
    (tmp_path / "1" / SEAL).unlink()
    other = state.replace(params={**state.params, "fc": {"kernel": jnp.zeros((4, 3))}})
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError):
        checkpoints.restore(1, other)


def test_a_folder_under_another_steps_name_is_damage(tmp_path, state):
    """Resuming would take it for what it is not, and delete the true one."""
    save(tmp_path, state, {3: score(0.5)})
    (tmp_path / "3").rename(tmp_path / "4")
    with (
        Checkpoints(tmp_path, writable=False) as checkpoints,
        pytest.raises(CheckpointError, match=r"checkpoint 4 .* is the one of step 3"),
    ):
        checkpoints.restore(4, jax.eval_shape(lambda: state))


def test_files_of_others_in_a_checkpoint_do_not_matter(tmp_path, state):
    save(tmp_path, state, {3: score(0.5)})
    for name in (".DS_Store", "state/Thumbs.db", "_CHECKPOINT_METADATA~"):
        (tmp_path / "3" / name).write_text("x")
    with Checkpoints(tmp_path, writable=False) as checkpoints:
        restored, _ = checkpoints.restore(3, jax.eval_shape(lambda: state))
    assert_is(restored, at(state, 3))
