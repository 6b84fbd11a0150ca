"""The KV cache on a device: the book's slots, and rows that kernels write."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from tiny.kv_cache import KVCache, Slot


class DeviceCache(KVCache):
    """The KV cache on the device, in the type in which the precision stores it.

    steps: the graphs of the last steps with this cache, by the number of their sequences; its parts share them
    """

    def __init__(self, ops: Any, n_layers: int, n_kv_heads: int, head_dim: int, max_tokens: Sequence[int]) -> None:
        shape = (n_layers, sum(max_tokens), n_kv_heads, head_dim)
        self.ops = ops
        self.steps: dict[int, Any] = {}
        self.keys, self.values = (ops.launcher.empty(shape, ops.dtype) for _ in range(2))
        starts = np.cumsum([0, *max_tokens[:-1]])
        self.slots = [Slot(int(start), capacity) for start, capacity in zip(starts, max_tokens)]
        self.places: tuple = ((), None)  # where the tokens of a pass go, which all layers share

    def __deepcopy__(self, memo: dict) -> "DeviceCache":
        """A cache that goes on by itself: rows of its own on the same device, and no steps yet."""
        other = copy.copy(self)
        other.slots, other.steps = copy.deepcopy(self.slots, memo), {}
        other.keys, other.values = (self.ops.launcher.empty(self.keys.shape, self.keys.dtype) for _ in range(2))
        other.keys[...], other.values[...] = self.keys, self.values
        return other

    def append(self, layer: int, k: Any, v: Any, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Write the new rows of one layer; return each sequence's span, old and new rows.

        Shapes:  k, v (T, G, d)
        Raises:  ValueError if a sequence would outgrow its rows
        """
        self.check_room(lengths)
        firsts = [slot.start + slot.length for slot in self.slots]
        if self.places[0] != (firsts, lengths):
            self.places = (firsts, lengths), self.ops.counted(firsts, lengths)
        self.ops.append(k, v, self.places[1], self.keys[layer], self.values[layer])
        return [(slot.start, first + length) for slot, first, length in zip(self.slots, firsts, lengths)]

    def check_room(self, lengths: Sequence[int]) -> None:
        """Raise ValueError if a sequence would outgrow its rows."""
        for slot, length in zip(self.slots, lengths, strict=True):
            if slot.length + length > slot.capacity:
                raise ValueError(f"The cache has {slot.capacity} rows for a sequence of {slot.length + length} tokens. "
                                 "Ask new_cache for more.")


class StepCache:
    """The cache as a step sees it: rows and spans are read on the device."""

    def __init__(self, cache: DeviceCache, rows: Any, spans: Any) -> None:
        self.ops, self.keys, self.values, self.rows, self.spans = cache.ops, cache.keys, cache.values, rows, spans

    def append(self, layer: int, k: Any, v: Any, lengths: Sequence[int]) -> Any:
        """Write one row for each sequence. Shapes:  k, v (N, G, d) -> spans (N, 2)."""
        self.ops.append(k, v, self.rows, self.keys[layer], self.values[layer])
        return self.spans
