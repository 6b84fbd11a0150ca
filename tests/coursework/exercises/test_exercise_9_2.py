"""Exercise 9.2, seen against blind: one test for each idea, on numbers that can be checked by hand."""

import numpy as np
from compare import assert_close, assert_dtype

from tiny.training.images import score as book

RNG = np.random.default_rng(92)
ROUGH = 1e-3  # The exact numbers have a test of their own.


def scored(seen, blind, n):
    """The score if so many of n answers are right, seen and blind; which ones, is drawn."""
    return book.blind_score(*(RNG.permutation(np.arange(n) < right) for right in (seen, blind)))


def test_shares_are_of_all_questions():
    assert_close(scored(9, 3, 12)[:2, 0], [0.75, 0.25], ROUGH, name="shares of 9 and 3 right answers of 12")


def test_the_gap_is_seen_minus_blind():
    assert_close(scored(9, 3, 12)[2, 0], 0.5, ROUGH, name="9 of 12 seen, 3 of 12 blind: the difference")
    assert_close(scored(3, 9, 12)[2, 0], -0.5, ROUGH, name="3 of 12 seen, 9 of 12 blind: the difference")


def test_low_ends_come_before_high_ends():
    y = scored(6, 3, 12)
    assert_close(y[:, 1] < y[:, 0], [True] * 3, 0.0, name="whether each low end is below its share")
    assert_close(y[:, 2] > y[:, 0], [True] * 3, 0.0, name="whether each high end is above its share")


def test_more_questions_tell_more():
    """25 times as many questions: an interval about a fifth as wide, of shares and of their difference."""
    few, many = scored(20, 10, 40), scored(500, 250, 1000)
    ratio = (few[:, 2] - few[:, 1]) / (many[:, 2] - many[:, 1])
    assert_close(ratio, [5, 5, 5], 1.5, name="how much wider the intervals of 40 questions are than those of 1,000")


def test_ten_of_ten_is_not_certain():
    y = scored(10, 0, 10)
    for name, (_, low, high) in zip(("10 of 10", "0 of 10"), y):
        assert high - low > 0.1, f"width of the interval of {name}: got {high - low:.2g}, expected 0.28"


def test_no_share_leaves_its_range():
    ends = scored(10, 0, 10)[:2, 1:]
    assert_close(ends, np.clip(ends, 0, 1), ROUGH, name="ends of the intervals of 10 of 10 and of 0 of 10")


def test_the_interval_is_wilson_s():
    """An end is a share from which 7 of 10 is just z standard deviations away: its own, and not those of 0.7.

    Of 10 right answers of 10 the interval goes from n / (n + z z) to 1.
    """
    z, n = 1.96, 10
    ends = scored(7, 4, n)[0, 1:]
    away = z * (ends * (1 - ends) / n) ** 0.5
    assert_close(abs(ends - 0.7), away, ROUGH, name="from 0.7 to the ends of the interval of 7 of 10")
    edge = n / (n + z * z)
    assert_close(scored(10, 0, 10)[:2, 1:], [[edge, 1], [0, 1 - edge]], ROUGH, name="ends of 10 of 10 and of 0 of 10")


def test_a_gap_may_be_below_zero():
    low = scored(9, 8, 20)[2, 1]
    assert low < -0.1, f"low end of the difference, 9 of 20 seen and 8 of 20 blind: got {low:.2g}, expected -0.24"


def test_the_gap_has_the_doubt_of_both():
    """Its ends are further away than those of either share alone, and nearer than both added."""
    (p, a, b), (q, c, d), (gap, low, high) = scored(14, 9, 20)
    assert_close(gap - low, ((p - a) ** 2 + (d - q) ** 2) ** 0.5, ROUGH, name="from the difference down to its low end")
    assert_close(high - gap, ((b - p) ** 2 + (q - c) ** 2) ** 0.5, ROUGH, name="from the difference up to its high end")


def test_answers_are_float64():
    assert_dtype(scored(3, 1, 4), np.float64, "type of the result")


def test_arguments_are_left_alone():
    seen, blind = np.array([True, False, True]), np.array([False, False, True])
    book.blind_score(seen, blind)
    assert_close(seen, [True, False, True], 0.0, name="seen afterwards")
    assert_close(blind, [False, False, True], 0.0, name="blind afterwards")
