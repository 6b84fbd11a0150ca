"""What can be known of a launch without a GPU: what it executes and asks memory for, and what ptxas made of it.

Counts come from the interpreter of PTX, at published sizes: a few blocks of a grid are run, evenly spread, and stand
for all. Nobody looks at the numbers, so arrays are zeros, which a computer does not even keep.
"""

import functools
import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from kernels.cases import BF16, BFLOAT16, Draw, Operation, to_device
from kernels.launch import ALIGNED, OnHost, find_source
from kernels.nvrtc import compile_options, cubin, include_options, nvrtc
from kernels.predict import sass
from kernels.ptx.block import launch
from kernels.ptx.instructions import KINDS
from kernels.ptx.interpreter import Interpreter
from kernels.ptx.memory import SHARED, Memory
from kernels.signature import geometry

ARCH = 90  # the H100
ALL, SOME = 40, 5  # blocks: a grid of at most ALL is run whole, of a larger one SOME
REGISTERS, WARPS, BLOCKS, SHARED_BYTES = 65536, 64, 32, 228 << 10  # of a multiprocessor of compute capability 9.0
RESERVED = 1 << 10  # bytes of shared memory that each block costs beside its own
USED = re.compile(r"Compiling entry function '(\w+)'.*?Used (\d+) registers([^\n]*)", re.S)


