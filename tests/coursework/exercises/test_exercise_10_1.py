"""Exercise 10.1, the backward pass of RMSNorm: one test for each idea; central differences are the judge.

All is in float64, where differences are good to nine digits. Loss means the sum of y * dout.
"""

import numpy as np
from compare import assert_close, assert_dtype

from tiny.training import backward as book

RNG = np.random.default_rng(101)
ROUGH, EXACT, STEP = 1e-3, 1e-9, 1e-5


def gradients(dout, x, weight, eps=1e-12, dtype=np.float64):
    """dx and dw, from arrays that are new."""
    dw = np.full(len(weight), np.nan, dtype)
    dx = book.rms_norm_backward(*(np.array(a, dtype) for a in (dout, x, weight)), eps, dw)
    return np.asarray(dx), dw


def differences(dout, x, weight, eps, which):
    """The gradient of the loss by x or by weight: each number is moved up and down by a little."""
    arrays = {"x": x.copy(), "weight": weight.copy()}
    moved = arrays[which]

    def loss():
        root = np.sqrt((arrays["x"] ** 2).mean(axis=1, keepdims=True) + eps)
        return np.sum(arrays["x"] / root * arrays["weight"] * dout)

    found = np.empty_like(moved)
    for place in np.ndindex(moved.shape):
        old = moved[place]
        moved[place] = old + STEP
        above = loss()
        moved[place] = old - STEP
        found[place] = (above - loss()) / (2 * STEP)
        moved[place] = old
    return found


def test_dw_is_written():
    _, dw = gradients([[1, 2]], [[1, 1]], [1, 1])
    assert_close(np.isnan(dw), np.array([False, False]), 0.0, name="places of dw that nothing was written to")


def test_dw_is_of_the_normalised_rows():
    """The row (3, 3) is normalised to (1, 1)."""
    _, dw = gradients([[1, 2]], [[3, 3]], [5, 7])
    assert_close(dw, np.array([1, 2]), ROUGH, name="dw for dout (1, 2) and x (3, 3)")


def test_dw_adds_up_over_the_tokens():
    _, dw = gradients([[1, 2], [10, 20]], [[1, 1], [1, 1]], [1, 1])
    assert_close(dw, np.array([11, 22]), ROUGH, name="dw for dout (1, 2) and (10, 20), both x (1, 1)")


def test_dx_goes_through_the_weight():
    """dout (2, -1) times weight (2, 4) is (4, -4), which does not change the length of x = (1, 1)."""
    dx, _ = gradients([[2, -1]], [[1, 1]], [2, 4])
    assert_close(dx, np.array([[4, -4]]), ROUGH, name="dx for dout (2, -1), x (1, 1) and weight (2, 4)")


def test_dx_is_divided_by_the_root():
    dx, _ = gradients([[1, -1]], [[10, 10]], [1, 1])
    assert_close(dx, np.array([[0.1, -0.1]]), ROUGH * 0.1, name="dx for dout (1, -1), x (10, 10) and weight (1, 1)")


def test_the_root_depends_on_x():
    """A longer x is divided by a larger root, and y stays. So a step along x changes no loss: dx has no part in it."""
    x = np.array([[1.0, 2, 3, 4]])
    dx, _ = gradients([[1, 0, 2, 5]], x, [1, 1, 1, 1])
    assert_close((dx * x).sum(axis=1), np.zeros(1), ROUGH, name="change of the loss for a step along x")


def test_tokens_do_not_mix():
    """The second token is far longer, and asks for much more."""
    alone, _ = gradients([[1, 0, 2]], [[1, 2, 3]], [1, 2, 1])
    both, _ = gradients([[1, 0, 2], [50, 0, 0]], [[1, 2, 3], [90, 1, 1]], [1, 2, 1])
    assert_close(both[:1], alone, ROUGH, name="dx of the first token, with a second one in the batch")


def test_differences_agree():
    """Also where eps is not small, which keeps short rows short."""
    x, dout, weight = RNG.standard_normal((3, 5)), RNG.standard_normal((3, 5)), RNG.standard_normal(5)
    dx, dw = gradients(dout, x, weight, eps=0.5)
    for name, mine in (("weight", dw), ("x", dx)):
        expected = differences(dout, x, weight, 0.5, name)
        assert_close(mine, expected, EXACT * max(1.0, np.abs(expected).max()), name=f"gradient by {name}, eps 0.5")


def test_the_type_is_kept():
    for dtype in (np.float32, np.float64):
        dx, _ = gradients([[1, 2]], [[3, 1]], [1, 2], dtype=dtype)
        assert_dtype(dx, dtype, f"type of dx if all is {np.dtype(dtype).name}")


def test_arguments_are_left_alone():
    arrays = {name: RNG.standard_normal(shape) for name, shape in (("dout", (2, 3)), ("x", (2, 3)), ("weight", (3,)))}
    before = {name: array.copy() for name, array in arrays.items()}
    book.rms_norm_backward(*arrays.values(), 1e-5, np.empty(3))
    for name, array in arrays.items():
        assert_close(array, before[name], 0.0, name=f"{name} afterwards")
