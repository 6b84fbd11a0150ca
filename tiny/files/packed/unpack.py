"""Whole numbers of two, four or eight bits that share words of 32, and the scales that multiply them.

Rows are outputs, as in every matrix here. A format packs neighbours of a row into a word, or neighbours of a column.
Read `compressed.py` next.

>>> along_rows(np.array([[0x76543210]], np.int32), 4)
array([[0, 1, 2, 3, 4, 5, 6, 7]], dtype=uint8)
"""

from collections.abc import Mapping

import numpy as np

BITS = (2, 4, 8)  # of a number; others would share bytes with two neighbours


def taken(parts: Mapping[str, np.ndarray], *names: str) -> list[np.ndarray]:
    """Some tensors of a module. Raises ValueError if one is not there."""
    if lost := [name for name in names if name not in parts]:
        raise ValueError(f"it has no {lost[0]}, only {', '.join(sorted(parts))}")
    return [parts[name] for name in names]


def along_rows(words: np.ndarray, bits: int) -> np.ndarray:
    """The numbers in the words of each row, lowest bits first. Shapes:  words (..., W) -> (..., W * 32 / bits)."""
    # (1) in a word the byte with the lowest bits comes first
    raw = np.ascontiguousarray(words).view(np.uint8)
    each = 8 // bits
    if each == 1:
        return raw
    # (2) and in a byte the number with the lowest bits
    numbers = np.empty((*raw.shape[:-1], raw.shape[-1] * each), np.uint8)
    for place in range(each):
        np.bitwise_and(raw >> bits * place, (1 << bits) - 1, out=numbers[..., place::each])
    return numbers


def across_rows(words: np.ndarray, bits: int, rows: np.ndarray,
                order: tuple[int, ...] = tuple(range(16))) -> np.ndarray:
    """The numbers of some rows, where a word holds a column's numbers of several rows.

    order: which of these rows each place of a word holds, lowest bits first

    Shapes:  words (out * bits / 32, in), rows (..., 1) int -> (..., in)
    """
    place = np.argsort(order[: 32 // bits]).astype(np.int32)
    word, row = np.divmod(rows[..., 0], 32 // bits)
    # Neighbouring rows share their words, and those of a column may lie far apart: each is fetched once.
    needed, which = np.unique(word, return_inverse=True)
    found = np.ascontiguousarray(words[needed])[which.reshape(word.shape)]
    return found >> (place * np.int32(bits))[row][..., None] & (1 << bits) - 1


def scaled(whole: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None,
           groups: np.ndarray | None = None) -> np.ndarray:
    """The float32 numbers (whole - zero) * scale, where some columns share a zero and a scale.

    groups: which zero and scale each column has; without it each has as many neighbouring columns

    Shapes:  whole (..., in), scale and zero (..., G), groups (in,) -> (..., in)
    Order:   the difference is exact, the product is rounded to float32 once
    """
    numbers, scale = whole.astype(np.float32, copy=False), scale.astype(np.float32)
    zero = None if zero is None else zero.astype(np.float32)
    if groups is not None:
        return (numbers if zero is None else numbers - zero[..., groups]) * scale[..., groups]
    numbers = numbers.reshape(*scale.shape, whole.shape[-1] // scale.shape[-1])
    if zero is not None:
        numbers -= zero[..., None]
    numbers *= scale[..., None]
    return numbers.reshape(whole.shape)


def groups_of(index: np.ndarray | None, size: int, width: int) -> np.ndarray | None:
    """Which scale each column has, if it is not that of `size` neighbours: None then, so that no column looks it up.

    Shapes:  index (in,) -> (in,)
    Raises:  ValueError if the groups are not as many as the columns make, or have other numbers
    """
    count = -(-width // size)
    if index is None and width % size:
        raise ValueError(f"{width} columns make no groups of {size}")
    if index is None:
        return None
    if index.shape != (width,) or index.dtype.kind != "i" or not 0 <= index.min() <= index.max() < count:
        raise ValueError(f"the groups of its columns are {index.shape} of {index.dtype}, or not all below {count}")
    regular = width % size == 0 and (index == np.arange(width) // size).all()
    return None if regular else index
