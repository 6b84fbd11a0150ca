"""Exercise 3.2, texts and groups of heads: one test for each idea, on numbers that can be checked by hand.

Where all keys are zero, every key that is seen weighs the same: the answer is the plain average of its values.
"""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import attention as book

RNG = np.random.default_rng(32)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def averages(values, lengths, spans, H=1, causal=False):
    """The answers, (T, H), to queries and keys of zeros; values (S, G), one number each."""
    values = np.array(values, np.float32).reshape(len(values), -1, 1)
    zeros = np.zeros((sum(lengths), H, 1), np.float32)
    return book.attention(zeros, np.zeros_like(values), values, lengths, spans, causal)[..., 0]


def test_causal_is_passed_on():
    values, lengths, spans = [1, 3, 5], [3], [(0, 3)]
    y = averages(values, lengths, spans, causal=True)[:, 0]
    assert_close(y, [1, 2, 3], ROUGH, name="averages of 1, 3, 5 up to each query, causal")
    y = averages(values, lengths, spans, causal=False)[:, 0]
    assert_close(y, [3, 3, 3], ROUGH, name="averages of 1, 3, 5, not causal")


def test_queries_of_a_text_are_its_own_rows():
    """Two texts, of 1 and 2 tokens. A query matches the keys of its own text by far the best."""
    q = np.array([[20, 0], [0, 20], [0, 20]], np.float32)[:, None]
    values = np.array([[1, 1], [2, 2], [2, 2]], np.float32)[:, None]
    y = book.attention(q, q, values, [1, 2], [(0, 1), (1, 3)], False)[:, 0, 0]
    assert_close(y, [1, 2, 2], ROUGH, name="the first text's value is 1, the second's are 2")


def test_texts_do_not_see_each_other():
    y = averages([1, 3, 10, 30, 50], [2, 3], [(0, 2), (2, 5)])[:, 0]
    assert_close(y, [2, 2, 30, 30, 30], ROUGH, name="averages of the values 1, 3 and of 10, 30, 50")


def test_a_span_may_be_anywhere():
    """Two texts of one token each; the first has three keys, behind a gap, and the second two, before it."""
    y = averages([4, 8, 100, 1, 2, 6], [1, 1], [(3, 6), (0, 2)])[:, 0]
    assert_close(y, [3, 6], ROUGH, name="averages of the values 1, 2, 6 and of 4, 8")


def test_neighbouring_heads_share_a_key_head():
    """Key head 0 matches key 1, key head 1 matches key 0, and the values of both are 0 and 1."""
    q, keys = np.ones((1, 4, 1), np.float32), np.array([[[0], [9]], [[9], [0]]], np.float32)
    values = np.array([[[0], [0]], [[1], [1]]], np.float32)
    assert_close(book.attention(q, keys, values, [1], [(0, 2)])[0, :, 0], [1, 1, 0, 0], ROUGH,
                 name="heads 0 and 1 find the value 1, heads 2 and 3 find 0")


def test_values_are_of_the_same_head():
    q, keys = np.ones((1, 2, 1), np.float32), np.array([[[0], [9]], [[9], [0]]], np.float32)
    values = np.array([[[1], [3]], [[2], [4]]], np.float32)
    assert_close(book.attention(q, keys, values, [1], [(0, 2)])[0, :, 0], [2, 3], ROUGH,
                 name="head 0 matches key 1, head 1 matches key 0")


def test_a_block_sees_up_to_its_last_query():
    y = averages(np.arange(200), [190], [(0, 200)], causal=True)[:, 0]
    assert_close(y, (np.arange(190) + 10) / 2, ROUGH, name="averages of 0 to n + 10, for 190 queries")


def test_answers_are_float32():
    y = book.attention(normal(3, 2, 4), normal(3, 1, 4), normal(3, 1, 4), [3], [(0, 3)])
    assert_dtype(y, np.float32, "type of the result")


def test_arguments_are_left_alone():
    arrays = [normal(3, 2, 4), normal(4, 1, 4), normal(4, 1, 4)]
    before = [array.copy() for array in arrays]
    book.attention(*arrays, [3], [(0, 4)])
    for name, was, array in zip(("q", "keys", "values"), before, arrays):
        assert_close(array, was, 0.0, name=f"{name} afterwards")


def test_digits_are_kept():
    q, keys, values = normal(2, 2, 4), normal(3, 1, 4), normal(3, 1, 4)
    scores = np.exp(q.astype(float) @ keys[:, 0].T.astype(float) / 2)
    expected = scores @ values[:, 0].astype(float) / scores.sum(axis=2, keepdims=True)
    assert_close(book.attention(q, keys, values, [2], [(0, 3)], False), expected, OPS["attention"],
                 name="two queries of two heads, three keys")