class Counting(Memory):
    """Memory that counts, for each request of a warp, sectors of 32 bytes, and cycles of the 32 banks.

    of_blocks: sectors that are different in each block, which is what an L1 cache that keeps all would let through
    """

    def __init__(self) -> None:
        super().__init__()
        self.sectors = self.of_blocks = self.cycles = 0
        self.seen: list[np.ndarray] = []

    def new_block(self) -> None:
        """The last block is at its end."""
        super().new_block()
        self.of_blocks += len(np.unique(np.concatenate(self.seen))) if self.seen else 0
        self.seen.clear()

    def check(self, address: np.ndarray, threads: np.ndarray, size: int) -> None:
        """As it is checked, count it: the requests of all warps that make it together."""
        super().check(address, threads, size)
        if address.size and address[0] < SHARED:
            sector = address >> 5
            self.sectors += len(np.unique(sector << 6 | threads >> 5))
            self.seen.append(np.unique(sector))
        elif address.size:
            self.count_cycles(address - SHARED, threads, size)

    def count_cycles(self, address: np.ndarray, threads: np.ndarray, size: int) -> None:
        """A bank gives a word of 4 bytes a cycle; 8 and 16 bytes go out in 2 and 4 parts. Shapes:  (n,), (n,)"""
        words = np.arange(max(1, size // 4))
        part = np.repeat(threads // (32 // len(words)), len(words))
        wanted = np.unique(part << 32 | (address[:, None] // 4 + words).reshape(-1))
        of_bank, times = np.unique(wanted >> 32 << 32 | wanted % 32, return_counts=True)
        most = np.zeros(int(part.max()) + 1, np.int64)
        np.maximum.at(most, of_bank >> 32, times)
        self.cycles += int(most.sum())


class Zeros(Draw):
    """Arguments without numbers."""

    def normal(self, shape: tuple[int, ...], dtype: np.dtype, scale: float = 1.0) -> np.ndarray:
        """Zeros. Shapes:  -> shape."""
        return zeros(shape, np.dtype(dtype))


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that begin at a multiple of 256 bytes, as on a GPU. Shapes:  -> shape."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)


class Sampler(Interpreter):
    """A launcher that runs some blocks of each launch, and keeps what they counted, scaled to the whole grid."""

    def __init__(self) -> None:
        super().__init__(arch=ARCH)
        self.launches: list[dict] = []
        self.asked: tuple = ()

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array itself, if it begins as one of a GPU. Shapes:  any -> same."""
        return array if array.flags.c_contiguous and array.ctypes.data % ALIGNED == 0 else super().put(array)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        """Zeros, which cost nothing until they are written. Shapes:  -> as asked for."""
        return zeros(tuple(shape), np.dtype(dtype))

    def launch(self, file: str | Path, *args: Any, **options: Any) -> None:
        """Launch, and keep the source and how it is compiled."""
        self.asked = find_source(file), tuple(options.get("defines", ()))
        super().launch(file, *args, **options)

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Run some blocks, and keep a row of evidence."""
        kernel, names = function
        chosen = some_blocks(grid)
        memory = Counting()
        counts = launch(kernel, grid, block, args, names, shared_bytes, chosen=chosen, memory=memory)
        memory.new_block()
        scale = math.prod(grid) / len(chosen)
        path, defines = self.asked
        self.launches.append({
            "file": path.name, "kernel": kernel.name, "defines": list(defines), "grid": list(grid),
            "block": list(block), "sectors": round(memory.sectors * scale),
            "sectors_of_blocks": round(memory.of_blocks * scale), "bank_cycles": round(memory.cycles * scale),
            "instructions": round(int(counts.sum()) * scale),
            "matrix": round(int(counts[KINDS["matrix"]].sum()) * scale), **compiled(path, kernel.name, defines),
            "dynamic_shared": shared_bytes})


def some_blocks(grid: tuple) -> list[tuple]:
    """The blocks that stand for a grid: all of a small one; of a larger one SOME, spread evenly along each axis.

    >>> some_blocks((512, 1, 8))
    [(51, 0, 0), (153, 0, 5), (256, 0, 2), (358, 0, 7), (460, 0, 4)]
    """
    if math.prod(grid) <= ALL:
        return [(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
    return [tuple((2 * (k * (axis + 1) % SOME) + 1) * size // (2 * SOME) for axis, size in enumerate(grid))
            for k in range(SOME)]


@functools.cache
def compiled(path: Path, kernel: str, defines: tuple[str, ...]) -> dict:
    """Registers and shared memory as ptxas says, and what the disassembler shows."""
    compiler = nvrtc()
    options = [*compile_options(ARCH, defines), *include_options(path, compiler), "--ptxas-options=-v"]
    said = {name: (int(registers), rest) for name, registers, rest in USED.findall(compiler.compile(path, options)[1])}
    registers, rest = said[kernel]
    shared = re.search(r"(\d+) bytes smem", rest)
    code = sass.disassemble(cubin(path, ARCH, defines))[kernel]
    return {"registers": registers, "static_shared": int(shared[1]) if shared else 0, "sass": sass.summary(code)}


def resident_blocks(launch: dict) -> int:
    """How many blocks of a launch a multiprocessor holds, by registers, warps and shared memory."""
    warps = -(-math.prod(launch["block"]) // 32)
    by_registers = REGISTERS // (-(-launch["registers"] // 8) * 8 * 32) // warps  # given to a warp by 8 a lane
    shared = launch["static_shared"] + launch["dynamic_shared"]
    return min(by_registers, WARPS // warps, BLOCKS, SHARED_BYTES // (shared + RESERVED))


class Plan(OnHost):
    """A launcher that launches nothing: it keeps what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple] = []

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array itself. Shapes:  any -> same."""
        return array

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        """Zeros. Shapes:  -> as asked for."""
        return zeros(tuple(shape), np.dtype(dtype))

    def launch(self, file: str | Path, kernel: str, grid: Any, block: Any, args: Any, shared_bytes: int = 0,
               defines: Any = ()) -> None:
        """Keep a launch."""
        self.asked.append((str(file), kernel, *map(tuple, geometry(grid, block)), int(shared_bytes), tuple(defines)))


def code_of(operation: Operation, sizes: dict, version: str | None) -> str:
    """A name for all that a call launches, and for what it executes on a GPU."""
    plan = Plan()
    operation.call(plan, operation.make(Zeros(np, BF16, BFLOAT16), **sizes), BF16, version)
    key = hashlib.sha256()
    for file, kernel, *_, defines in plan.asked:
        key.update(repr(sass.disassemble(cubin(find_source(file), ARCH, defines))[kernel]).encode())
    key.update(repr(plan.asked).encode())
    return key.hexdigest()[:16]


def gather(operation: Operation, sizes: dict, version: str | None) -> list[dict]:
    """The launches of one call in bfloat16, with all that is known of each."""
    sampler = Sampler()
    arguments = operation.make(Zeros(np, BF16, BFLOAT16), **sizes)
    operation.call(sampler, tuple(to_device(sampler, argument) for argument in arguments), BF16, version)
    return sampler.launches
