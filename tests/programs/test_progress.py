"""The bar on a terminal of 80 columns."""

from tqdm import tqdm

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
