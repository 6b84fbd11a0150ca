"""Packed weights: what looks like an array and unpacks what is asked for, against the same numbers unpacked at once."""

import doctest

import numpy as np
import pytest

from tiny.files.packed import array
from tiny.files.packed.array import Packed
from tiny.files.weights import halves_to_pairs
from tiny.numerics import embed

RNG = np.random.default_rng(0)
STORED, SCALES = RNG.integers(-127, 128, (12, 8), dtype=np.int8), RNG.random((12, 1), np.float32)
FULL = STORED * SCALES


def packed(seen=None):
    """int8 with one scale a row; `seen` collects how many rows were unpacked."""
    def unpack(raw, scale):
        seen.append(raw.size // 8) if seen is not None else None
        return raw * scale
    return Packed("int8", (12, 8), (STORED, SCALES), unpack)


@pytest.mark.parametrize("index", [
    3, -1, slice(2, 7), slice(None), slice(0, 0), slice(None, None, -2), np.array([5, 5, 0]), np.array([[1, 2]]),
    (2, 3), (slice(1, 4), slice(None, 2)), (np.array([0, 2]), np.array([1, 7])), (np.array([4, 1]), slice(3)),
    FULL[:, 0] > 0, (slice(None), None), np.int64(4)], ids=str)
def test_slices_are_those_of_an_array(index):
    found = packed()[index]
    assert isinstance(found, (np.ndarray, np.float32)) and found.dtype == np.float32
    assert found.shape == FULL[index].shape and (found == FULL[index]).all()


def test_it_looks_like_an_array():
    weight = packed()
    assert (weight.shape, weight.ndim, weight.size, len(weight), weight.dtype) == ((12, 8), 2, 96, 12, np.float32)
    assert weight.nbytes == 96 + 48 and weight.kind == "int8"
    for whole in (np.asarray(weight), np.ascontiguousarray(weight, np.float32), weight.astype(np.float32)):
        assert type(whole) is np.ndarray and (whole == FULL).all()
    assert weight.astype(np.float64).dtype == np.float64
    assert doctest.testmod(array).failed == 0


def test_views_stay_packed():
    """Hugging Face's order of rows, one expert of a stack, some rows: nothing is unpacked for any of them."""
    seen = []
    pairs = halves_to_pairs(packed(seen), 4)
    stack = packed(seen).reshape(3, 4, 8)
    expert, half = stack.part(1), stack.part((2, slice(2, 4)))
    assert not seen and all(type(view) is Packed for view in (pairs, stack, expert, half))
    assert (pairs[:] == halves_to_pairs(FULL, 4)).all() and pairs.shape == (3, 2, 2, 8)
    assert (expert[:] == FULL[4:8]).all() and (half[:] == FULL[10:12]).all()
    with pytest.raises(ValueError, match="cannot become rows of 4"):
        packed().reshape(-1, 4)
    with pytest.raises(ValueError, match="Packed expects two axes and more, and parts"):
        Packed("int8", (12, 8), (STORED, SCALES[:5]), np.multiply)


def test_the_book_takes_it():
    seen = []
    table = embed(np.array([7, 2]), packed(seen))
    assert (table == FULL[[7, 2]]).all() and seen == [2], "two rows are looked up, and no more are unpacked"
