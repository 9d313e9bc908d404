"""The bar and the lines of a run on a terminal of 80 columns."""

import types

import pytest
from histories import entry
from tqdm import tqdm

from train import messages
from train.progress import BAR


def test_the_bar_has_room_beside_the_values():
    values = "loss 1.2345 lr 0.0976 img/s 10204"
    shown = tqdm.format_meter(
        195, 390, 20.0, ncols=80, prefix="epoch 100/100", postfix=values, bar_format=BAR
    )
    assert len(shown) == 80
    start, bar, rest = shown.split("|")
    assert start == "epoch 100/100 "
    assert len(bar) >= 8
    assert rest == f" 195/390 00:20 left, {values}"


EVALUATED = {"test_loss": 0.21, "test_accuracy": 0.9516, "images_per_second": 10204.4}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {},
            "[100/200] train 0.020 99.50% test 0.210 95.16% left 02:30 lr 0.001 img/s 10204",
        ),
        (
            {"valid_loss": 99.0, "valid_accuracy": 1.0},
            "[100/200] train 0.020 99.50% valid 99.000 100.00% test 0.210 95.16% left 02:30",
        ),
    ],
)
def test_an_epoch_s_line_has_what_finds_room(more, expected):
    history = [entry(epoch) for epoch in range(1, 100)] + [entry(100, **EVALUATED, **more)]
    line = messages.epoch_line(history, types.SimpleNamespace(epochs=200, total_steps=2000))
    assert line == expected
    assert len(line) <= 80


def test_a_long_run_says_how_long():
    assert "about 9 hours;" in messages.long_run(9 * 3600)
    assert "about 2.9 days;" in messages.long_run(70 * 3600)
