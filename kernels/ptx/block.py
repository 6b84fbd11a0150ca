"""A block of threads: their registers, which of them run, and what they wait for.

All threads that are at one instruction run it together, as an array operation of NumPy over the threads. Each thread
has its own place in the code. Those that are least far go first: so the two sides of a branch meet again behind it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.ptx.instructions import KINDS
from kernels.ptx.memory import Fault, Memory
from kernels.ptx.numbers import immediate
from kernels.ptx.parse import Address, Instruction, Kernel
from tiny.config import TinyError

LANES = 32  # threads of a warp
LONGEST = 20_000_000  # instructions of a block: more is a loop without end
ORDERS = ("together", "forward", "reverse")  # all warps at once, or one after another as far as it gets


class Block:
    """The state of one block while it runs."""

    def __init__(self, kernel: Kernel, grid: tuple, size: tuple, memory: Memory, parameters: dict[str, bytes],
                 order: str = "together"):
        self.kernel, self.memory, self.parameters, self.size = kernel, memory, parameters, size
        self.count = math.prod(size)
        n = -(-self.count // LANES) * LANES  # the lanes that fill up the last warp never run
        self.threads = np.arange(n)
        self.counts = np.zeros((len(KINDS), n // LANES), np.int64)
        self.registers = {name: np.zeros(n, dtype) for name, dtype in kernel.registers.items()}
        self.registers |= {name: np.full(n, place, np.uint64) for name, place in kernel.shared.items()}
        x, y, z = size
        lane = self.threads % LANES
        special = {"%tid.x": self.threads % x, "%tid.y": self.threads // x % y, "%tid.z": self.threads // (x * y),
                   "%laneid": lane, "%warpid": self.threads // LANES, "%lanemask_lt": (1 << lane) - 1,
                   "%lanemask_le": (2 << lane) - 1, "%lanemask_eq": 1 << lane}
        special |= {f"%{name}.{axis}": np.full(n, value) for name, sizes in (("ntid", size), ("nctaid", grid))
                    for axis, value in zip("xyz", sizes)}
        self.registers |= {name: values.astype(np.uint32) for name, values in special.items()}
        warps = [self.threads // LANES == warp for warp in range(n // LANES)]
        self.turns = {"together": [self.threads >= 0], "forward": warps, "reverse": warps[::-1]}[order]

    # ---- operands

    def read(self, operand: str, dtype: np.dtype) -> Any:
        """An operand in each thread, as an instruction of this type sees it; of a wider register the lower bits.

        Shapes:  -> (n,), or () for a number that stands in the code
        """
        if operand[0] == "!":
            return ~self.read(operand[1:], dtype)
        if operand[0] in "-0123456789":
            return immediate(operand, dtype)
        register = self.register(operand)
        if register.dtype.itemsize != dtype.itemsize:
            register = register.astype(f"u{dtype.itemsize}")
        return register.view(dtype)

    def register(self, name: str) -> np.ndarray:
        """A register, or the place of an array in shared memory. Shapes:  -> (n,)"""
        if name not in self.registers:
            raise Fault(f"the interpreter does not know {name}", 0)
        return self.registers[name]

    def write(self, name: str, values: Any, active: np.ndarray) -> None:
        """Set a register of the active threads. In a wider one a signed value keeps its sign."""
        register = self.register(name)
        if values.dtype.itemsize != register.dtype.itemsize:
            values = values.astype(f"{'i' if values.dtype.kind == 'i' else 'u'}{register.dtype.itemsize}")
        np.copyto(register, values.view(register.dtype), where=active)

    def address(self, operand: Address) -> np.ndarray:
        """The address in each thread; one of 32 bits may be below 0 before the offset. Shapes:  -> (n,)"""
        base = self.register(operand.base)
        return base.view(f"i{base.dtype.itemsize}").astype(np.int64) + operand.offset

    # ---- which threads run

    def run(self, index: tuple[int, int, int]) -> np.ndarray:
        """Run the block of this index to its end. Shapes:  -> instructions by kind and warp (KINDS, warps)"""
        for axis, value in zip("xyz", index):
            self.registers[f"%ctaid.{axis}"] = np.full(len(self.threads), value, np.uint32)
        self.memory.new_block()
        self.counts[:] = 0
        self.index, self.end, self.steps = index, len(self.kernel.code), 0
        self.meets = np.array(["sync" in step.words and step.run is not None for step in self.kernel.code] + [False])
        self.at = np.where(self.threads < self.count, 0, self.end)  # the place of each thread in the code
        self.waits = np.full(len(self.threads), -1)  # the barrier at which a thread waits
        self.begun = np.zeros(len(self.threads), np.int64)  # groups of asynchronous copies, by thread
        self.copies: list[tuple] = []  # those that have not landed: see begin_copy
        with np.errstate(all="ignore"):
            while self.turn():
                pass
        return self.counts.copy()

    def turn(self) -> bool:
        """Let the first warp that can run, or all, go on from where its last threads are; False at the end."""
        runs = (self.at < self.end) & (self.waits < 0)
        if not runs.any():
            barriers = np.unique(self.waits[self.waits >= 0])
            if len(barriers) > 1:
                raise self.error(self.kernel.code[-1], f"threads wait at different barriers {barriers.tolist()}", 0)
            self.waits[:] = -1  # all that are left have reached it
            return len(barriers) > 0
        runs &= next(turn for turn in self.turns if (runs & turn).any())
        elsewhere, before = runs, runs & ~self.meets[self.at]
        runs = before if before.any() else runs  # those that are where lanes meet wait for all others
        here = int(self.at[runs].min())
        if self.steps > LONGEST:
            raise self.error(self.kernel.code[here], f"a loop without end, after {LONGEST:,} instructions", 0)
        group = runs & (self.at == here)
        others = self.at[elsewhere & ~group]
        ahead = others[others > here]
        self.advance(group, here, int(ahead.min()) if ahead.size else self.end, others.size == 0)
        return True

    def advance(self, group: np.ndarray, here: int, stop: int, alone: bool) -> None:
        """Run threads that are together until they branch, wait, end, or are where others are or lanes are to meet.

        An instruction counts once for a warp, also if its guard lets no lane run it.
        """
        warps, goes_on, start = group.reshape(-1, LANES).any(axis=1), True, here
        while goes_on and here < stop and (alone or here == start or not self.meets[here]):
            step, active = self.kernel.code[here], group
            here += 1
            self.counts[KINDS[step.kind], warps] += 1
            self.steps += 1
            if step.guard:
                active = group & (self.registers[step.guard] ^ step.unless)
            if step.run is None:
                goes_on = False
            elif active.any():
                self.execute(step.run, step, active)
        self.at[group] = here
        if not goes_on:
            self.go(step, active)

    def go(self, step: Instruction, active: np.ndarray) -> None:
        """What changes the place of threads: a branch, the end, or a barrier."""
        if step.words[0] == "bra":
            self.at[active] = step.target
        elif step.words[0] in ("ret", "exit"):
            self.at[active] = self.end
        elif len(step.operands) > 1 or not step.operands[0].isdigit():
            raise self.error(step, "a barrier of some of the threads, or whose number is in a register", 0)
        else:
            self.waits[active] = int(step.operands[0])

    def execute(self, run: Callable, step: Instruction, active: np.ndarray) -> None:
        """Run one instruction. Raises TinyError that names kernel, line and thread, if it is wrong."""
        try:
            run(self, step, active)
        except Fault as fault:
            raise self.error(step, fault.what, fault.thread) from None

    def error(self, step: Instruction, what: str, thread: int) -> TinyError:
        """What went wrong, with the place in the source and in the PTX, and the thread."""
        place = tuple(int(self.registers[f"%tid.{axis}"][thread]) for axis in "xyz")
        return TinyError(f"{self.kernel.name}: {step.opcode} ({step.source}, line {step.line} of the PTX): {what}; "
                         f"thread {place} of block {self.index}.",
                         "The emulator may say more: run the kernel with python -m kernels.emulator --check.")


def launch(kernel: Kernel, grid: tuple, size: tuple, arguments: list, names: list[str], shared_bytes: int = 0,
           order: str = "together", chosen: list[tuple] | None = None, memory: Memory | None = None) -> np.ndarray:
    """Run a kernel over a grid, or only the blocks that are chosen.

    arguments: NumPy scalars, arrays, or lists of arrays, which become tables of pointers; names: what to call them
    order: see ORDERS; "reverse" also takes the blocks from the last to the first

    Shapes:  -> dynamic instructions by kind and warp (KINDS, blocks * warps of a block)
    """
    arrays: dict[str, np.ndarray] = {}
    values: list = []
    for label, argument in zip(names, arguments):
        parts = argument if isinstance(argument, (list, tuple)) else [argument]
        if isinstance(parts[0], np.ndarray):
            arrays |= {f"{label}[{n}]" if len(parts) > 1 else label: part for n, part in enumerate(parts)}
        if isinstance(argument, (list, tuple)):
            argument = arrays[f"the table {label}"] = np.array([part.ctypes.data for part in parts], np.uint64)
        values.append(np.uint64(argument.ctypes.data) if isinstance(argument, np.ndarray) else argument)
    parameters = {parameter: value.tobytes() for parameter, value in zip(kernel.parameters, values, strict=True)}
    memory = memory or Memory()
    memory.hold(arrays, kernel.shared_bytes + shared_bytes)
    block = Block(kernel, grid, size, memory, parameters, order)
    indices = chosen or [(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
    counts = [block.run(index) for index in (indices[::-1] if order == "reverse" else indices)]
    return np.concatenate(counts, axis=1)
