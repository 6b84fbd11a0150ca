"""Exercise 2.1, RMSNorm: one test for each idea, on numbers that can be checked by hand."""

import ml_dtypes
import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import rms_norm as book

RNG = np.random.default_rng(21)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def normed(rows, weight=None, eps=0.0):
    x = np.array(rows, np.float32)
    return book.rms_norm(x, np.ones(x.shape[1], np.float32) if weight is None else np.array(weight, np.float32), eps)


def test_each_token_by_itself():
    """Another token beside it, a hundred times as large, changes nothing."""
    alone = normed([[3, 4]])
    assert_close(normed([[3, 4], [300, 100]])[:1], alone, ROUGH, name="(3, 4), beside (300, 100)")


def test_the_numbers_keep_their_ratios():
    y = normed([[1, 2, 3, 6]])
    assert_close(y[0] / y[0, 0], [1, 2, 3, 6], ROUGH, name="(1, 2, 3, 6), divided by its first number")


def test_divided_by_the_root_of_the_mean_square():
    """Of (1, 7) the squares are 1 and 49, their mean 25, the root of it 5."""
    assert_close(normed([[1, 7]]), [[0.2, 1.4]], ROUGH, name="(1, 7)")
    assert_close(normed([[2, -2, 2, 2], [0, 0, 8, 0]]), [[1, -1, 1, 1], [0, 0, 2, 0]], ROUGH,
                 name="(2, -2, 2, 2) and (0, 0, 8, 0)")


def test_the_weight_scales_each_column():
    assert_close(normed([[1, 1], [5, -5]], [1, 3]), [[1, 3], [1, -3]], ROUGH, name="(1, 1) and (5, -5), weights 1, 3")
    assert_close(normed([[1, 1]], [0, -2]), [[0, -2]], ROUGH, name="(1, 1), weights 0, -2")


def test_eps_is_added_under_the_root():
    """A row of 0.001 has the mean square 1e-6; with eps 3e-6 the root is 0.002."""
    assert_close(normed([[1e-3, 1e-3]], eps=3e-6), [[0.5, 0.5]], ROUGH, name="(0.001, 0.001), eps 3e-6")
    assert_close(normed([[0, 0]], eps=1e-5), [[0, 0]], ROUGH, name="(0, 0), eps 1e-5")
    assert_close(normed([[3, 4]], eps=12.5), [[0.6, 0.8]], ROUGH, name="(3, 4), eps 12.5")


def test_answers_are_float32():
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        y = book.rms_norm(np.ones((2, 3), np.float32), np.ones(3, dtype), 1e-5)
        assert_dtype(y, np.float32, f"type of the result, weight of {np.dtype(dtype).name}")


def test_arguments_are_left_alone():
    x, weight = np.full((2, 3), 4, np.float32), np.full(3, 2, np.float32)
    book.rms_norm(x, weight, 1e-5)
    assert_close(x, np.full((2, 3), 4), 0.0, name="x afterwards")
    assert_close(weight, np.full(3, 2), 0.0, name="weight afterwards")


def test_digits_are_kept():
    x, weight = RNG.standard_normal((9, 128)).astype(np.float32), RNG.standard_normal(128).astype(np.float32)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight
    assert_close(book.rms_norm(x, weight, 1e-5), exact, OPS["rms_norm"], name="nine rows of 128 numbers")
