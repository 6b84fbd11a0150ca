"""Rotary positions of patches: printed vectors, complex numbers, and what they are there for."""

import cmath

import numpy as np
import pytest
from compare import assert_close
from oracles import Oracle
from tolerances import FIXTURE, OPS, PIXTRAL

from tiny.rope import rope, rope_table
from tiny.rope_2d import patch_positions, rope_2d_table

RNG = np.random.default_rng(7)
# The angles of the pairs 0, 1, 15, 16, 17 and 31 of a head of 64 at row 3, column 5; theta is 10,000.
ANGLES = {0: 3.0, 1: 1.68702398, 15: 5.33483823e-4, 16: 3.74947105, 17: 2.10848252, 31: 6.66760716e-4}
# arange(64) / 64 turned to row 2, column 3.
TURNED = {0: (-0.014208, -0.006502, -0.028804, 0.048416, 0.004229, 0.099959, 0.049798, 0.135174),
          32: (-0.71526, 0.065362, -0.36163, 0.67121, 0.0486, 0.805154, 0.309533, 0.792506)}


def table(*places, head_dim=64, theta=1e4):
    return rope_2d_table(np.array(places), head_dim, theta)


@pytest.mark.parametrize("grids", [[(1, 1)], [(3, 2)], [(2, 3), (1, 1), (64, 1), (1, 64), (2, 3)]])
def test_positions_run_row_by_row_and_start_again_with_each_image(grids):
    expected = [[row, column] for columns, rows in grids for row in range(rows) for column in range(columns)]
    assert patch_positions(grids).tolist() == expected


def test_printed_angles():
    cos, sin = table((3, 5))
    assert cos.shape == sin.shape == (1, 32) and cos.dtype == sin.dtype == np.float32
    assert_close(cos[0, list(ANGLES)], np.cos(list(ANGLES.values())), OPS["rope_table"], name="cos")
    assert_close(sin[0, list(ANGLES)], np.sin(list(ANGLES.values())), OPS["rope_table"], name="sin")


def test_printed_vector():
    x = (np.arange(64, dtype=np.float32) / 64).reshape(1, 1, 64)
    y = rope(x, *table((2, 3)))[0, 0]
    for start, printed in TURNED.items():
        assert_close(y[start : start + 8], printed, FIXTURE["printed"], name=f"from {start}")
    assert_close(y.sum(dtype=float), 28.457090377902745, FIXTURE["sum of a head"], name="sum")


def test_printed_vector_of_the_decoder():
    """Theta is 1e9 there, and a head has 128 numbers: arange(128) / 128 at position 7."""
    x = (np.arange(128, dtype=np.float32) / 128).reshape(1, 1, 128)
    y = rope(x, *rope_table(np.array([7]), 128, 1e9))[0, 0]
    printed = [-0.005133, 0.00589, 0.027383, -0.006604, -0.007636, -0.049438, -0.067142, -0.026076]
    assert_close(y[:8], printed, FIXTURE["printed"], name="first eight")
    assert_close(y.sum(dtype=float), 62.56864285578663, FIXTURE["sum of a head"], name="sum")


@pytest.mark.parametrize("head_dim, theta", [(4, 1e4), (8, 1e4), (12, 1e3), (64, 1e4)])
def test_against_complex_numbers(head_dim, theta):
    places = [(int(row), int(column)) for row, column in RNG.integers(0, 64, (31, 2))]
    cos, sin = table(*places, head_dim=head_dim, theta=theta)
    quarter = head_dim // 4
    turns = [[cmath.exp(1j * row * theta ** (-4 * i / head_dim)) for i in range(quarter)]
             + [cmath.exp(1j * column * theta ** (-(4 * i + 2) / head_dim)) for i in range(quarter)]
             for row, column in places]
    assert_close(cos, np.array(turns).real, OPS["rope_table"], name="cos")
    assert_close(sin, np.array(turns).imag, OPS["rope_table"], name="sin")


def test_tables_of_both_references():
    """mistral-inference has a table of all places, transformers a row for each patch, with each angle twice."""
    oracle = Oracle("pixtral-a")
    places = [(row, column) for row in range(10) for column in range(10)]
    cos, sin = table(*places, head_dim=12)
    for name, ours in (("cos", cos), ("sin", sin)):
        theirs = oracle.mistral[f"vision_rope/{name}"]
        assert_close(ours.reshape(10, 10, 6), theirs, PIXTRAL["rope"], name=f"mistral {name}")
        for case, info in oracle.cases.items():
            if info["image_shapes"]:
                grids = [(width // 16, height // 16) for _, height, width in info["image_shapes"]]
                rows = ours.reshape(10, 10, 6)[tuple(patch_positions(grids).T)]
                assert_close(np.concatenate([rows, rows], axis=1), oracle.hf[f"{case}/vision_rope_{name}"],
                             PIXTRAL["rope"], name=f"hf {name} of {case}")


def test_scores_depend_on_the_distance_in_each_direction():
    q, k = (RNG.standard_normal((1, 1, 32)).astype(np.float32) for _ in range(2))

    def score(here, there):
        a, b = (rope(x, *table(place, head_dim=32)) for x, place in ((q, here), (k, there)))
        return float(a[0, 0].astype(float) @ b[0, 0].astype(float))

    for rows, columns in ((0, 0), (1, 0), (0, 1), (-3, 5)):
        scores = [score((10 + row + rows, 10 + column + columns), (10 + row, 10 + column))
                  for row, column in ((0, 0), (1, 0), (0, 1), (40, 33))]
        assert_close(scores, [scores[0]] * 4, OPS["rope_scores"], name=f"{rows} rows, {columns} columns")
    far = [score((10 + row, 10 + column), (10, 10)) for row, column in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    assert min(abs(a - b) for n, a in enumerate(far) for b in far[:n]) > 0.01, "each direction counts, and its sign"


@pytest.mark.parametrize("head_dim", [2, 6, 10])
def test_refuses(head_dim):
    with pytest.raises(ValueError, match=f"multiple of 4; got {head_dim}"):
        table((0, 0), head_dim=head_dim)
