"""The score of a model seeing and blind: intervals against their definition, how often they hold, what is refused."""

import math

import numpy as np
import pytest
from compare import assert_close

from tiny.training.images.score import Z, blind_score

DUST = 1e-12  # float64


def score(seen, blind, n):
    return blind_score(np.arange(n) < seen, np.arange(n) < blind)


@pytest.mark.parametrize("right, n", [(0, 1), (1, 1), (7, 10), (0, 256), (255, 256), (500, 1000)])
def test_an_end_of_wilson_s_interval_is_z_deviations_from_the_share(right, n):
    """An end p is where |share - p| = z sqrt(p (1 - p) / n): what the interval is defined by."""
    (share, low, high), _, _ = score(right, 0, n)
    assert 0 <= low <= share <= high <= 1 and low < high
    for end in (low, high):
        distance = abs(share - end)
        assert_close(distance**2, Z**2 * end * (1 - end) / n, DUST, name=f"end {end:.3f} of {right} of {n}")


def test_intervals_hold_as_often_as_they_say():
    """Over shares of all sizes, 95 of 100 intervals have the truth inside: measured 0.946 to 0.955 with four seeds."""
    rng, n = np.random.default_rng(9), 40
    truth = rng.uniform(0.05, 0.95, (4000, 2))
    scores = np.array([blind_score(rng.random(n) < seen, rng.random(n) < blind) for seen, blind in truth])
    wanted = np.column_stack([truth, truth[:, 0] - truth[:, 1]])
    inside = ((scores[:, :, 1] <= wanted) & (wanted <= scores[:, :, 2])).mean(axis=0)
    assert_close(inside, [0.95] * 3, 0.015, name="how often the truth is inside: seen, blind, difference")


def test_the_difference_follows_from_both_intervals():
    (p, a, b), (q, c, d), (gap, low, high) = score(56, 48, 70)
    assert_close([gap, low, high], [p - q, p - q - math.hypot(p - a, d - q), p - q + math.hypot(b - p, q - c)], DUST)
    assert_close(score(48, 56, 70)[2], [-gap, -high, -low], DUST, name="the other way round")


@pytest.mark.parametrize("seen, blind", [
    (np.ones(3), np.ones(3, bool)), (np.ones(3, bool), np.ones(3, int)), (np.ones(3, bool), np.ones(2, bool)),
    (np.ones((3, 1), bool), np.ones((3, 1), bool)), (np.ones(0, bool), np.ones(0, bool))])
def test_refuses(seen, blind):
    with pytest.raises(ValueError, match="two rows of True and False, one of each for each question; got"):
        blind_score(seen, blind)
