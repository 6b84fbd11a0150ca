"""The KV cache: keys and values of every token so far, so that a new token costs one row and not a whole pass.

Keys are kept after RoPE, and once for each KV head. Read `router.py` next.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiny.numerics import PRECISIONS, STORED, check_precision, need

DTYPES = dict(zip(PRECISIONS, STORED))  # how keys and values are kept, by name


@dataclass
class Slot:
    """The rows of one sequence: `capacity` rows from `start` on, `length` of them filled."""

    start: int
    capacity: int
    length: int = 0


def new_cache(n_layers: int, n_kv_heads: int, head_dim: int, max_tokens: Sequence[int],
              dtype: str = "float32") -> "KVCache":
    """An empty cache where the operations have their arrays; here, on the host."""
    return KVCache(n_layers, n_kv_heads, head_dim, max_tokens, dtype)


class KVCache:
    """Keys and values of several sequences, each in its own range of rows of one array.

    dtype: how it stores numbers, "float32" or "bfloat16", which takes half the memory

    Shapes:  keys, values (L, S, G, d) with S the sum of max_tokens
    Dtypes:  as dtype says; untouched rows cost no memory until they are written
    Raises:  ValueError for another dtype
    Source:  mistral-inference cache.py, BufferCache, without its window
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, max_tokens: Sequence[int],
                 dtype: str = "float32"):
        check_precision(dtype)
        shape = (n_layers, sum(max_tokens), n_kv_heads, head_dim)
        self.keys, self.values = np.empty(shape, DTYPES[dtype]), np.empty(shape, DTYPES[dtype])
        starts = np.cumsum([0, *max_tokens[:-1]])
        self.slots = [Slot(int(start), capacity) for start, capacity in zip(starts, max_tokens)]

    @property
    def lengths(self) -> list[int]:
        """How many tokens each sequence holds."""
        return [slot.length for slot in self.slots]

    def subset(self, indices: Sequence[int]) -> "KVCache":
        """The cache of some of the sequences: it shares their rows and their lengths with this one."""
        part = copy.copy(self)
        part.slots = [self.slots[n] for n in indices]
        return part

    def append(self, layer: int, k: np.ndarray, v: np.ndarray, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Write the new rows of one layer after the old ones; return each sequence's span, old and new rows.

        Shapes:  k, v (T, G, d); lengths: new tokens of each sequence, T in all
        Dtypes:  float32, rounded to the nearest number that the cache can store, ties to even
        Raises:  ValueError for another dtype or other shapes, or if a sequence would outgrow its rows
        """
        need("append", "k", k, ("T", "G", "d"))
        need("append", "v", v, ("T", "G", "d"))
        wanted = (sum(lengths), *self.keys.shape[2:])
        if k.shape != wanted or v.shape != wanted:
            raise ValueError(f"append expects k and v {wanted}, one row for each new token; got {k.shape}, {v.shape}.")
        spans, first = [], 0
        for slot, length in zip(self.slots, lengths, strict=True):
            if slot.length + length > slot.capacity:
                raise ValueError(f"The cache has {slot.capacity} rows for a sequence of {slot.length + length} tokens. "
                                 "Ask new_cache for more.")
            row = slot.start + slot.length
            # (1) the rows after those already filled
            self.keys[layer, row : row + length] = k[first : first + length]
            self.values[layer, row : row + length] = v[first : first + length]
            # (2) what attention may see: everything from the start of the sequence on
            spans.append((slot.start, row + length))
            first += length
        return spans

    def advance(self, lengths: Sequence[int]) -> None:
        """Count the new tokens once every layer has appended them."""
        for slot, length in zip(self.slots, lengths, strict=True):
            slot.length += length
