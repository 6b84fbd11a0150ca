"""Exercise 2.2, SwiGLU: one test for each idea, on numbers that can be checked by hand.

A token of most tests is (g, u). w1 takes g and w3 takes u, so that the first number that comes out is silu(g) u.
"""

import numpy as np
import pytest
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import experts as book

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # exp(200) is infinity, and may be
RNG = np.random.default_rng(22)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.
W1, W3 = (np.array([row, [0, 0], [0, 0]], np.float32) for row in ([1, 0], [0, 1]))  # F = 3 hidden numbers, two unused
W2 = np.array([[1, 0, 0], [0, 0, 0]], np.float32)


def gated(*tokens):
    """What the first number of the answer is for tokens (g, u)."""
    y = book.feed_forward(np.array(tokens, np.float32), W1, W2, W3)
    assert_close(y.shape, (len(tokens), 2), 0.0, name=f"shape of the answer to {len(tokens)} tokens of 2 numbers")
    return y[:, 0]


def small(T, D=5, F=7):
    """Random tokens and matrices."""
    shapes = ((T, D), (F, D), (D, F), (F, D))
    return [RNG.standard_normal(shape).astype(np.float32) for shape in shapes]


def exact(x, w1, w2, w3):
    """The formula in float64."""
    x, w1, w2, w3 = (a.astype(np.float64) for a in (x, w1, w2, w3))
    gate = x @ w1.T
    return (gate / (1 + np.exp(-gate)) * (x @ w3.T)) @ w2.T


def test_a_closed_gate_lets_nothing_through():
    assert_close(gated((-20, 5), (-20, -5)), [0, 0], ROUGH, name="answers where w1 x is -20 and w3 x is 5, -5")


def test_the_other_branch_multiplies():
    y = gated((20, 1), (20, -3), (20, 0))
    assert_close(y / y[0], [1, -3, 0], ROUGH, name="answers where w1 x is 20 and w3 x is 1, -3, 0, by the first")


def test_the_gate_is_silu():
    expected = [1 / (1 + np.exp(-1)), -1 / (1 + np.exp(1)), 3 / (1 + np.exp(-3))]
    assert_close(gated((1, 1), (-1, 1), (3, 1)), expected, ROUGH / 2,
                 name="answers where w1 x is 1, -1, 3 and w3 x is 1")


def test_large_numbers_stay_numbers():
    assert_close(gated((200, 1), (-200, 1)), [200, 0], ROUGH, name="answers where w1 x is 200, -200 and w3 x is 1")


def test_every_block_has_its_own_rows():
    """Some tokens more than one block has."""
    T = book.TOKENS + 3
    u = np.arange(T, dtype=np.float32) % 7
    x = np.stack([np.full(T, 20, np.float32), u], axis=1)
    y = book.feed_forward(x, W1, W2, W3)
    assert_close(y.shape, (T, 2), 0.0, name=f"shape of the answer to {T} tokens of 2 numbers")
    assert_close(y[:, 0] / 20, u, ROUGH, name=f"answers, divided by 20, to {T} tokens; token n should give n % 7")


def test_answers_are_float32():
    assert_dtype(book.feed_forward(*small(3)), np.float32, "type of the answers")


def test_all_arguments_are_left_alone():
    given = small(3)
    before = [array.copy() for array in given]
    book.feed_forward(*given)
    for name, was, array in zip(("x", "w1", "w2", "w3"), before, given):
        assert_close(array, was, 0.0, name=f"{name} afterwards")


def test_digits_are_kept():
    given = small(9)
    y = exact(*given)
    assert_close(book.feed_forward(*given) / np.abs(y).max(), y / np.abs(y).max(), OPS["experts"],
                 name="nine random tokens, by the largest number of the answers")
