"""A few of the kills and faults of `python -m tests.faults`."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = {"--kills": "4", "--faults": "4", "--reads": "1"}


def test_a_few_kills_and_faults(tmp_path):
    """The second run of the command repeats no finished case."""
    command = [sys.executable, "-m", "tests.faults", "--jobs", "1", "--seed", "11"]
    command += [*(part for pair in CASES.items() for part in pair), "--out", str(tmp_path)]
    for _ in range(2):
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "cases-0.jsonl").read_text().splitlines()]
    assert len({line["case"] for line in lines}) == len(lines) == 9
    assert "9 cases, 0 wrong" in ended.stdout
    (tmp_path / "sources").write_text("another version")  # whose results are not comparable
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line == f"--out={tmp_path}: was begun with other sources; choose another folder"


def test_a_result_that_differs_is_wrong(tmp_path):
    """Otherwise a harness that detects nothing would pass."""
    line = {"case": "kill-0", "kind": "SIGTERM", "outcome": "another result: x"}
    line |= {"seconds": 1, "seed": 0}
    (tmp_path / "cases-0.jsonl").write_text(json.dumps(line) + "\n")
    command = [sys.executable, "-m", "tests.faults", "--table", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "| SIGTERM | 1 | 0 | 0 | 1 |" in ended.stdout
