"""The fuzzer itself, and a few inputs for each target."""

import json
import random
import signal

import pytest

from googlenet_jax.storage import loading
from tests.fuzz import __main__ as fuzz
from tests.fuzz import child, mutate, targets


def test_each_fault_is_counted_and_the_run_continues(tmp_path):
    """A reader may hang, take too much memory, die, print, run a program or answer wrongly."""
    expected = {
        **{0: "same", 1: "noisy", 2: "memory", 3: "slow", 4: "refused", 13: "ran code"},
        **{15: "died", 19: "traceback", 21: "slow", 25: "changed unnoticed"},
    }
    (tmp_path / "work").mkdir()
    fuzz.run("itself", tmp_path, 1, list(expected))
    found = fuzz.results(tmp_path, "itself", 1)
    assert {index: each["outcome"] for index, each in found.items()} == expected
    assert (tmp_path / "findings" / "itself-1-19").read_bytes() == b"traceback"


def test_an_input_depends_on_its_number_alone():
    """A change of one input that gets into those after it makes them something else."""
    content = json.dumps({"a": [1, 2], "b": {"c": "d"}}).encode()

    def make(number):
        return mutate.change_json(random.Random(number), content)

    first = [make(number) for number in range(300)]
    assert [make(number) for number in reversed(range(300))] == first[::-1]


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
    """Only inputs without a complete result line are read."""
    path = fuzz.results_file(tmp_path, "itself", 0)
    done = [json.dumps({"index": i, "outcome": "same", "seconds": 0.0}) for i in (0, 2)]
    path.write_text("\n".join([*done, done[0][:9]]))
    asked = []

    def read(name, out, seed, indices):
        asked.extend(indices)
        return [{"index": i, "outcome": "same", "seconds": 0.0} for i in indices]

    monkeypatch.setattr(fuzz, "read", read)
    fuzz.run("itself", tmp_path, 0, range(4))
    assert asked == [1, 3]
    assert sorted(fuzz.results(tmp_path, "itself", 0)) == [0, 1, 2, 3]


@pytest.fixture
def own_signals(monkeypatch):
    """Restores what the fuzzer changes in its process."""
    monkeypatch.setattr(loading, "abstract_state", loading.abstract_state)
    numbers = (signal.SIGPROF, signal.SIGALRM)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


INPUTS = {"checkpoints": 8, "checkpoints-forged": 8, "pth-old": 20, "pth-new": 20}


@pytest.mark.filterwarnings("ignore")  # the programs mute Pillow
@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_some_broken_inputs(name, tmp_path):
    """Runs in this process."""
    (tmp_path / "work").mkdir()
    with (tmp_path / "printed").open("wb+") as printed:
        indices = range(INPUTS.get(name, 40))
        work = tmp_path / "work" / name
        answers = [*child.answer_all(name, tmp_path, work, 2, indices, printed.fileno())]
    assert not [each for each in answers if "broken" in each]
    assert not [each for each in answers[1:] if each["outcome"] not in child.FINE]
