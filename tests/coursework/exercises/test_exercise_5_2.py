"""Exercise 5.2, run the experts and add up: one test for each idea.

Four experts, four tokens, each expert with its own answers; what one expert says is the book's feed_forward.
"""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import experts as book

RNG = np.random.default_rng(52)
D, F, E = 4, 6, 4
# Hidden states of one token: 1.2 MB. An answer that computes an expert for all tokens, and then takes what it needs,
# asks for 1.2 GB: more than the grader allows (1 GiB), so that it ends there, however it hides what it computed.
TOKENS, WIDE = 1024, 300_000


def matrices():
    """w1, w2, w3 of E experts."""
    return [[(RNG.standard_normal(shape) / 2).astype(np.float32) for _ in range(E)]
            for shape in ((F, D), (D, F), (F, D))]


def check(expert_ids, expert_weights, expected, name):
    """Compare with `expected(answer)`, where answer[e, t] is what expert e says to token t."""
    x, w = 2 * RNG.standard_normal((4, D)).astype(np.float32), matrices()
    answer = np.array([book.feed_forward(x, w[0][e], w[1][e], w[2][e]) for e in range(E)])
    y = book.experts(x, np.array(expert_ids), np.array(expert_weights, np.float32), *w)
    assert_close(y, expected(answer), 2 * OPS["experts"], name=name)


def test_each_matrix_in_its_place():
    x, w = 2 * RNG.standard_normal((1, D)).astype(np.float32), matrices()
    y = book.experts(x, np.array([[2]]), np.ones((1, 1), np.float32), *w)
    assert_close(y, book.feed_forward(x, *(matrix[2] for matrix in w)), 2 * OPS["experts"], name="one token, expert 2")


def test_only_its_own_tokens():
    """Token 1 is huge, and its expert's matrices are 0, so it gets 0. For any other expert it is too large."""
    check([[1], [0], [1], [3]], [[1], [1], [1], [1]], lambda answer: answer[[1, 0, 1, 3], [0, 1, 2, 3]],
          "each token through one expert, with weight 1")
    x, w = 2 * RNG.standard_normal((4, D)).astype(np.float32), matrices()
    expected = np.array([book.feed_forward(x, w[0][e], w[1][e], w[2][e]) for e in (1, 3)])[[0, 0, 0, 1], range(4)]
    x[1], w[0][0][:], w[2][0][:], expected[1] = 1e30, 0, 0, 0
    y = book.experts(x, np.array([[1], [0], [1], [3]]), np.ones((4, 1), np.float32), *w)
    assert_close(y, expected, 2 * OPS["experts"], name="token 1 is 1e30, and only its own expert can bear it")
    x[1], expected[3], w[0][3][:] = x[0], np.nan, np.nan
    y = book.experts(x, np.array([[1], [0], [1], [3]]), np.ones((4, 1), np.float32), *w)
    assert_close(y, expected, 2 * OPS["experts"], name="expert 3 says NaN, to token 3 and to no other")
    one_of_many()


def one_of_many():
    """Expert 1 is so wide that it has room for one token, but not for all: see WIDE. It answers token 7, with 0."""
    x, narrow = RNG.standard_normal((TOKENS, D)).astype(np.float32), [matrix[0] for matrix in matrices()]
    wide = [np.zeros(shape, np.float32) for shape in ((WIDE, D), (D, WIDE), (WIDE, D))]
    chosen = np.zeros((TOKENS, 1), int)
    chosen[7], expected = 1, book.feed_forward(x, *narrow)
    expected[7] = 0
    y = book.experts(x, chosen, np.ones((TOKENS, 1), np.float32), *([a, b] for a, b in zip(narrow, wide)))
    assert_close(y, expected, 2 * OPS["experts"], name=f"one of {TOKENS} tokens through expert 1, which is wide")


def test_the_answer_is_weighted():
    check([[1], [0], [1], [3]], [[0], [0], [0], [0]], lambda answer: np.zeros((4, D)), "all weights 0")


def test_the_weight_multiplies_the_answer():
    check([[1], [0], [1], [3]], [[0.25]] * 4, lambda answer: answer[[1, 0, 1, 3], [0, 1, 2, 3]] / 4, "all weights 1/4")


def test_the_weight_of_that_choice():
    """The second choice of every token counts nothing, and comes first in the order of the experts."""
    check([[1, 0], [3, 2], [2, 0], [3, 1]], [[1, 0]] * 4, lambda answer: answer[[1, 3, 2, 3], [0, 1, 2, 3]],
          "weights 1 and 0")


def test_answers_add_up():
    check([[1, 0], [3, 2], [2, 0], [3, 1]], [[0.5, 0.5]] * 4,
          lambda answer: (answer[[1, 3, 2, 3], [0, 1, 2, 3]] + answer[[0, 2, 0, 1], [0, 1, 2, 3]]) / 2,
          "two experts with weights 1/2")


def test_answers_are_float32():
    x = np.ones((2, D), np.float32)
    y = book.experts(x, np.array([[0], [1]]), np.ones((2, 1), np.float32), *matrices())
    assert_dtype(y, np.float32, "type of the result")


def test_all_arguments_are_left_alone():
    x, ids, weights = np.ones((2, D), np.float32), np.array([[0, 1], [1, 2]]), np.full((2, 2), 0.25, np.float32)
    before = [array.copy() for array in (x, ids, weights)]
    book.experts(x, ids, weights, *matrices())
    for name, was, array in zip(("x", "expert_ids", "expert_weights"), before, (x, ids, weights)):
        assert_close(array, was, 0.0, name=f"{name} afterwards")
