"""Every network of the article against PyTorch: forward, backward, ten steps of training.

`parity.py` says what is compared, and how. Without PyTorch, the comparison is with results that
were stored earlier.
"""

import importlib.util

import numpy as np
import parity
import pytest

pytestmark = pytest.mark.usefixtures("programs_freed_at_once", "compiled_quickly")
IN_FLOAT32 = ("row 2", "rows 5 to 8", "row 9, depth 20")
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.parametrize("name", parity.CASES)
def test_float64(name):
    found = parity.run_jax(name, "float64")
    goldens = np.load(parity.GOLDENS)
    for quantity, rows in parity.fingerprint(found).items():
        golden = goldens[f"{name}/{quantity}"]
        tensors = found[quantity]
        for n, row, expected in zip(sorted(tensors), rows, golden, strict=True):
            # The fingerprint sums that many errors with random signs.
            tolerance = parity.FLOAT64_TOLERANCE * np.sqrt(tensors[n].size) * expected[0]
            assert np.abs(row - expected).max() <= tolerance, (quantity, n)
    if HAS_TORCH:
        exact = parity.run_torch(name, "float64")
        for quantity in parity.QUANTITIES:
            assert parity.difference(found, exact, quantity) <= parity.FLOAT64_TOLERANCE, quantity


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
@pytest.mark.parametrize(
    "name",
    [
        # One network of each kind; float64 has checked the formulas of the others.
        pytest.param(name, marks=[] if name in IN_FLOAT32 else pytest.mark.slow)
        for name in parity.CASES
        if name.startswith("row")
    ],
)
def test_float32(name):
    found, exact = parity.run_jax(name, "float32"), parity.run_torch(name, "float64")
    for quantity, tolerance in parity.CASES[name].float32_tolerances.items():
        assert parity.distance(found, exact, quantity) <= tolerance, quantity
