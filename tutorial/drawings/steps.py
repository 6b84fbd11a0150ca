"""What one more token of tiny-mixtral costs, counted by the emulator: `python -m tutorial.drawings.steps` counts again.

The counts are kept in tutorial/pages/records/step.json, so that a picture needs no compiler; a test counts them too.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tiny
from kernels import resident
from kernels.launch import Emulator, Launcher
from kernels.ops import choose
from tiny.mixtral import Mixtral
from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, program
from tutorial.drawings.stages import Counting
from tutorial.source import ROOT

RECORD = ROOT / "tutorial/pages/records/step.json"
MODEL, PROMPT, TOKEN = "tiny-mixtral", (1, 400, 500), 7
CAPACITIES = (64, 256, 1024)  # rows of the cache


class Border(Emulator):
    """The emulator, which counts the bytes that would cross between the host and a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.up = self.down = 0
        self.there: dict[int, np.ndarray] = {}  # arrays of the device, kept so that no other one gets their numbers

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """As ever. Shapes:  -> as asked for."""
        return self.keep(super().empty(shape, dtype))

    def put(self, array: np.ndarray) -> np.ndarray:
        """As ever. Shapes:  any -> same."""
        if id(array) in self.there:
            return array
        self.up += array.nbytes
        return self.keep(super().put(array).view())

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Remember that an array is on the device. Shapes:  any -> same."""
        self.there[id(array)] = array
        return array

    def get(self, array: np.ndarray) -> np.ndarray:
        """As ever. Shapes:  any -> same."""
        self.down += array.nbytes
        return super().get(array)

    def write(self, array: np.ndarray, numbers: np.ndarray) -> None:
        """As ever. Shapes:  any, the same."""
        self.up += array.nbytes
        super().write(array, numbers)

    def fetch(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As ever. Shapes:  any -> same."""
        self.down += sum(array.nbytes for array in arrays)
        return super().fetch(arrays)


class Launches(Counting):
    """The emulator, which notes of every launch its kernel and the bytes of global memory that it moved."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Run the kernel, or keep it for a recording; count what runs."""
        before = self.counts()["bytes"] if self.recorded is None else 0
        super().call(function, grid, block, args, shared_bytes)
        if self.recorded is None:
            self.seen.append((function.args[0], self.counts()["bytes"] - before))


def one_more_token(model: Mixtral, capacity: int, before: Callable[[], None]) -> None:
    """Read a prompt and two more tokens, twice: the first time puts weights on the device and records the step.

    before: called when only the last token of the second time is left
    """
    for _ in range(2):
        cache = model.new_cache(capacity)
        model(list(PROMPT), cache=cache, last_only=True)
        model([TOKEN], cache=cache, last_only=True)
        before()
        model([TOKEN + 1], cache=cache, last_only=True)


def crossings(build: Callable[[Launcher], Mixtral], capacity: int) -> dict[str, int]:
    """The bytes of one more token that go up to the device and come down."""
    launcher, start = Border(), [0, 0]

    def note() -> None:
        start[:] = launcher.up, launcher.down

    one_more_token(build(launcher), capacity, note)
    return {"up": launcher.up - start[0], "down": launcher.down - start[1]}


def one_by_one(launcher: Launcher) -> Mixtral:
    """The model whose operations each copy their arrays to the device and back."""
    return tiny.load(MODEL, ops=choose("all", launcher))


def on_the_device(launcher: Launcher) -> Mixtral:
    """The model that stays on the device."""
    return resident.load(MODEL, launcher)


def launches() -> list[tuple[str, int]]:
    """The launches of one more token, in their order, with the bytes that each moves."""
    launcher = Launches()
    one_more_token(on_the_device(launcher), 64, launcher.seen.clear)
    return launcher.seen


def count() -> dict[str, Any]:
    """All that the record holds."""
    return {"launches": launches(),
            "one by one": {str(rows): crossings(one_by_one, rows) for rows in CAPACITIES},
            "on the device": {str(rows): crossings(on_the_device, rows) for rows in CAPACITIES}}


def read() -> dict[str, Any]:
    """The record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    """Count, and write the record."""
    Parser(prog="python -m tutorial.drawings.steps", description="Count what one more token costs.").parse_args(argv)
    write_whole(RECORD, json.dumps(count(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    program(main)
