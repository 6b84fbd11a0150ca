"""The checker itself: everything that must fail does, and the message says where and by how much."""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close

GOOD = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def spoilt(value, where=(1, 2)):
    x = GOOD.copy()
    x[where] = value
    return x


@pytest.mark.parametrize("actual, expected", [
    (np.full_like(GOOD, np.nan), GOOD), (spoilt(np.nan), GOOD), (GOOD, spoilt(np.nan)), (spoilt(np.inf), GOOD),
    (GOOD, spoilt(np.inf)), (spoilt(-np.inf), GOOD), (spoilt(np.inf), spoilt(-np.inf)),
    (spoilt(np.nan), spoilt(np.inf)),
    (spoilt(np.nan, (0, 0)), spoilt(np.nan)), (GOOD[:, ::-1], GOOD), (GOOD.T, GOOD), (np.roll(GOOD, 1, axis=0), GOOD),
    (GOOD[:1], GOOD), (GOOD[0], GOOD), (GOOD[:, :1], GOOD), (GOOD[None], GOOD), (np.float32(0), GOOD),
    (GOOD.astype(object), GOOD), (GOOD, GOOD.astype(object)), (GOOD.astype(str), GOOD), (GOOD.astype(complex), GOOD),
    (GOOD[:0], GOOD[:0]), ([], []), (None, GOOD), (spoilt(3e38), spoilt(-3e38)),
    (np.array([1e308]), np.array([-1e308])), (np.array([2**53 + 1]), np.array([2**53])),
    (GOOD + np.float32(1.01e-3), GOOD)])
def test_must_fail(actual, expected):
    with pytest.raises(AssertionError):
        assert_close(actual, expected, atol=1e-3)


def test_transposed_of_a_square_fails():
    square = GOOD[:, :3]
    with pytest.raises(AssertionError, match="6 of 9 differ"):
        assert_close(square.T, square, atol=1e-3)


@pytest.mark.parametrize("atol, rtol", [(np.inf, 0), (np.nan, 0), (-1, 0), (0, 1), (0, np.nan), (0, np.inf)])
def test_tolerances_that_would_pass_anything(atol, rtol):
    with pytest.raises(AssertionError, match="no tolerances"):
        assert_close(GOOD, GOOD, atol=atol, rtol=rtol)


@pytest.mark.parametrize("actual, expected", [
    (GOOD, GOOD), (spoilt(np.nan), spoilt(np.nan)), (spoilt(np.inf), spoilt(np.inf)), (GOOD.astype(np.float64), GOOD),
    (np.array([True]), np.array([1])), (np.arange(3), np.arange(3, dtype=np.uint8)),
    (np.arange(3).astype(ml_dtypes.bfloat16), np.arange(3)), (np.float16(1), 1.0)])
def test_must_pass_exactly(actual, expected):
    assert assert_close(actual, expected, atol=0.0) == 0.0


def test_share_of_the_tolerance():
    assert assert_close([1.0, 2.25], [1.0, 2.0], atol=1.0) == 0.25
    assert assert_close([8.0, 1.0], [10.0, 1.0], atol=0.0, rtol=0.5) == 0.4
    assert assert_close([8.0], [10.0], atol=5.0, rtol=0.5) == 0.2


def test_message_names_the_worst_place():
    actual = GOOD.copy()
    actual[0, 1] += 0.1
    actual[2, 3] = -1.0
    with pytest.raises(AssertionError) as caught:
        assert_close(actual, GOOD, atol=0.5, name="layer07")
    text = str(caught.value)
    assert text.startswith("layer07: 1 of 12 differ; worst at (2, 3)")
    assert "-1.0" in text and "1.5714" in text and "514 % of the tolerance" in text and "atol 0.5" in text


def test_message_of_a_nan():
    with pytest.raises(AssertionError, match=r"k00: 1 NaN, expected 0; first differs at \(1, 2\): nan against 0.857"):
        assert_close(spoilt(np.nan), GOOD, atol=0.5, name="k00")
    with pytest.raises(AssertionError, match=r"q: shape \(4, 3\), expected \(3, 4\)"):
        assert_close(GOOD.T, GOOD, atol=0.5, name="q")


def test_nothing_is_changed():
    x, y = spoilt(np.nan), spoilt(np.nan)
    x.flags.writeable = y.flags.writeable = False
    assert_close(x, y, atol=0.0)
