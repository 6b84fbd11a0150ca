"""Greedy, temperature and top-p, by the definition and by counting."""

import math
import warnings

import numpy as np
import pytest
from compare import assert_close

from tiny.config import TinyError
from tiny.sampling import check_sampling, log_softmax, sample

DRAWS = 4000


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def counts(logits, temperature, top_p, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [sample(np.float32(logits), temperature, top_p, rng) for _ in range(DRAWS)]
    return np.bincount(drawn, minlength=len(logits))


def logits_of(probabilities):
    return np.log(np.float64(probabilities)).astype(np.float32)


def test_log_softmax():
    x = (5 * np.random.default_rng(1).standard_normal((3, 65))).astype(np.float32)
    y = log_softmax(x)
    assert y.dtype == np.float64
    for row, out in zip(x.astype(float), y):
        total = max(row) + math.log(math.fsum(math.exp(v - max(row)) for v in row))
        assert_close(out, [v - total for v in row], 1e-13, name="log_softmax")
    assert_close(log_softmax(np.float32([3e38, 3e38])), [-math.log(2)] * 2, 1e-13)


@pytest.mark.parametrize("logits, expected", [([1, 3, 2], 1), ([3, 1, 3], 0), ([-5, -4, -4], 1), ([7], 0),
                                              ([-3e38, 3e38], 1), ([0, 0, 0], 0)])
def test_temperature_zero_is_the_largest(logits, expected):
    token = sample(np.float32(logits), 0.0, 0.5, None)
    assert token == expected and type(token) is int


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    logits = np.float32([1.0, -0.5, 0.25, 2.0, -1.0])
    weights = [math.exp(v / temperature) for v in logits.astype(float)]
    expected = np.array(weights) / sum(weights)
    # Five standard deviations of a count.
    allowed = 5 * np.sqrt(DRAWS * expected * (1 - expected)).max()
    assert_close(counts(logits, temperature, 1.0), DRAWS * expected, allowed, name="counts")


def test_top_p_renormalises_what_it_keeps():
    found = counts(logits_of([0.1, 0.4, 0.2, 0.3]), 1.0, 0.6)
    assert found[0] == found[2] == 0
    assert_close(found[[1, 3]], DRAWS * np.array([4, 3]) / 7, 5 * math.sqrt(DRAWS * 12 / 49), name="counts")


@pytest.mark.parametrize("top_p, kept", [
    (1e-9, {0}), (0.49, {0}), (0.51, {0, 1}), (0.74, {0, 1}), (0.76, {0, 1, 2}), (0.88, {0, 1, 2, 3}),
    (1.0, {0, 1, 2, 3})])
def test_a_token_is_kept_while_the_probability_before_it_is_at_most_top_p(top_p, kept):
    found = counts(logits_of([1 / 2, 1 / 4, 1 / 8, 1 / 8]), 1.0, top_p)
    assert set(np.flatnonzero(found).tolist()) == kept


def test_the_edge_of_top_p_belongs_to_the_kept():
    """Four equal tokens: before the third there is exactly one half, which is at most 0.5."""
    assert set(np.flatnonzero(counts([0, 0, 0, 0], 1.0, 0.5)).tolist()) == {0, 1, 2}
    assert set(np.flatnonzero(counts([0, 0, 0, 0], 1.0, 0.4999)).tolist()) == {0, 1}


def test_top_p_acts_after_the_temperature():
    logits = logits_of([0.6, 0.3, 0.1])
    assert set(np.flatnonzero(counts(logits, 1.0, 0.55)).tolist()) == {0}
    assert set(np.flatnonzero(counts(logits, 4.0, 0.55)).tolist()) == {0, 1}


def test_one_number_is_drawn_for_each_token():
    for logits, top_p in (([0, 0, 0], 1.0), ([9, 0, 0], 0.1), ([1, 2, 3], 0.9)):
        rng, other = np.random.default_rng(3), np.random.default_rng(3)
        sample(np.float32(logits), 0.7, top_p, rng)
        other.random()
        assert rng.random() == other.random()


def test_the_draw_walks_through_the_falling_order():
    class Fixed:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    logits = logits_of([1 / 8, 1 / 2, 1 / 4, 1 / 8])
    for value, expected in ((0.0, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 0), (0.87, 0), (0.88, 3),
                            (np.nextafter(1, 0), 3)):
        assert sample(logits, 1.0, 1.0, Fixed(value)) == expected, value


@pytest.mark.parametrize("logits, expected", [
    ([-3e38, 3e38, 0], {1}), ([1e4, 0, -1e4], {0}), ([3e38, 3e38, 1], {0, 1}), ([-1e30, -1e30], {0, 1}), ([5], {0}),
    ([0, -np.inf, -np.inf], {0})])
def test_extreme_logits(logits, expected):
    assert set(np.flatnonzero(counts(logits, 1.0, 1.0)).tolist()) == expected


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-40, 1e-300, 5e-324])
def test_a_tiny_temperature_is_nearly_greedy(temperature):
    rng = np.random.default_rng(0)
    logits = np.float32([-4, 2, 9, 8.5, -30])
    assert [sample(logits, temperature, 1.0, rng) for _ in range(20)] == [2] * 20


def test_a_huge_temperature_is_uniform():
    assert_close(counts([5, -5, 0, 1], 1e30, 1.0), [DRAWS / 4] * 4, 5 * math.sqrt(DRAWS * 3 / 16), name="counts")


@pytest.mark.parametrize("arguments, named", [
    ((0, 0, 1), "max_tokens is 0"), ((-1, 0, 1), "max_tokens is -1"), ((1, -0.1, 1), "temperature is -0.1"),
    ((1, math.nan, 1), "temperature is nan"), ((1, math.inf, 1), "temperature is inf"), ((1, 0, 0), "top_p is 0"),
    ((1, 0, 1.1), "top_p is 1.1"), ((1, 0, -1), "top_p is -1"), ((1, 0, math.nan), "top_p is nan")])
def test_refuses(arguments, named):
    with pytest.raises(TinyError, match=named) as caught:
        check_sampling(*arguments)
    assert caught.value.remedy


def test_good_arguments():
    for arguments in ((1, 0, 1), (64, 0.7, 0.95), (10**9, 1e-9, 1e-9)):
        check_sampling(*arguments)


def test_the_logarithms_sum_to_one():
    x = np.random.default_rng(2).standard_normal(32000).astype(np.float32)
    assert_close(np.exp(log_softmax(x)).sum(), 1.0, 1e-12)
