"""The second oracle: every kernel as compiled for a GPU, executed, beside the NumPy function and the emulator.

The emulator compiles the same source with g++. Bits may differ in three places. Where a GPU's compiler makes one
instruction of a * b + c, the sum is rounded once and not twice. CUDA's exponential, and its error function, are other
functions than those of the C library. And how a tensor core rounds its sums is left open: here once, in the emulator
after each addition. So each case runs three times beside the emulator: as compiled for a GPU; without contraction;
and, in both, also with plain arithmetic in the place of the exponential. Then every bit is to be equal, but for tensor
cores.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kernels.cases import STORAGES, Operation, agree, operations
from kernels.launch import Emulator, Launcher, find_source
from kernels.ptx.instructions import KINDS
from kernels.ptx.interpreter import Interpreter
from kernels.signature import local_files
from tiny.system.whole import write_whole

EXPONENTIAL = re.compile(r"\b(?:exp2?f|erff)\(")
STAND_IN = """#ifndef STAND_IN
#define STAND_IN
__device__ __forceinline__ float stand_in(float x) { return 1.0f / (1.0f + x * x); }
#endif
"""


class Kept:
    """A launcher whose results are kept, and whose sources may be changed first.

    change: what becomes of the text of a `.cu` file, and of what it includes, which are then written to `folder`
    """

    def __init__(self, launcher: Launcher, folder: Path | None = None, change: Callable[[str], str] | None = None):
        self.launcher, self.folder, self.change = launcher, folder, change
        self.results: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.launcher, name)

    def get(self, array: np.ndarray) -> np.ndarray:
        """A result, which is kept. Shapes:  any -> same."""
        self.results.append(array)
        return array

    def launch(self, file: str, *args: Any, **options: Any) -> None:
        """Launch a kernel of a source, or of what it was changed to."""
        source = find_source(file)
        if self.change and self.folder:
            source = changed(source, self.folder, self.change)
        self.launcher.launch(source, *args, **options)


def changed(source: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """A copy of a source beside copies of what it includes, each with its text changed; made once."""
    for part in reversed(local_files(source)):
        if not (folder / part.name).exists():
            write_whole(folder / part.name, change(part.read_text(encoding="utf-8")))
    return folder / source.name


def without_exponential(text: str) -> str:
    """A text that computes something else where it took an exponential: the same for every compiler."""
    return STAND_IN + EXPONENTIAL.sub("stand_in(", text)


def launchers(folder: Path, compiler: str, arch: int, emulated: bool) -> dict[str, Kept]:
    """What each case runs on, by name; without a C++ compiler only the interpreter, as compiled for a GPU."""
    found = {"gpu": Kept(Interpreter(compiler, arch=arch))}
    if emulated:
        found |= {"emulator": Kept(Emulator()), "plain": Kept(Interpreter(compiler, contract=False, arch=arch)),
                  "emulator, stand-in": Kept(Emulator(), folder, without_exponential),
                  "stand-in": Kept(Interpreter(compiler, contract=False, arch=arch), folder, without_exponential)}
    return found


def every_case(names: tuple[str, ...] = ()) -> Iterator[tuple[Operation, str | None, tuple, dict]]:
    """Every operation with its versions, storages and small sizes, or those of some operations."""
    for operation in operations():
        if not names or operation.name in names:
            for version in operation.versions:
                for storage in STORAGES:
                    for sizes in operation.small:
                        yield operation, version, storage, sizes


def run_case(on: dict[str, Kept], operation: Operation, version: str | None, storage: tuple,
             sizes: dict) -> dict | None:
    """One case on every launcher: a row of the record, or None if the host function refuses it.

    error: the largest difference from NumPy as a share of the largest magnitude; ok: whether that is within tolerance
    equal: shares of the numbers whose bits are the emulator's; instructions: for each kernel, see `counted`
    """
    counts = on["gpu"].counts
    counts.clear()
    for kept in on.values():
        kept.results.clear()
    found = agree(on["gpu"], operation, sizes, storage, version)
    if "refused" in found:
        return None
    row = {"operation": operation.name, "version": version, "precision": storage[0], "weights": storage[1].name,
           "sizes": sizes, **found, "instructions": {name: counted(n) for name, n in counts.items()}}
    if "emulator" in on:
        for name in on.keys() - {"gpu"}:
            agree(on[name], operation, sizes, storage, version)
        row["equal"] = {name: equal_bits(on[name].results, on[other].results) for name, other in
                        (("gpu", "emulator"), ("plain", "emulator"), ("stand-in", "emulator, stand-in"))}
    return row


def tensor_cores(row: dict) -> bool:
    """Whether a case ran products on tensor cores."""
    return any("matrix" in kernel["kinds"] for kernel in row["instructions"].values())


def equal_bits(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The share of numbers that have equal bits. Shapes:  any, the same."""
    same = [x.view(f"u{x.itemsize}") == y.view(f"u{y.itemsize}") for x, y in zip(some, others, strict=True)]
    return sum(int(equal.sum()) for equal in same) / sum(equal.size for equal in same)


def counted(counts: np.ndarray) -> dict:
    """How many warps ran, the most instructions of one, and how many of each kind all of them ran.

    Shapes:  (KINDS, warps) ->
    """
    return {"warps": counts.shape[1], "most": int(counts.sum(axis=0).max()),
            "kinds": {kind: int(counts[n].sum()) for kind, n in KINDS.items() if counts[n].any()}}
