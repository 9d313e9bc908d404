"""The bar on a terminal of 80 columns."""

import io

from train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_has_room_beside_the_values(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "25")
    with Progress("epoch 100/100", 0, 390) as bar:
        bar._bar.mininterval = 0  # draw at once
        bar.update(195, {"loss": "1.2345", "lr": "0.09755", "img/s": "10204"})
        shown = terminal.getvalue().split("\r")[-1]
    assert len(shown) <= 80
    assert "epoch 100/100  50%|" in shown
    assert "195/390 [" in shown
    assert shown.rstrip().endswith(", loss 1.2345 lr 0.09755 img/s 10204")
    assert len(shown.split("|")[1]) >= 8
