"""Weights that stay packed: what looks like a float32 array, and unpacks the rows that somebody asks for.

The book takes it as it takes an array: `linear` slices blocks of rows, `embed` picks some. Nothing unpacked is kept.

>>> doubled = Packed("doubled", (2, 3), (np.arange(6, dtype=np.int8).reshape(2, 3),), lambda raw: raw * np.float32(2))
>>> doubled[1], doubled.dtype, doubled.nbytes
(array([ 6.,  8., 10.], dtype=float32), dtype('float32'), 6)
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

FLOAT32 = np.dtype(np.float32)
BLOCK = 4 << 20  # bytes of float32 that are unpacked at a time when all of an array is wanted


def form_of(tensor: "np.ndarray | Packed") -> str:
    """In which form a tensor is stored, for lists: its dtype, or the kind of a packed one."""
    return tensor.kind if isinstance(tensor, Packed) else str(tensor.dtype)


def stored_of(tensor: Any) -> Any:
    """The array that holds a tensor's numbers as they are stored; several parts are not one, and come back as they are.

    Shapes:  any
    """
    return tensor.parts[0] if isinstance(tensor, Packed) and len(tensor.parts) == 1 else tensor


class Packed:
    """An array of float32 numbers that is stored in another form, unpacked row by row.

    kind:   the name of the form, for messages and lists: "Q4_K"
    parts:  arrays in which the numbers are stored. They have the axes of `shape` but for the last one, whose length
            is that of a packed row: (out, bytes of a row), or (out, 1) for scales
    unpack: makes float32 rows of some rows of each part. Shapes:  parts (..., packed) -> (..., in), or any shape of
            so many numbers. It may also get no rows at all
    row_bytes: the bytes in which a row is stored, where the parts do not say it: rows may share a word
    whole:  is called before anything is read; it raises TinyError if the file is no longer whole
    dtype:  what the whole array becomes for NumPy; its slices are float32
    share:  for several processes: which part of a matrix this is
    """

    share: Any

    def __init__(self, kind: str, shape: tuple[int, ...], parts: tuple[np.ndarray, ...],
                 unpack: Callable[..., np.ndarray], row_bytes: float | None = None,
                 whole: Callable[[], None] = lambda: None, dtype: np.dtype = FLOAT32):
        if len(shape) < 2 or any(part.shape[:-1] != shape[:-1] for part in parts):
            raise ValueError(f"Packed expects two axes and more, and parts {(*shape[:-1], 'any')}; got "
                             f"{[part.shape for part in parts]}.")
        self.kind, self.shape, self.parts, self.unpack, self.row_bytes = kind, shape, parts, unpack, row_bytes
        self.whole, self.dtype = whole, dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes in which these are stored."""
        if self.row_bytes is not None:
            return round(math.prod(self.shape[:-1]) * self.row_bytes)
        return sum(part.nbytes for part in self.parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Unpack some rows: a number, a slice or indices for the first axis; behind that, what NumPy takes.

        Dtypes:  -> float32
        """
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice):
            rows = self.unpacked(first)
            return rows[(slice(None), *rest)] if rest else rows
        # Each index once, then as NumPy does it: a number takes an axis away, two lists make pairs.
        first = np.asarray(first)
        first = np.flatnonzero(first) if first.dtype == bool else first
        return self.unpacked(first.ravel())[(np.arange(first.size).reshape(first.shape), *rest)]

    def unpacked(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows of the first axis as float32. Shapes:  (n,) -> (n, ..., in)."""
        self.whole()
        parts = [part[rows] for part in self.parts]
        return self.unpack(*parts).reshape(*parts[0].shape[:-1], self.shape[-1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Unpack all of it, for NumPy, a block of rows at a time."""
        out = np.empty(self.shape, dtype or self.dtype)
        step = max(1, BLOCK // (4 * math.prod(self.shape[1:])))
        for start in range(0, len(self), step):
            out[start : start + step] = self[start : start + step]
        return out

    def astype(self, dtype: Any, order: str = "C", copy: bool = True) -> np.ndarray:
        """Unpack all of it, in another dtype; as NumPy's, but always contiguous and a copy."""
        return self.__array__(dtype)

    def cast(self, dtype: np.dtype) -> "Packed":
        """The same, still packed, which becomes another dtype when NumPy wants all of it."""
        return Packed(self.kind, self.shape, self.parts, self.unpack, self.row_bytes, self.whole, dtype)

    def part(self, index: Any) -> "Packed":
        """Some of it, still packed: one expert of a stack, or some of its rows."""
        return self.of_parts(part[index] for part in self.parts)

    def columns(self, cut: slice) -> "Packed":
        """Some of its columns, still packed: whole rows are unpacked, and the rest of them is dropped."""
        part, width = self.of_parts(self.parts), self.shape[-1]
        part.shape = (*self.shape[:-1], len(range(width)[cut]))
        part.unpack = lambda *parts: self.unpack(*parts).reshape(*parts[0].shape[:-1], width)[..., cut]
        return part

    def reshape(self, *shape: Any) -> "Packed":
        """Other axes before the last one, still packed. Raises ValueError if the last one is to change.

        Shapes:  (n, ..., in) -> (..., in), as many rows in all; one of the sizes may be -1; or one tuple
        """
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        if shape[-1] != self.shape[-1]:
            raise ValueError(f"A packed row of {self.shape[-1]} numbers cannot become rows of {shape[-1]}.")
        return self.of_parts(part.reshape(*shape[:-1], part.shape[-1]) for part in self.parts)

    def swapaxes(self, first: int, second: int) -> "Packed":
        """Two axes exchanged, still packed; the last one stays where it is."""
        return self.of_parts(part.swapaxes(first, second) for part in self.parts)

    def of_parts(self, parts: Iterable[np.ndarray]) -> "Packed":
        """The same form with other rows."""
        first, *rest = parts
        return Packed(self.kind, (*first.shape[:-1], self.shape[-1]), (first, *rest), self.unpack, self.row_bytes,
                      self.whole, self.dtype)
