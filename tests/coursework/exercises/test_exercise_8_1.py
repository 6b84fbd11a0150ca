"""Exercise 8.1, angles in two dimensions: one test for each idea, on numbers that can be checked by hand.

Most tests use heads of 8 numbers and theta 16: the frequencies of the four pairs are then 1, 1/2, 1/4 and 1/8.
"""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import rope_2d as book

RNG = np.random.default_rng(81)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def turned(*places):
    """The angles of patches, (row, column) each, in a head of 8 numbers: between -pi and pi."""
    cos, sin = book.rope_2d_table(np.array(places), 8, 16.0)
    return np.arctan2(sin, cos)


def test_there_is_a_row_for_each_patch():
    for name, table in zip(("cos", "sin"), book.rope_2d_table(np.array([[1, 0], [0, 1], [2, 1]]), 8, 16.0)):
        assert_close(table.shape, (3, 4), 0.0, name=f"shape of {name} for three patches, heads of 8 numbers")


def test_cosines_come_first():
    cos, sin = book.rope_2d_table(np.array([[0, 0]]), 8, 16.0)
    exchanged = np.abs(cos).max() < ROUGH and np.abs(sin - 1).max() < ROUGH
    assert not exchanged, "numbers of the first table at place (0, 0): got 0, expected 1, the cosine of 0"


def test_the_first_place_is_zero():
    assert_close(turned((0, 0)), np.zeros((1, 4)), ROUGH, name="angles of patch (0, 0)")


def test_theta_is_an_argument():
    one, other = (book.rope_2d_table(np.array([[1, 1]]), 8, theta)[1] for theta in (16.0, 1e4))
    differ = np.abs(one - other).max() > ROUGH
    assert differ, "sines of patch (1, 1): got the same for theta 16 and 10,000, expected others"


def test_one_direction_for_each_half():
    """From (0, 0) to (1, 0) the pairs of one half turn, and those of the other stand still; which, is not asked."""
    moved = np.abs(turned((1, 0))[0]) > ROUGH
    assert_close(moved == moved[0], [True, True, False, False], 0.0, name="pairs that do as the first, one row further")


def test_rows_come_first():
    moved = np.abs(turned((1, 0), (0, 1))) > ROUGH
    assert_close(moved, [[True, True, False, False], [False, False, True, True]], 0.0,
                 name="pairs that turn, one row further and one column further")


def test_rows_take_the_even_frequencies():
    assert_close(turned((1, 0))[0, :2], [1, 1 / 4], ROUGH, name="angles of the rows' pairs, one row further")


def test_columns_take_the_odd_frequencies():
    assert_close(turned((0, 1))[0, 2:], [1 / 2, 1 / 8], ROUGH, name="angles of the columns' pairs, one column further")


def test_angles_grow_with_the_place():
    expected = [[2, 2 / 4, 1 / 2, 1 / 8], [0, 0, 3 / 2, 3 / 8], [1, 1 / 4, 2 / 2, 2 / 8]]
    assert_close(turned((2, 1), (0, 3), (1, 2)), expected, ROUGH, name="angles of patches (2, 1), (0, 3) and (1, 2)")


def test_theta_and_head_dim_are_arguments():
    cos, sin = book.rope_2d_table(np.array([[1, 1]]), 4, 100.0)
    assert_close(np.arctan2(sin, cos)[0], [1, 1 / 10], ROUGH, name="angles in a head of 4 numbers, theta 100")


def test_answers_are_float32():
    for name, table in zip(("cos", "sin"), book.rope_2d_table(np.array([[1, 2]]), 8, 16.0)):
        assert_dtype(table, np.float32, f"type of {name}")


def test_digits_are_kept():
    """Angles in float64, rounded once: as exact as float32 can hold a cosine."""
    places = RNG.integers(32, 64, (20, 2))
    cos, sin = book.rope_2d_table(places, 12, 1e4)
    angles = [[p * 1e4 ** (-2 * k / 12) for p, first in zip(place, (0, 1)) for k in range(first, 6, 2)]
              for place in places.tolist()]
    assert_close(cos, np.cos(angles), OPS["rope_table"], name="cosines of twenty patches")
    assert_close(sin, np.sin(angles), OPS["rope_table"], name="sines of twenty patches")
