"""Experts and the dense feed-forward, token by token in float64; and what must not be touched."""

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

import tiny.experts
from tiny.experts import experts, feed_forward

RNG = np.random.default_rng(5)
D, F = 10, 28


def matrices(E, dtype=np.float32):
    """w1, w2, w3 of E experts."""
    return [[(RNG.standard_normal(shape) / np.sqrt(shape[1])).astype(dtype) for _ in range(E)]
            for shape in ((F, D), (D, F), (F, D))]


def one(x, w1, w2, w3):
    """One token through one expert, number by number."""
    hidden = []
    for gate, up in zip(w1, w3):
        g = math.fsum(float(a) * float(b) for a, b in zip(gate, x))
        u = math.fsum(float(a) * float(b) for a, b in zip(up, x))
        hidden.append(g / (1 + math.exp(-g)) * u)
    return np.array([math.fsum(float(a) * b for a, b in zip(row, hidden)) for row in w2])


def loops(x, expert_ids, expert_weights, w1, w2, w3):
    return [sum(float(weight) * one(row, w1[e], w2[e], w3[e]) for e, weight in zip(picked, shares))
            for row, picked, shares in zip(x, expert_ids, expert_weights)]


def tokens(T, E, K):
    x = RNG.standard_normal((T, D)).astype(np.float32)
    expert_ids = np.array([RNG.permutation(E)[:K] for _ in range(T)])
    return x, expert_ids, RNG.random((T, K)).astype(np.float32)


@pytest.mark.parametrize("T", [1, 2, 31])
@pytest.mark.parametrize("E, K", [(8, 2), (8, 1), (3, 3), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_against_the_loops(T, E, K, dtype):
    x, expert_ids, expert_weights = tokens(T, E, K)
    w = matrices(E, dtype)
    y = experts(x, expert_ids, expert_weights, *w)
    assert y.dtype == np.float32 and y.shape == x.shape
    assert_close(y, loops(x, expert_ids, expert_weights, *w), OPS["experts"], name="experts")


@pytest.mark.parametrize("T, block", [(1, 1024), (32, 1024), (33, 1024), (65, 1024), (75, 40), (83, 40)])
def test_feed_forward(T, block, monkeypatch):
    """Of one block of tokens and of several, with and without rows of zeros to fill the last one up."""
    monkeypatch.setattr(tiny.experts, "TOKENS", block)
    x, w = RNG.standard_normal((T, D)).astype(np.float32), matrices(1)
    before, y = x.copy(), feed_forward(x, *(matrix[0] for matrix in w))
    assert y.dtype == np.float32 and y.flags.c_contiguous and y.base is None
    assert_close(x, before, 0.0, name="the argument is left alone")
    assert_close(y, [one(row, *(matrix[0] for matrix in w)) for row in x], OPS["experts"], name="feed_forward")


class Guarded(Sequence):
    """Matrices of which some must not even be asked for."""

    def __init__(self, matrices, allowed):
        self.matrices, self.allowed, self.asked = matrices, allowed, []

    def __len__(self):
        return len(self.matrices)

    def __getitem__(self, e):
        assert e in self.allowed, f"expert {e} has no tokens, but its weights were looked up"
        self.asked.append(int(e))
        return self.matrices[e]


@pytest.mark.parametrize("used", [[3], [0, 7], [1, 2, 6]])
def test_an_expert_without_tokens_is_not_touched(used):
    x, _, expert_weights = tokens(31, 8, 1)
    expert_ids = RNG.choice(used, (31, 1))
    expert_ids[: len(used), 0] = used
    w = matrices(8)
    guarded = [Guarded(matrix, used) for matrix in w]
    expected = loops(x, expert_ids, expert_weights, *w)
    assert_close(experts(x, expert_ids, expert_weights, *guarded), expected, OPS["experts"])
    assert all(set(matrix.asked) == set(used) for matrix in guarded)


def test_experts_run_once_each_in_ascending_order():
    """So that weights are read from a file once, and in its order. An exercise may do it token by token."""
    x, expert_ids, expert_weights = tokens(31, 8, 2)
    guarded = [Guarded(matrix, range(8)) for matrix in matrices(8)]
    experts(x, expert_ids, expert_weights, *guarded)
    assert [matrix.asked for matrix in guarded] == [np.unique(expert_ids).tolist()] * 3


def test_the_order_of_the_choices_does_not_matter():
    x, expert_ids, expert_weights = tokens(31, 8, 3)
    w = matrices(8)
    turned = experts(x, expert_ids[:, ::-1], expert_weights[:, ::-1], *w)
    assert_close(turned, experts(x, expert_ids, expert_weights, *w), OPS["experts"])


def test_arguments_are_left_alone():
    x, expert_ids, expert_weights = tokens(9, 4, 2)
    w = matrices(4)
    before = [x.copy(), expert_ids.copy(), expert_weights.copy()]
    experts(x, expert_ids, expert_weights, *w)
    for actual, expected in zip((x, expert_ids, expert_weights), before):
        assert_close(actual, expected, 0.0)


def test_a_weight_of_zero_adds_nothing():
    x, expert_ids, expert_weights = tokens(9, 4, 2)
    w = matrices(4)
    expert_weights[:, 1] = 0
    alone = experts(x, expert_ids[:, :1], expert_weights[:, :1], *w)
    assert_close(experts(x, expert_ids, expert_weights, *w), alone, OPS["experts"])


@pytest.mark.parametrize("ids, weights", [((3, 2), (3, 1)), ((2, 2), (2, 2)), ((4, 2), (4, 2)), ((3,), (3, 1))])
def test_refuses(ids, weights):
    with pytest.raises(ValueError, match="experts expects expert_ids"):
        experts(np.zeros((3, D), np.float32), np.zeros(ids, int), np.zeros(weights, np.float32), *matrices(2))
