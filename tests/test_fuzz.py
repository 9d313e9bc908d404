"""The fuzzer itself, and some inputs of each of its targets."""

import json

from tests.fuzz import __main__ as fuzz


def test_each_fault_is_counted_and_ends_nothing(tmp_path):
    """A reader that hangs, grabs memory, dies, prints, runs a program, or answers wrongly."""
    expected = {
        **{0: "same", 1: "noisy", 2: "memory", 3: "slow", 4: "refused", 13: "ran code"},
        **{15: "died", 19: "traceback", 21: "slow", 25: "changed unnoticed"},
    }
    (tmp_path / "work").mkdir()
    fuzz.run("itself", tmp_path, 1, list(expected))
    found = fuzz.results(tmp_path, "itself", 1)
    assert {index: each["outcome"] for index, each in found.items()} == expected
    assert (tmp_path / "findings" / "itself-1-19").read_bytes() == b"traceback"


def test_a_run_goes_on_where_it_ended(tmp_path, monkeypatch):
    """A line that was cut short is read anew, and the others are not."""
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
