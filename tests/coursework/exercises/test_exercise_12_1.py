"""Exercise 12.1, the nearest bfloat16: one test for each idea, on numbers that can be checked by hand.

Between 1 and 2 the bfloat16 numbers are a STEP apart, between 2 and 4 two of them.
"""

import numpy as np
import pytest
from compare import assert_close, assert_dtype

from tiny.numerics import round_to
from tiny.tools import bits as book

RNG = np.random.default_rng(121)
STEP = 2.0**-7
LARGEST = float.fromhex("0x1.fep127")  # of bfloat16
LEAST = 2.0**-133  # above zero


@pytest.fixture(autouse=True)
def silence():
    """NumPy warns where some kinds of NaN change their type."""
    with np.errstate(invalid="ignore"):
        yield


def lower_half(x):
    return np.ascontiguousarray(x, np.float32).view(np.uint32) & 0xFFFF


def near(*numbers):
    return book.nearest_bfloat16(np.array(numbers, np.float32))


def of_bits(*patterns):
    return np.array(patterns, np.uint32).view(np.float32)


def test_the_lower_half_is_gone():
    """Whatever becomes of it, no bit of the lower half is left."""
    x = RNG.standard_normal(100).astype(np.float32)
    assert_close(lower_half(book.nearest_bfloat16(x)), np.zeros(100), 0.0, name="the lower 16 bits of the results")


def test_what_fits_stays():
    fits = [0, 1, -2.5, 1 + STEP, LARGEST, np.inf, -np.inf]
    assert_close(near(*fits), np.array(fits), 0.0, name="numbers that are bfloat16 already")


def test_it_goes_to_the_nearest():
    assert_close(near(1 + 0.25 * STEP, 1 + 0.75 * STEP, 1 + 0.51 * STEP, 1 + 0.49 * STEP),
                 np.array([1, 1 + STEP, 1 + STEP, 1]), 0.0, name="1 and 0.25, 0.75, 0.51 and 0.49 of a step")


def test_a_minus_changes_nothing():
    assert_close(near(-1 - 0.25 * STEP, -1 - 0.75 * STEP), np.array([-1, -1 - STEP]), 0.0,
                 name="-1 less 0.25 and 0.75 of a step")


def test_a_tie_goes_to_the_even_one():
    """The last kept bit of 1 is even, that of 1 + STEP odd."""
    halves = [1 + 0.5 * STEP, 1 + 1.5 * STEP, 1 + 2.5 * STEP, -1 - 0.5 * STEP]
    assert_close(near(*halves), np.array([1, 1 + 2 * STEP, 1 + 2 * STEP, -1]), 0.0,
                 name="1 and 0.5, 1.5 and 2.5 steps, and -1 less half a step")


def test_the_exponent_gets_the_carry():
    assert_close(near(2 - 0.25 * STEP, 256 - 0.25), np.array([2, 256]), 0.0, name="a little below 2 and 256")


def test_beyond_the_largest_is_infinity():
    largest = float(np.finfo(np.float32).max)
    assert_close(near(largest, -largest, LARGEST + 2.0**118), np.array([np.inf, -np.inf, LARGEST]), 0.0,
                 name="the largest float32, minus it, and a little above the largest bfloat16")


def test_tiny_numbers_have_fewer_bits():
    """Below 2^-126 the step no longer shrinks."""
    assert_close(near(5.25 * LEAST, 0.75 * LEAST, 0.25 * LEAST), np.array([5, 1, 0]) * LEAST, 0.0,
                 name="5.25, 0.75 and 0.25 of the least number above zero")


def test_nan_stays_nan():
    """Those whose bits are all set, or of which only the lowest is, too."""
    y = book.nearest_bfloat16(of_bits(0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001))
    assert_close(y, np.full(5, np.nan), 0.0, name="five kinds of NaN")
    assert_close(lower_half(y), np.zeros(5), 0.0, name="the lower 16 bits of five kinds of NaN")


def test_answers_are_float32():
    assert_dtype(near(1.5), np.float32, "type of the result")


def test_the_shape_is_kept():
    shape = np.shape(book.nearest_bfloat16(np.ones((2, 3, 4), np.float32)))
    assert_close(np.array(shape), np.array([2, 3, 4]), 0.0, name="shape for x (2, 3, 4)")


def test_argument_is_left_alone():
    x = np.full(3, 1 + 0.75 * STEP, np.float32)
    book.nearest_bfloat16(x)
    assert_close(x, np.full(3, 1 + 0.75 * STEP), 0.0, name="x afterwards")


def test_any_bits():
    """Ten thousand patterns, against the library that the book uses."""
    x = RNG.integers(0, 2**32, 10_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    assert_close(book.nearest_bfloat16(x), round_to(x, "bfloat16"), 0.0, name="ten thousand numbers of any bits")
