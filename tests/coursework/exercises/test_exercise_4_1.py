"""Exercise 4.1, angles of a position: one test for each idea, on numbers that can be checked by hand."""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import rope as book

RNG = np.random.default_rng(41)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def angles(positions, d=4, theta=1e4):
    """The angles of the pairs at each position, (T, d / 2), between -pi and pi."""
    cos, sin = book.rope_table(np.array(positions), d, theta)
    return np.arctan2(sin, cos)


def test_a_row_for_each_position():
    for name, table in zip(("cos", "sin"), book.rope_table(np.array([0, 0, 0]), 10, 1e4)):
        assert_close(table.shape, (3, 5), 0.0, name=f"shape of {name} for 3 positions and a head of 10")


def test_position_zero_turns_nothing():
    cos, sin = book.rope_table(np.array([0]), 4, 1e4)
    assert_close(cos, [[1, 1]], ROUGH, name="cosines at position 0")
    assert_close(sin, [[0, 0]], ROUGH, name="sines at position 0")


def test_a_position_is_the_angle_of_the_first_pair():
    assert_close(angles([2, 0, 3, 1])[:, 0], [2, 0, 3, 1], ROUGH, name="angles of pair 0 at positions 2, 0, 3, 1")


def test_later_pairs_turn_more_slowly():
    """d = 4 and theta = 10,000: the frequencies are 1 and 10,000^(-1/2) = 1/100."""
    assert_close(angles([1, 2]), [[1, 1 / 100], [2, 2 / 100]], ROUGH / 10, name="angles at positions 1 and 2")


def test_theta_and_head_dim_are_arguments():
    assert_close(angles([1], 6, 1e3), [[1, 1 / 10, 1 / 100]], ROUGH / 10, name="angles of a head of 6, theta 1,000")


def test_answers_are_float32():
    for name, table in zip(("cos", "sin"), book.rope_table(np.array([1, 2]), 4, 1e4)):
        assert_dtype(table, np.float32, f"type of {name}")


def test_far_positions_are_exact():
    positions, d, theta = RNG.integers(20_000, 32_768, 20), 10, 1e6
    cos, sin = book.rope_table(positions, d, theta)
    exact = [[m * theta ** (-2 * i / d) for i in range(d // 2)] for m in positions.tolist()]
    assert_close(cos, np.cos(exact), OPS["rope_table"], name="cosines at twenty far positions")
    assert_close(sin, np.sin(exact), OPS["rope_table"], name="sines at twenty far positions")
