"""The router: which experts, in which order, with which weights."""

import math

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

from tiny.numerics import round_to
from tiny.router import route

RNG = np.random.default_rng(4)


def choose(logits, K):
    """The definition: the K largest, larger first, the lower index first among equal ones; their softmax."""
    experts = sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:K]
    exponentials = [math.exp(float(logits[e]) - float(logits[experts[0]])) for e in experts]
    return experts, [e / math.fsum(exponentials) for e in exponentials]


@pytest.mark.parametrize("T", [1, 2, 31, 65])
@pytest.mark.parametrize("E, K", [(8, 2), (8, 1), (8, 8), (4, 3), (1, 1), (5, 5)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_against_the_loops(T, E, K, dtype):
    x, gate = RNG.standard_normal((T, 10)).astype(np.float32), RNG.standard_normal((E, 10)).astype(dtype)
    logits, expert_ids, expert_weights = route(x, gate, K)
    assert logits.dtype == expert_weights.dtype == np.float32 and np.issubdtype(expert_ids.dtype, np.integer)
    assert logits.shape == (T, E) and expert_ids.shape == expert_weights.shape == (T, K)
    products = [[math.fsum(float(a) * float(b) for a, b in zip(row, column)) for column in gate] for row in x]
    assert_close(logits, products, OPS["linear"], name="logits")
    for row, picked, shares in zip(logits, expert_ids, expert_weights):
        wanted, expected = choose(row, K)
        assert picked.tolist() == wanted
        assert_close(shares, expected, OPS["route"], name="weights")


def routed(logits, K):
    """Route tokens whose logits are given: x is the identity."""
    logits = np.array(logits, np.float32)
    return route(np.eye(len(logits), dtype=np.float32), np.ascontiguousarray(logits.T), K)[1:]


@pytest.mark.parametrize("logits, K, expected", [
    ([5, 5, 5, 5], 2, [0, 1]), ([1, 5, 5, 5], 2, [1, 2]), ([5, 1, 5, 1], 2, [0, 2]), ([1, 1, 5, 1], 2, [2, 0]),
    ([0, 0, 0, 0], 4, [0, 1, 2, 3]), ([-1, -1, -2, -1], 3, [0, 1, 3]), ([3, 4, 3, 4], 3, [1, 3, 0]),
    ([0, -0.0, 0], 2, [0, 1]), ([-0.0, 0, 0], 1, [0])])
def test_ties_go_to_the_lower_index(logits, K, expected):
    experts, weights = routed([logits] * 3, K)
    assert experts.tolist() == [expected] * 3
    assert_close(weights, [choose(np.float32(logits), K)[1]] * 3, OPS["route"])


def test_ties_among_many_experts():
    """Short rows may be sorted stably by luck; long ones are not."""
    logits = np.tile(np.float32([0, 1, 1, 0, 2]), (4, 40))
    experts = routed(logits, 120)[0]
    wanted = choose(logits[0], 120)[0]
    assert experts.tolist() == [wanted] * 4


def test_negative_logits_are_logits():
    """Nothing is clipped at zero, and an absent expert does not count as a logit of zero."""
    experts, weights = routed([[-9, -3, -7, -5], [-1e4, -3e4, -2e4, -4e4]], 2)
    assert experts.tolist() == [[1, 3], [0, 2]]
    assert_close(weights, [[1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))], [1, 0]], OPS["route"])


def test_one_expert_counts_wholly_and_all_sum_to_one():
    logits = RNG.standard_normal((31, 8))
    assert_close(routed(logits, 1)[1], np.ones((31, 1)), 0.0)
    for K in range(1, 9):
        experts, weights = routed(logits, K)
        assert_close(weights.sum(axis=1), np.ones(31), 3e-7)
        assert (np.diff(weights, axis=1) <= 0).all()
        assert all(len(set(row)) == K for row in experts.tolist())


def test_large_logits_do_not_overflow():
    weights = routed([[3e38, 1, 3e38], [88, 89, 90]], 2)[1]
    assert_close(weights, [[0.5, 0.5], [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]], OPS["route"])


def test_the_gate_is_rounded_and_the_weights_are_not():
    x, gate = RNG.standard_normal((9, 16)).astype(np.float32), RNG.standard_normal((8, 16)).astype(np.float32)
    logits, _, weights = route(x, gate, 2, "bfloat16")
    assert_close(logits, round_to(route(x, gate, 2)[0], "bfloat16"), 0.0)
    assert (weights != round_to(weights, "bfloat16")).any()


@pytest.mark.parametrize("K", [0, -1, 5])
def test_refuses(K):
    with pytest.raises(ValueError, match=f"between 1 and 4 experts per token; got {K}"):
        routed(np.zeros((1, 4)), K)
