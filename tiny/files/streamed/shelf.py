"""A shelf for tensors: memory of a limited size, on which those stay that were used last.

A tensor is read straight into pages of its own. It makes room for another only when nobody uses it: not while it is on
its way, and not while an array that was handed out is alive, or a view of one. Read `__init__.py` next.
"""

import mmap
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from tiny.files.packed.array import Packed, stored_of
from tiny.system.direct import Arrival, DirectReader, Span, pages_for


def stacked(table: Any, arrivals: Sequence[Arrival]) -> np.ndarray:
    """Rows of a table, each in a buffer of its own, one upon the other. Shapes:  -> (n, D)."""
    stored = stored_of(table)
    rows = np.stack([np.ndarray(stored.shape[1:], stored.dtype, arrival.buffer, arrival.skip) for arrival in arrivals])
    return table.of_parts([rows])[:] if isinstance(table, Packed) else rows


class Tenant:
    """A tensor in its buffer, or on its way there."""

    def __init__(self, arrival: Arrival):
        self.arrival = arrival
        self.handed_out: Any = lambda: None  # a weak reference to the array, once there is one

    def array(self, like: Any) -> Any:
        """The tensor as an array that looks like the view of the mapped file. Shapes:  any."""
        array, stored = self.handed_out(), stored_of(like)
        if array is None:
            array = np.ndarray(stored.shape, stored.dtype, self.arrival.buffer, self.arrival.skip, stored.strides)
            array.flags.writeable = False
            self.handed_out = weakref.ref(array)
        return like.of_parts([array]) if isinstance(like, Packed) else array


class Shelf:
    """The tensors that are in memory, by name.

    spans: where each tensor is; limit: bytes of all buffers; kept: names that stay whatever comes
    """

    def __init__(self, reader: DirectReader, spans: Mapping[str, Span]):
        self.reader, self.spans = reader, spans
        self.sizes = {name: pages_for(span.size) for name, span in spans.items()}
        self.limit, self.kept = 0, set[str]()
        self.tenants: OrderedDict[str, Tenant] = OrderedDict()  # the one used least recently first
        self.stock: defaultdict[int, list[mmap.mmap]] = defaultdict(list)  # buffers without a tenant, by size

    def taken(self) -> int:
        """Bytes of all buffers."""
        return sum(self.sizes[name] for name in self.tenants) + sum(
            size * len(buffers) for size, buffers in self.stock.items())

    def make_room(self, name: str, wanted: Set[str]) -> bool:
        """Give up what was used least recently, until a buffer for a tensor is left, or memory for one.

        What is kept, wanted, in use or on its way stays; the answer is no if that leaves too little.
        """
        size = self.sizes[name]
        while not self.stock[size] and self.taken() + size > self.limit:
            if other := next((other for other, buffers in self.stock.items() if buffers), 0):
                self.stock[other].pop()
                continue
            free = [old for old, tenant in self.tenants.items() if old not in self.kept and old not in wanted
                    and not tenant.arrival.left and tenant.handed_out() is None]
            if not free:
                return False
            # Its buffer is used again if it has the right size; new memory costs more, for it is filled with zeros.
            oldest = self.choose([old for old in free if self.sizes[old] == size] or free)
            buffer = self.tenants.pop(oldest).arrival.buffer
            self.stock[len(buffer)].append(buffer)
        return True

    def choose(self, free: Sequence[str]) -> str:
        """Which tensor goes: of the layer that holds most, the one used least recently; of equal layers the last one.

        A token goes through all layers before it comes back to one. What is the oldest on the whole shelf is just what
        comes next, so without this a shelf for less than one token would never have what is asked for.
        """
        holds: Counter[str] = Counter()
        for name in self.tenants:
            holds[layer_of(name)] += self.sizes[name]
        most = max(holds[layer_of(name)] for name in free)
        layer = next(layer_of(name) for name in reversed(free) if holds[layer_of(name)] == most)
        return next(name for name in free if layer_of(name) == layer)

    def begin(self, name: str) -> None:
        """Begin to read a tensor, into a buffer that was left or a new one."""
        size = self.sizes[name]
        buffer = self.stock[size].pop() if self.stock[size] else mmap.mmap(-1, size)
        self.tenants[name] = Tenant(self.reader.read(name, self.spans[name], buffer))

    def forget_unread(self) -> None:
        """Give up what is not there or could not be read, with its buffers: a read may still be writing into them."""
        for name in [name for name, tenant in self.tenants.items() if tenant.arrival.left or tenant.arrival.error]:
            del self.tenants[name]


def layer_of(name: str) -> str:
    """The layer of a matrix of a feed-forward network; other tensors are by themselves."""
    return name.partition(".feed_forward.")[0]
