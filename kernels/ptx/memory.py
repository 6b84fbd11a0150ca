"""Memory: arrays at their own addresses, and every access to them checked before it happens.

A kernel gets the addresses that its arrays have on this machine, so results are where the caller looks for them, and
tables of pointers are right as they are. Shared memory has its addresses beyond all others.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

SHARED = 1 << 60  # where shared memory begins among all addresses; by itself it begins at 0


class Fault(Exception):
    """An access or a meeting that is wrong: what, and of which thread of its block."""

    def __init__(self, what: str, thread: int):
        super().__init__(what)
        self.what, self.thread = what, thread


@dataclass
class Region:
    """The bytes of one array, where they begin, and what to call them."""

    name: str
    start: int
    data: np.ndarray
    views: dict[np.dtype, tuple[int, np.ndarray]] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """The first address behind it."""
        return self.start + len(self.data)

    def numbers(self, dtype: np.dtype) -> tuple[int, np.ndarray]:
        """The bytes as numbers of a type, and the address of the first that is aligned."""
        if dtype not in self.views:
            skipped = -self.start % dtype.itemsize
            whole = (len(self.data) - skipped) // dtype.itemsize * dtype.itemsize
            self.views[dtype] = self.start + skipped, self.data[skipped : skipped + max(whole, 0)].view(dtype)
        return self.views[dtype]


class Memory:
    """The arrays that a kernel may touch, in the order of their addresses."""

    def hold(self, arrays: dict[str, np.ndarray], shared_bytes: int) -> None:
        """Take up the arrays of a launch, and make its shared memory."""
        regions = [Region(name, array.ctypes.data, array.reshape(-1).view(np.uint8))
                   for name, array in arrays.items() if array.size]
        self.regions: list[Region] = []
        for region in sorted(regions, key=lambda region: (region.start, -region.stop)):
            if not self.regions or region.stop > self.regions[-1].stop:  # not the same array, or a part of it, again
                self.regions.append(region)
        self.shared = Region("shared memory", SHARED, np.empty(shared_bytes, np.uint8))
        self.regions.append(self.shared)
        self.starts = [region.start for region in self.regions]

    def new_block(self) -> None:
        """Shared memory as a block finds it: whatever was there, here bytes that make every float NaN."""
        self.shared.data[:] = 0xFF

    def check(self, address: np.ndarray, threads: np.ndarray, size: int) -> None:
        """Require that addresses are multiples of the bytes of an access."""
        if (address & (size - 1)).any():
            wrong = int(np.flatnonzero(address & (size - 1))[0])
            raise Fault(f"{size} bytes at the misaligned address {address[wrong]:#x}", int(threads[wrong]))

    def find(self, address: np.ndarray, threads: np.ndarray, size: int) -> Iterator[tuple[Region, slice | np.ndarray]]:
        """The arrays that addresses fall into, each with which of them. Usually all fall into one."""
        low, high = int(address.min()), int(address.max())
        region = self.regions[max(bisect_right(self.starts, low) - 1, 0)]
        if region.start <= low and high + size <= region.stop:
            yield region, slice(None)
            return
        places = np.searchsorted(self.starts, address, "right") - 1
        for place in np.unique(places):
            chosen, region = np.flatnonzero(places == place), self.regions[max(int(place), 0)]
            inside = (address[chosen] >= region.start) & (address[chosen] + size <= region.stop)
            if not inside.all():
                wrong = int(chosen[np.argmin(inside)])
                raise Fault(f"{size} bytes at address {int(address[wrong]):#x}, {self.near(int(address[wrong]))}",
                            int(threads[wrong]))
            yield region, chosen

    def load(self, address: np.ndarray, active: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Read one number for each active thread; the others get some value. Shapes:  address, active (n,) -> (n,)"""
        threads = np.flatnonzero(active)
        at, values = address[threads], np.empty(len(active), dtype)
        for region, chosen in self.find(at, threads, dtype.itemsize):
            start, numbers = region.numbers(dtype)
            values[threads[chosen]] = numbers[(at[chosen] - start) // dtype.itemsize]
        return values

    def store(self, address: np.ndarray, active: np.ndarray, values: np.ndarray) -> None:
        """Write one number of each active thread; where several write to one place, the last one stays."""
        threads = np.flatnonzero(active)
        at, values = address[threads], np.broadcast_to(values, active.shape)[threads]
        for region, chosen in self.find(at, threads, values.itemsize):
            start, numbers = region.numbers(values.dtype)
            if not numbers.flags.writeable:
                raise Fault(f"{values.itemsize} bytes of {region.name}, which may only be read", int(threads[0]))
            numbers[(at[chosen] - start) // values.itemsize] = values[chosen]

    def near(self, address: int) -> str:
        """Where an address is that belongs to no array: how far from the nearest one."""
        distances = [max(region.start - address, address - region.stop, 0) for region in self.regions]
        region = self.regions[distances.index(min(distances))]
        if address < region.start:
            return f"{region.start - address} bytes before {region.name}"
        return f"{address - region.stop} bytes behind the {len(region.data)} bytes of {region.name}"
