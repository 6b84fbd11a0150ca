"""How the arguments of a launch reach a kernel.

Each becomes a cell of memory with the parameter's bytes: the number itself, an address, or the address of a table of
addresses. Before that they are checked as for a GPU, by `kernels/signature.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kernels.signature import Parameter, check_arguments
from kernels.signature import parameter as read_parameter
from tiny.config import TinyError


@dataclass
class Packed:
    """Arguments in memory: cells by address, the ranges a kernel may touch, and what must stay alive."""

    cells: list[np.ndarray] = field(default_factory=list)
    ranges: list[tuple[int, int, bool, bool, str]] = field(default_factory=list)  # low, bytes, writable, written, name
    tables: list[np.ndarray] = field(default_factory=list)


def parameter(name: str, type_: str, size: int) -> Parameter:
    """From what the compiler says about a parameter: `const float*`, 8 bytes."""
    return replace(read_parameter(f"{type_} {name}", {}), size=size)


def pack(kernel: str, parameters: Sequence[Parameter], args: Sequence[Any], unwritten=()) -> Packed:
    """Check the arguments of a launch and lay them out.

    Raises: TinyError if their number, types, widths or contiguity are not those of the signature
    """
    check_arguments(kernel, parameters, args, np.ndarray, "the host")
    packed = Packed()
    for number, (arg, wanted) in enumerate(zip(args, parameters)):
        written = number not in unwritten
        if wanted.kind == "scalar":
            packed.cells.append(np.frombuffer(np.array([arg]).tobytes().ljust(16, b"\0"), np.uint8).copy())
        elif wanted.kind == "array":
            packed.ranges.append((arg.ctypes.data, arg.nbytes, not wanted.const, written, wanted.name))
            packed.cells.append(np.array([arg.ctypes.data], np.uint64))
        else:
            packed.cells.append(pointer_table(packed, arg, wanted, written))
    return packed


def pointer_table(packed: Packed, arrays: Sequence[np.ndarray], wanted: Parameter, written: bool) -> np.ndarray:
    """A cell that holds the address of a table of addresses. Shapes:  -> (1,)."""
    packed.ranges += [(array.ctypes.data, array.nbytes, not wanted.const, written, f"{wanted.name}[{number}]")
                      for number, array in enumerate(arrays)]
    addresses = np.array([array.ctypes.data for array in arrays], np.uint64)
    packed.ranges.append((addresses.ctypes.data, addresses.nbytes, False, True, wanted.name))
    packed.tables.append(addresses)
    return np.array([addresses.ctypes.data], np.uint64)


def check_shared(shared_bytes: int, static_bytes: int) -> None:
    """Require shared memory that a block of an H100 has. Raises TinyError that names the limit."""
    if static_bytes > 48 << 10:
        raise TinyError(f"The kernels have {static_bytes} bytes of static shared memory; a GPU takes at most 49152.",
                        "Declare `extern __shared__` memory and pass shared_bytes.")
    if not 0 <= shared_bytes <= (227 << 10) - static_bytes:
        raise TinyError(f"shared_bytes is {shared_bytes}; an H100 has {227 << 10} bytes for a block, of which "
                        f"{static_bytes} are taken by static shared memory.", "Choose smaller tiles.")
