"""The arithmetic of the speed comparison, and the processes of its contenders."""

import json

import pytest

from benchmarks import compare

pytest.importorskip("torch")


def test_contenders_take_turns_in_separate_processes():
    entrants = [
        compare.Contender("small", "float32", "jax_step:product", {"dtype": "float32", "size": n})
        for n in (16, 512)
    ]
    rates, memory = compare.measure(entrants, rounds=2)
    assert [len(found) for found in rates] == [2, 2]
    assert all(0 < slow < fast for fast, slow in zip(*rates, strict=True))  # 32,768 times the work
    assert all(0.05 < peak < 5 for peak in memory)


def test_rows_of_a_comparison(monkeypatch, tmp_path, capsys):
    """Made-up rates: the reference takes 1 and 2 steps a second, this project 4 and 4."""

    def measured(entrants, rounds):
        rates = {"jax_step:product": [10.0, 10.0], "jax_step:inputs": [400.0, 400.0]}
        rates["torch_step:steps"] = [1.0, 2.0]
        found = [rates.get(entrant.function, [4.0, 4.0]) for entrant in entrants]
        return found, [2.0 for _ in entrants]

    monkeypatch.setattr(compare, "measure", measured)
    figures, plot = tmp_path / "speed.json", tmp_path / "speed.png"
    arguments = ["--work", "training", "inference", "--batch-sizes", "32", "--rounds", "2"]
    arguments += ["--json", str(figures), "--plot", str(plot)]
    monkeypatch.setattr("sys.argv", ["compare", *arguments])
    compare.main()
    assert plot.read_bytes().startswith(b"\x89PNG")

    rows = json.loads(figures.read_text())["rows"]
    assert [row["work"] for row in rows] == 4 * ["training"] + 4 * ["inference"]
    ours = rows[3]
    assert ours["contender"] == "googlenet_jax, float32"
    assert (ours["ratio"], ours["ratio_range"]) == (3, [2, 4])  # computed per round
    assert ours["images_per_second"] == 32 * 4
    # Per image 3 x 2 x (1,556.9 M + 10,240) operations to train, and 10 x 2 x 2048^3 a second.
    assert ours["gflop_per_second"] == pytest.approx(128 * 9.3415, rel=1e-4)
    assert ours["share_of_ceiling"] == pytest.approx(128 * 9.3415 / 171.8, rel=1e-3)
    assert ours["share of the input, augmented"] == 0.01
    assert "| training | 32 | googlenet_jax, float32 | 128.0 | 3.00 (2.00 - 4.00) |" in (
        capsys.readouterr().out
    )
