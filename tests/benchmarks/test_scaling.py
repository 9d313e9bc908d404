"""The scaling model against hand calculation."""

import pytest

from benchmarks import scaling


def test_a_step_by_hand():
    """Four devices at 1,000 images/s, 10 GB/s, five reductions of 20 us."""
    sent = 2 * 3 / 4 * 4 * 5_986_394  # bytes: a ring passes 3/4 of the gradients twice
    expected = 32 / 1000 + sent / 10e9 + 100e-6
    assert scaling.step_seconds(4, 128, 1000, 10e9, 5, 20e-6) == pytest.approx(expected)


@pytest.mark.parametrize("devices", [2, 8, 1024])
def test_the_smallest_batch_for_an_efficiency(devices):
    model = (1000.0, 10e9, 5, 20e-6)
    batch = scaling.needed_batch(devices, 0.8, *model)

    def efficiency(size):
        return size / devices / model[0] / scaling.step_seconds(devices, size, *model)

    assert efficiency(batch) >= 0.8 > efficiency(batch - devices)


def test_the_table_has_no_step_where_devices_outnumber_images():
    rows = [line.split(" | ") for line in scaling.scaling_table(1000.0, 5, 20e-6).splitlines()[2:]]
    assert len(rows) == len(scaling.LINKS) * len(scaling.DEVICES)
    for _, devices, _, step, *_ in rows:
        assert (step == "-") == (int(devices.replace(",", "")) > 128)
