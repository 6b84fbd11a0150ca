"""Exercise 3.1, attention of one block: one test for each idea, on numbers that can be checked by hand.

Where weights are asked for, the values are the identity: the answer is then the weights themselves.
"""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import attention as book

RNG = np.random.default_rng(41)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def attend(q, keys, values, causal=True):
    """The function's answer for q (t, R, d), keys and values (s, d); its scratch array holds rubbish."""
    q, keys, values = (np.array(x, np.float32) for x in (q, keys, values))
    scratch = np.full(q.shape[0] * q.shape[1] * len(keys) + 3, 7, np.float32)
    return book.attend(q, keys, values, scratch, causal, "float32")


def weights(q, keys, causal=True):
    """How each query of one head weighs the keys, (t, s): values are rows of the identity, d = s."""
    s = len(keys)
    q, keys = (np.pad(np.array(x, np.float32), ((0, 0), (0, s - len(x[0])))) for x in (q, keys))
    return attend(q[:, None], keys, np.eye(s), causal)[:, 0]


def test_weights_of_a_query_add_up_to_one():
    q, keys = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((6, 4))
    y = attend(q, keys, np.full((6, 4), 5), causal=False)
    assert_close(y, np.full((2, 3, 4), 5), 5 * ROUGH, name="average of values that are all 5")


def test_scores_are_scaled():
    """d = 4: the product 2 becomes a score of 1, so the weights stand as e to 1."""
    y = attend([[[2, 0, 0, 0]]], [[1, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 1, 0, 0]],
               causal=False)  # A mask has tests of its own, below.
    assert_close(y[0, 0, :2], [np.e / (np.e + 1), 1 / (np.e + 1)], ROUGH, name="weights for scores 1 and 0")


def test_no_answer_is_nan():
    with np.errstate(invalid="ignore"):
        y = weights([[1], [1]], [[0], [1], [2]])
    assert_close(np.isnan(y), np.zeros((2, 3), bool), 0.0, name="weights of two queries that are NaN")


def test_heads_do_not_mix():
    q, keys, values = (RNG.standard_normal(shape) for shape in ((3, 2, 4), (5, 4), (5, 4)))
    together = attend(q, keys, values)
    for r in range(2):
        assert_close(together[:, r], attend(q[:, r : r + 1], keys, values)[:, 0], ROUGH,
                     name=f"head {r} of 2 against that head alone")


def test_earlier_keys_are_seen():
    early = weights([[0], [0]], [[0]] * 6)[:, :4]
    assert_close(early.clip(0, 0.1), np.full((2, 4), 0.1), 1e-6, name="weights of the four earlier keys, cut at 0.1")


def test_a_query_sees_itself():
    """Two queries against six keys: their own keys are number 4 and 5."""
    own = weights([[0], [0]], [[0]] * 6)[[0, 1], [4, 5]]
    assert_close(own.clip(0, 0.1), [0.1, 0.1], 1e-6, name="weight of the own key, cut at 0.1")


def test_the_future_is_not_seen():
    """Equal keys: a query that sees n keys gives each of them 1 / n, and 0 to the others."""
    y = weights([[0], [0], [0]], [[0]] * 4)
    expected = [[1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [1 / 4, 1 / 4, 1 / 4, 1 / 4]]
    assert_close(y, expected, ROUGH, name="weights of three queries among four equal keys")
    y = weights([[1], [1]], [[0], [3e4]])  # d is 2
    assert_close(y, [[1, 0], [0, 1]], ROUGH, name="weights of two queries; the score of the second key is 21,213")


def test_without_causal_all_is_seen():
    y = weights([[0], [0], [0]], [[0]] * 4, causal=False)
    assert_close(y, np.full((3, 4), 1 / 4), ROUGH, name="weights of three queries among four equal keys, not causal")


def test_answers_are_float32():
    for causal in (True, False):
        y = attend(np.ones((2, 1, 4)), np.ones((3, 4)), np.ones((3, 4)), causal)
        assert_dtype(y, np.float32, "type of the result")


def test_arguments_are_left_alone():
    arrays = [np.float32(RNG.standard_normal(shape)) for shape in ((2, 1, 4), (3, 4), (3, 4))]
    before = [array.copy() for array in arrays]
    book.attend(*arrays, np.empty(6, np.float32), True, "float32")
    for name, was, array in zip(("q", "keys", "values"), before, arrays):
        assert_close(array, was, 0.0, name=f"{name} afterwards")


def test_digits_are_kept():
    shapes = ((2, 1, 4), (3, 4), (3, 4))
    q, keys, values = (RNG.standard_normal(shape).astype(np.float32).astype(float) for shape in shapes)
    scores = np.exp(q[:, 0] @ keys.T / 2)
    expected = scores @ values / scores.sum(axis=1, keepdims=True)
    assert_close(attend(q, keys, values, False)[:, 0], expected, OPS["attention"], name="two queries and three keys")
