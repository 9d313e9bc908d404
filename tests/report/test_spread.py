"""Means, deviations and intervals against tables, SciPy and the standard library."""

import numpy as np
import pytest
from scipy import stats

from googlenet_jax.report.spread import Spread, binomial_error, paired, unpaired

ONE, OTHER = [95.1, 94.8, 95.3], [94.9, 94.1, 94.6, 94.5]


def test_the_interval_of_a_mean_is_students():
    spread = Spread.of(ONE)
    assert (spread.mean, spread.std, spread.n) == pytest.approx((95.0667, 0.251661, 3), abs=1e-4)
    half = 4.302653 * spread.std / 3**0.5  # the table's t for 2 degrees of freedom and 95 %
    assert spread.interval == pytest.approx((spread.mean - half, spread.mean + half))
    expected = stats.ttest_1samp(ONE, 0).confidence_interval()
    assert spread.interval == pytest.approx((expected.low, expected.high))


def test_one_seed_has_no_interval():
    assert Spread.of([95.1]) == Spread(95.1, None, 1)
    assert Spread.of([95.1]).interval is None
    assert unpaired(Spread.of([1.0]), Spread.of([1.0, 2.0])) is None


def test_pairs_share_a_seed():
    found = paired({0: 95.1, 1: 94.8, 5: 95.3, 9: 0.0}, {1: 94.1, 0: 94.9, 5: 94.6, 7: 0.0})
    expected = stats.ttest_rel([95.1, 94.8, 95.3], [94.9, 94.1, 94.6]).confidence_interval()
    assert found.n == 3
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_runs_that_share_nothing_are_compared_by_welch():
    expected = stats.ttest_ind(ONE, OTHER, equal_var=False).confidence_interval()
    found = unpaired(Spread.of(ONE), Spread.of(OTHER))
    assert found == pytest.approx((expected.low, expected.high))
    assert unpaired(Spread.of([2.0, 2.0]), Spread.of([1.5, 1.5])) == (0.5, 0.5)


def test_the_binomial_error_is_the_spread_of_test_sets():
    drawn = np.random.default_rng(0).binomial(10_000, 0.9, size=20_000) / 10_000
    assert binomial_error(0.9, 10_000) == pytest.approx(drawn.std(), rel=0.02)
