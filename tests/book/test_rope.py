"""Rotary positions against complex numbers, and the properties that they are there for."""

import cmath

import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

from tiny.numerics import round_to
from tiny.rope import rope, rope_table

RNG = np.random.default_rng(2)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("T", [1, 2, 31, 65, 130])
@pytest.mark.parametrize("n, d", [(1, 2), (3, 10), (8, 32)])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_against_complex_numbers(T, n, d, theta):
    x, positions = normal(T, n, d), RNG.integers(0, 5000, T)
    cos, sin = rope_table(positions, d, theta)
    assert cos.dtype == sin.dtype == np.float32 and cos.shape == sin.shape == (T, d // 2)
    turned = rope(x, cos, sin)
    assert turned.dtype == np.float32
    expected, turns = np.empty(x.shape), np.empty((T, d // 2), complex)
    for t in range(T):
        for i in range(d // 2):
            turns[t, i] = cmath.exp(1j * int(positions[t]) * theta ** (-2 * i / d))
            for h in range(n):
                z = complex(x[t, h, 2 * i], x[t, h, 2 * i + 1]) * turns[t, i]
                expected[t, h, 2 * i], expected[t, h, 2 * i + 1] = z.real, z.imag
    assert_close(cos, turns.real, OPS["rope_table"], name="cos")
    assert_close(sin, turns.imag, OPS["rope_table"], name="sin")
    assert_close(turned, expected, OPS["rope"], name="rope")


def test_far_positions_are_exact_to_float32():
    """Angles formed in float32 would be off by 1e-3 at the end of the context."""
    cos, sin = rope_table(np.array([32767, 131071]), 128, 1e6)
    for t, position in enumerate((32767, 131071)):
        expected = [cmath.exp(1j * position * 1e6 ** (-i / 64)) for i in range(64)]
        assert_close(cos[t], [z.real for z in expected], OPS["rope_table"], name="cos")
        assert_close(sin[t], [z.imag for z in expected], OPS["rope_table"], name="sin")


def test_scores_depend_on_the_distance_only():
    q, k = normal(1, 1, 32), normal(1, 1, 32)

    def score(m, n):
        a, b = (rope(x, *rope_table(np.array([p]), 32, 1e4)) for x, p in ((q, m), (k, n)))
        return float(a[0, 0].astype(float) @ b[0, 0].astype(float))

    for distance in (0, 1, 17):
        scores = [score(distance + start, start) for start in (0, 1, 100, 4000)]
        assert_close(scores, [scores[0]] * 4, OPS["rope_scores"], name=f"distance {distance}")
    assert max(abs(score(n, 0) - score(0, 0)) for n in range(1, 9)) > 0.01, "the distance counts"
    assert max(abs(score(n, 0) - score(0, n)) for n in range(1, 9)) > 0.01, "and so does its sign"


def test_length_is_kept_and_position_zero_does_nothing():
    x = normal(65, 3, 10)
    y = rope(x, *rope_table(np.arange(65), 10, 1e4))
    pairs = (x.astype(float) ** 2).reshape(65, 3, 5, 2).sum(axis=3)
    assert_close((y.astype(float) ** 2).reshape(65, 3, 5, 2).sum(axis=3), pairs, 0.0, 5e-7, name="length of each pair")
    assert_close(y[0], x[0], 0.0, name="position 0")
    back = rope(y, *(table * sign for table, sign in zip(rope_table(np.arange(65), 10, 1e4), (1, -1))))
    assert_close(back, x, 2 * OPS["rope"], name="turned back")


def test_the_first_pair_turns_by_one_radian():
    y = rope(np.array([[[1, 0, 1, 0]]], np.float32), *rope_table(np.array([1]), 4, 1e4))
    assert_close(y[0, 0], [np.cos(1), np.sin(1), np.cos(0.01), np.sin(0.01)], OPS["rope"])


def test_bfloat16_rounds_products_and_the_sum():
    x, tables = normal(4, 2, 6), rope_table(np.arange(4), 6, 1e4)
    y = rope(x, *tables, "bfloat16")
    cos, sin = (round_to(table, "bfloat16")[:, None] for table in tables)
    first = round_to(round_to(x[..., 0::2] * cos, "bfloat16") - round_to(x[..., 1::2] * sin, "bfloat16"), "bfloat16")
    assert_close(y[..., 0::2], first, 0.0)


@pytest.mark.parametrize("cos, sin", [((2, 5), (2, 5)), ((3, 4), (3, 4)), ((3, 5), (3, 4)), ((1, 5), (1, 5)),
                                      ((5,), (5,))])
def test_refuses(cos, sin):
    with pytest.raises(ValueError, match="rope expects cos"):
        rope(np.zeros((3, 2, 10), np.float32), np.zeros(cos, np.float32), np.zeros(sin, np.float32))
