"""Exercise 4.3, from halves to pairs: one test for each idea. Row r of a weight holds 10 r, 10 r + 1 and so on."""

import numpy as np
from compare import assert_close, assert_dtype

from tiny.files import weights as book


def numbered(rows, D=3):
    return (10 * np.arange(rows)[:, None] + np.arange(D)).astype(np.float32)


def moved(rows, head_dim):
    """Which rows stand where. A result in heads and pairs counts as its rows do."""
    out = np.asarray(book.halves_to_pairs(numbered(rows), head_dim))
    assert_close(out.size, rows * 3, 0.0, name=f"numbers in the result for {rows} rows of 3")
    return out.reshape(rows, 3)


def test_every_row_is_there_once():
    out = moved(12, 6)
    assert_close(out[np.argsort(out[:, 0])], numbered(12), 0.0, name="the rows, sorted by their first number")


def test_rows_stay_in_their_head():
    assert_close(moved(12, 6)[:, 0] // 60, [0] * 6 + [1] * 6, 0.0, name="heads from which the rows come")


def test_pairs_become_neighbours():
    assert_close(moved(6, 6)[:, 0] / 10, [0, 3, 1, 4, 2, 5], 0.0, name="rows of one head of 6, in their new order")


def test_head_dim_is_an_argument():
    expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15, 16, 20, 17, 21, 18, 22, 19, 23]
    assert_close(moved(24, 8)[:, 0] / 10, expected, 0.0, name="rows of three heads of 8, in their new order")


def test_numbers_keep_their_type():
    for dtype in (np.float32, np.float16):
        out = book.halves_to_pairs(numbered(4).astype(dtype), 4)
        assert_dtype(out, dtype, f"type of the result for {dtype.__name__}")


def test_weight_is_left_alone():
    weight = numbered(8)
    book.halves_to_pairs(weight, 4)
    assert_close(weight, numbered(8), 0.0, name="weight afterwards")
