"""A step that is always the same: its arrays have fixed addresses, and what it launches is recorded once and replayed.

    graph = Graph(launcher, step)     # step(launcher) is run once, and once more to be recorded
    graph.first                       # what it returned the first time, when it ran
    result = graph.replay()           # the same arrays each time, with other numbers in them

On a GPU the recording is a CUDA graph, captured from a stream; on the emulator a list of launches. In a recorded step
nothing may be allocated, uploaded or waited for: a replay would not do it again. Numbers that change from step to step
lie in arrays of the device, which kernels read and advance.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernels.launch import ALIGNED, Launcher
from tiny.config import TinyError

REMEDY = "Do it before the step, or keep it in an array of the device."


class Arena:
    """Arrays with fixed addresses: the n-th request of a step gets the n-th of them.

    The first run finds out what a step asks for; `pack` then lays it out in one block of memory.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.launcher, self.asked = launcher, 0
        self.arrays: list = []
        self.block: Any = None

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """The next array. Raises TinyError if it is not the one that the first run asked for in this place."""
        place, self.asked = self.asked, self.asked + 1
        if self.block is None:
            self.arrays.append(self.launcher.empty(shape, dtype))
            return self.arrays[-1]
        found = self.arrays[place] if place < len(self.arrays) else None
        if found is None or found.shape != tuple(shape) or found.dtype != np.dtype(dtype):
            raise TinyError(f"A recorded step allocates an array {tuple(shape)} of {np.dtype(dtype)}.", REMEDY)
        return found

    def pack(self) -> None:
        """Put all arrays into one block, each at a multiple of 256 bytes, and begin again with the first."""
        sizes = [-(-array.nbytes // ALIGNED) * ALIGNED for array in self.arrays]
        self.block = self.launcher.empty((sum(sizes),), np.uint8)
        ends = np.cumsum(sizes).tolist()
        self.arrays = [part_of(self.block, end - size, array) for end, size, array in zip(ends, sizes, self.arrays)]
        self.asked = 0

    def split(self, block: np.ndarray) -> list[np.ndarray]:
        """The arrays in a copy of the block that is on the host. Shapes:  block (bytes,) -> any."""
        first = [0, *np.cumsum([-(-array.nbytes // ALIGNED) * ALIGNED for array in self.arrays]).tolist()]
        return [part_of(block, start, array) for start, array in zip(first, self.arrays)]


def part_of(block: Any, start: int, like: Any) -> Any:
    """A piece of a block of bytes as an array of this shape and type."""
    return block[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


class StepLauncher(Launcher):
    """The launcher of a step: new arrays come from arenas; once it is `recorded`, all but launches is refused.

    kept: the same launcher with another arena, for arrays whose numbers the host reads after the step
    """

    def __init__(self, launcher: Launcher, arena: Arena, kept: Arena | None = None) -> None:
        super().__init__()
        self.launcher, self.arena, self.recorded = launcher, arena, False
        self.loaded, self.device, self.array_type = launcher.loaded, launcher.device, launcher.array_type
        self.kept = StepLauncher(launcher, kept) if kept else self

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """The next array of the arena."""
        return self.arena.empty(shape, dtype)

    def put(self, array: Any) -> Any:
        """An array that is on the device already. Raises TinyError for one that a recorded step would upload."""
        if self.recorded and not (isinstance(array, self.array_type) and self.launcher.put(array) is array):
            raise TinyError(f"A recorded step uploads an array {array.shape} of {array.dtype}.", REMEDY)
        return self.launcher.put(array)

    def get(self, array: Any) -> np.ndarray:
        """Refused while a step is recorded. Shapes:  any -> same."""
        if self.recorded:
            raise TinyError(f"A recorded step waits for an array {array.shape} of {array.dtype}.", REMEDY)
        return self.launcher.get(array)

    def table(self, arrays: Sequence[Any]) -> list:
        """A table of pointers, which a recorded step must find made."""
        if self.recorded:
            raise TinyError(f"A recorded step uploads a table of {len(arrays)} pointers.", REMEDY)
        return self.launcher.table(arrays)

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """A kernel, which the first run of a step has loaded."""
        if self.recorded:
            raise TinyError(f"A recorded step compiles {kernel}, which its first run did not call.", REMEDY)
        return self.launcher.load(path, kernel, defines)

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Start a kernel, or record it."""
        self.launcher.call(function, grid, block, args, shared_bytes)


class Graph:
    """A step, run once and recorded. Its arrays are kept as long as it is."""

    def __init__(self, launcher: Launcher, step: Callable[[StepLauncher], Any]) -> None:
        self.arena, self.kept = Arena(launcher), Arena(launcher)
        through = StepLauncher(launcher, self.arena, self.kept)
        self.first = step(through)
        self.arena.pack()
        self.kept.pack()
        through.recorded = through.kept.recorded = True
        self.result: Any = None

        def record() -> None:
            self.result = step(through)

        self.start = launcher.record(record)

    def replay(self) -> Any:
        """Start the step once more; what it returned when it was recorded, with other numbers in its arrays."""
        self.start()
        return self.result
