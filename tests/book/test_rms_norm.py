"""RMSNorm against its definition in loops, and where epsilon is added."""

import math

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

from tiny.numerics import round_to
from tiny.rms_norm import rms_norm

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("T", [1, 2, 31, 65])
@pytest.mark.parametrize("D", [1, 48])
@pytest.mark.parametrize("scale", [1, 1e-3, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_against_the_loops(T, D, scale, dtype):
    x = (scale * RNG.standard_normal((T, D))).astype(np.float32)
    weight = (1 + RNG.standard_normal(D) / 2).astype(dtype)
    y = rms_norm(x, weight, 1e-5)
    assert y.dtype == np.float32
    for row, out in zip(x, y):
        root = math.sqrt(math.fsum(float(v) ** 2 for v in row) / D + 1e-5)
        assert_close(out, [float(v) / root * float(w) for v, w in zip(row, weight)], OPS["rms_norm"], name="rms_norm")


def test_epsilon_is_inside_the_root():
    """A row far below sqrt(eps) is divided by sqrt(eps), and not by eps."""
    x = np.full((1, 4), 1e-6, np.float32)
    assert_close(rms_norm(x, np.ones(4, np.float32), 1e-4), np.full((1, 4), 1e-4), 1e-9, name="small row")
    assert_close(rms_norm(np.zeros((2, 4), np.float32), np.ones(4, np.float32), 1e-5), np.zeros((2, 4)), 0.0)


def test_the_weight_multiplies_after_rounding():
    x, weight = RNG.standard_normal((9, 31)).astype(np.float32), RNG.standard_normal(31).astype(np.float32)
    normed = rms_norm(x, np.ones(31, np.float32), 1e-5)
    expected = round_to(round_to(normed, "bfloat16") * weight, "bfloat16")
    assert_close(rms_norm(x, weight, 1e-5, "bfloat16"), expected, 0.0)
    assert (expected != round_to(normed * weight, "bfloat16")).any()


def test_rows_do_not_see_each_other_and_nothing_is_changed():
    x, weight = RNG.standard_normal((5, 7)).astype(np.float32), np.ones(7, np.float32)
    before, whole = x.copy(), rms_norm(x, weight, 1e-5)
    for n in range(5):
        assert_close(rms_norm(x[n : n + 1], weight, 1e-5)[0], whole[n], 2e-7)
    assert_close(x, before, 0.0)


@pytest.mark.parametrize("weight", [(3,), (5,), (1,), (4, 1), (2, 4)])
def test_refuses(weight):
    with pytest.raises(ValueError, match="rms_norm expects"):
        rms_norm(np.zeros((2, 4), np.float32), np.ones(weight, np.float32), 1e-5)
