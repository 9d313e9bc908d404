"""curves.png and TensorBoard events."""

import struct

import pytest
from histories import entry, evaluated, read_scalars
from matplotlib.axes import Axes

from googlenet_jax.report.curves import draw_curves
from googlenet_jax.report.tensorboard import TensorBoard


@pytest.mark.filterwarnings("ignore:Glyph")  # the font lacks some characters
@pytest.mark.parametrize("title", ["runs/$x", "a$b$c", r"$\frac{$", "\x1b[2J\n$", r"\$1"])
def test_a_title_is_drawn_letter_by_letter(tmp_path, title):
    """Text between dollar signs would be parsed as a formula, often a wrong one."""
    draw_curves([entry(1)], tmp_path / "curves.png", title)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "history",
    [
        [entry(1)],  # nothing evaluated
        [entry(1), evaluated(2, 0.5, 1.0), entry(3), evaluated(4, 0.6, 0.9)],  # with gaps
        [
            evaluated(1, 0.5, 1.0, "valid"),
            {**evaluated(2, 0.6, 0.9, "valid"), "test_loss": 1.1, "test_accuracy": 0.55},
        ],
    ],
    ids=["unevaluated", "gaps", "valid"],
)
def test_curves_are_a_picture(history, tmp_path):
    path = tmp_path / "curves.png"
    draw_curves(history, path, "a run")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (1320, 418)  # 12 x 3.8 inches at 110 dots


def test_curves_show_the_history(tmp_path):
    """A different accuracy gives a different picture."""
    pictures = []
    for accuracy in (0.5, 0.9):
        draw_curves([entry(1), evaluated(2, accuracy, 1.0)], tmp_path / "c.png", "a run")
        pictures.append((tmp_path / "c.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_an_epoch_that_was_not_evaluated_has_no_point(tmp_path, monkeypatch):
    lines, original = {}, Axes.plot

    def recording(axes, x, y, **kwargs):
        lines[axes.get_subplotspec().colspan.start, kwargs.get("label")] = (list(x), list(y))
        return original(axes, x, y, **kwargs)

    monkeypatch.setattr(Axes, "plot", recording)
    history = [entry(1), evaluated(2, 0.5, 3.0), entry(3), evaluated(4, 0.75, 2.0)]
    draw_curves(history, tmp_path / "c.png", "a run")
    assert lines[0, "test"] == ([2, 4], [3.0, 2.0])
    assert lines[1, "test"] == ([2, 4], [0.5, 0.75])
    assert lines[0, "train"] == ([1, 2, 3, 4], [each["train_loss"] for each in history])


def assert_holds(folder, history):
    found = read_scalars(folder)
    expected = {
        (name, each["epoch"]): value
        for each in history
        for name, value in each.items()
        if name not in ("epoch", "step")
    }
    assert sorted((name, epoch) for name, epoch, _ in found) == sorted(expected)  # each once
    for name, epoch, value in found:
        assert value == pytest.approx(expected[name, epoch], rel=1e-6)  # float32


def test_events_hold_each_scalar_once_after_resuming(tmp_path):
    history = [entry(1), evaluated(2, 0.5, 1.0), evaluated(3, 0.6, 0.9)]
    with TensorBoard(tmp_path, []) as board:
        board.write(history[0])
        board.write(history[1])
    assert_holds(tmp_path, history[:2])
    # The time in the name is in seconds: a file of the same second would overwrite this one.
    written = [*tmp_path.rglob("events.out.tfevents.*")]
    for old in written:
        old.rename(old.with_name("events.out.tfevents.1000000000.host"))
    # Loss and accuracy have the same name in each split's folder, and so one chart in TensorBoard.
    folders = {old.parent.relative_to(tmp_path).as_posix() for old in written}
    assert folders == {".", "train", "test"}
    names = [{n for n, *_ in read_scalars(tmp_path / split)} for split in ("train", "test")]
    assert names == [{"loss", "accuracy"}] * 2
    # The run resumes at the end of the first epoch, so the second epoch is repeated.
    again = evaluated(2, 0.55, 0.95)
    with TensorBoard(tmp_path, history[:1]) as board:
        board.write(again)
        board.write(history[2])
    assert_holds(tmp_path, [history[0], again, history[2]])


def test_events_leave_other_files_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with TensorBoard(tmp_path, [entry(1)]):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"
