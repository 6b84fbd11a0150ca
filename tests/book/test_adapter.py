"""The adapter against loops in float64."""

import numpy as np
import pytest
import reference
from compare import assert_close
from small import random_tensors, sizes, vision_sizes
from tolerances import OPS

from tiny.adapter import ROWS, adapter, splice
from tiny.numerics import gelu, linear, round_to

CONFIG = sizes(None, vision=vision_sizes())
NAME = "vision_language_adapter."
TENSORS = {name: x for name, x in random_tensors(CONFIG).items() if name.startswith(NAME)}


def inputs(rows):
    return np.random.default_rng(8).standard_normal((rows, CONFIG.vision.hidden_size)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 31, 130])
def test_against_the_loops(rows):
    x = inputs(rows)
    before, y = x.copy(), adapter(x, TENSORS)
    assert y.dtype == np.float32 and y.shape == (rows, CONFIG.dim)
    expected = reference.adapt(x, TENSORS)
    assert 0.5 < expected.std() < 4
    assert_close(y, expected, OPS["adapter"], name="adapter")
    assert_close(x, before, 0.0, name="the argument is left alone")


def test_blocks_of_patches():
    x = inputs(2 * ROWS + 3)
    y = adapter(x, TENSORS)
    assert len(y) == len(x)
    for rows in (slice(0, 3), slice(ROWS - 1, ROWS + 2), slice(2 * ROWS, None)):
        assert_close(y[rows], adapter(x[rows], TENSORS), OPS["adapter"], name="rows of different blocks")


def test_each_of_the_four_tensors_counts():
    x = inputs(5)
    whole = adapter(x, TENSORS)
    assert sorted(TENSORS) == [NAME + part for part in ("w_in.bias", "w_in.weight", "w_out.bias", "w_out.weight")]
    for name in TENSORS:
        assert np.abs(adapter(x, TENSORS | {name: 0 * TENSORS[name]}) - whole).max() > 0.1, name


def test_bfloat16_rounds_after_each_bias_and_the_gelu():
    x = round_to(inputs(9), "bfloat16")
    w = {name.removeprefix(NAME): tensor.astype(np.float32) for name, tensor in TENSORS.items()}
    hidden = round_to(linear(x, w["w_in.weight"]) + w["w_in.bias"], "bfloat16")
    hidden = round_to(gelu(hidden), "bfloat16")
    y = round_to(linear(hidden, w["w_out.weight"]) + w["w_out.bias"], "bfloat16")
    assert_close(adapter(x, TENSORS, "bfloat16"), y, 0.0)


@pytest.mark.parametrize("rows", [0, 1, 3, 4])
def test_a_splice_has_one_row_for_each_token_of_an_image(rows):
    """A single row would fit all of them, and be the same patch everywhere."""
    ids, text = np.array([1, 10, 10, 12, 5]), np.zeros((5, 3), np.float32)
    with pytest.raises(ValueError, match=rf"one row of features for each \[IMG\] in ids; got {rows} rows"):
        splice(text, ids, np.ones((rows, 3), np.float32), 10)
    y = splice(text, ids, np.ones((2, 3), np.float32), 10)
    assert_close(y[:, 0], [0, 1, 1, 0, 0], 0.0)
    assert y.dtype == np.float32
    assert_close(splice(text, np.array([1, 2, 3, 4, 5]), np.ones((0, 3), np.float32), 10), text, 0.0, name="no image")
