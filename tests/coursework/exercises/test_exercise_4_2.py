"""Exercise 4.2, apply the rotation: one test for each idea, on numbers that can be checked by hand."""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import rope as book

RNG = np.random.default_rng(31)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def turned(x, degrees):
    """The function's answer for tokens (T, n, d) whose pairs turn by the given angles (T, d / 2)."""
    angles = np.deg2rad(np.array(degrees, float))
    return book.rope(x, *(of(angles).astype(np.float32) for of in (np.cos, np.sin)))


def test_argument_is_left_alone():
    x = np.array([[[1, 0, 0, 1]]], np.float32)
    turned(x, [[90, 90]])
    assert_close(x[0, 0], [1, 0, 0, 1], 0.0, name="x afterwards")


def test_pairs_are_neighbours():
    """Three pairs, of which only the middle one is not zero: its results must stand in its own places."""
    y = turned(np.array([[[0, 0, 3, 4, 0, 0]]], np.float32), [[90, 90, 90]])
    assert_close(np.abs(y[0, 0]) > 0.5, [False, False, True, True, False, False], 0.0, name="places of the pair")


def test_length_is_kept():
    x = RNG.standard_normal((5, 2, 6)).astype(np.float32)
    y = turned(x, RNG.uniform(-180, 180, (5, 3)))
    lengths = [np.sqrt((z.reshape(5, 2, 3, 2).astype(float) ** 2).sum(axis=3)) for z in (y, x)]
    assert_close(*lengths, 0.0, ROUGH, name="length of each pair")


def test_turns_forward():
    y = turned(np.array([[[1, 0, 0, 1]]], np.float32), [[30, 90]])
    assert_close(y[0, 0], [np.cos(np.pi / 6), 0.5, -1, 0], ROUGH, name="(1, 0) by 30 and (0, 1) by 90 degrees")


def test_answers_are_float32():
    assert_dtype(turned(np.ones((2, 1, 4), np.float32), [[30, 60], [45, 90]]), np.float32, "type of the result")


def test_digits_are_kept():
    x = RNG.standard_normal((4, 2, 2)).astype(np.float32)
    degrees = RNG.uniform(-180, 180, (4, 1))
    z = (x[..., 0] + 1j * x[..., 1]) * np.exp(1j * np.deg2rad(degrees))
    assert_close(turned(x, degrees), np.stack([z.real, z.imag], axis=-1), 2 * OPS["rope"], name="pairs, turned")
