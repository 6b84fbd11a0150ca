"""What a kernel's parameters accept, and how arguments reach it.

A launch is checked against the C++ signature, which no GPU launch does: a float64 array given to `const float*`, or a
Python number given to anything, would be read as other bits there. Each argument becomes a cell of memory with the
parameter's bytes: the number itself, an address, or the address of a table of addresses.
"""

import re
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from tiny.config import TinyError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16).name
NUMBERS = {  # what holds an array of this type on the host; the first is the dtype of a scalar
    "float": ("float32",), "double": ("float64",), "bool": ("bool",),
    "char": ("int8",), "signed char": ("int8",), "unsigned char": ("uint8", "bool"),
    "short": ("int16",), "short int": ("int16",), "short unsigned int": ("uint16",), "unsigned short": ("uint16",),
    "int": ("int32",), "unsigned int": ("uint32",), "long int": ("int64",), "long unsigned int": ("uint64",),
    "long long int": ("int64",), "long long unsigned int": ("uint64",),
    "__nv_bfloat16": (BFLOAT16, "uint16"), "__half": ("float16", "uint16"),
    "__nv_bfloat162": (BFLOAT16, "uint16"), "__half2": ("float16", "uint16"),
}
VECTORS = {"char": "int8", "uchar": "uint8", "short": "int16", "ushort": "uint16", "int": "int32", "uint": "uint32",
           "long": "int64", "ulong": "uint64", "longlong": "int64", "ulonglong": "uint64", "float": "float32",
           "double": "float64"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    type: as C++ has it. kind: "scalar", "array", or "table", a table of pointers to arrays. const: whether what it
    points to may only be read. dtypes: of the elements, or of the scalar; empty: any.
    """

    name: str
    type: str
    kind: str
    const: bool
    dtypes: tuple[str, ...]
    bytes: int

    @property
    def dtype(self) -> str | None:
        """The dtype of a scalar."""
        return self.dtypes[0] if self.kind == "scalar" and self.dtypes else None

    def __str__(self) -> str:
        return f"`{self.type} {self.name}`"


@dataclass
class Packed:
    """Arguments in memory: cells by address, the ranges a kernel may touch, and what must stay alive."""

    cells: list[np.ndarray] = field(default_factory=list)
    ranges: list[tuple[int, int, bool, bool, str]] = field(default_factory=list)  # low, bytes, writable, written, name
    tables: list[np.ndarray] = field(default_factory=list)


def parameter(name: str, type_: str, size: int) -> Parameter:
    """From what the compiler says about a parameter: `const float*`, 8 bytes."""
    type_ = re.sub(r"\s*([*&])\s*", r"\1", type_).replace("*const", "* const").strip()
    stars = type_.count("*")
    base = re.sub(r"\b(const|volatile)\b|[*]|__restrict__|__restrict", " ", type_)
    base = " ".join(base.split())
    inner = type_.split("*")[0]
    kind = ("scalar", "array", "table")[stars] if stars < 3 else "unknown"
    return Parameter(name, type_, kind, "const" in inner.split(), element(base), size)


def element(base: str) -> tuple[str, ...]:
    """The dtypes for a C++ type; `float4` is four float32."""
    if base in NUMBERS:
        return NUMBERS[base]
    vector = re.fullmatch(r"(\w+?)([1-4])", base)
    if vector and vector[1] in VECTORS:
        return (VECTORS[vector[1]],)
    return ()


def pack(kernel: str, parameters: list[Parameter], args, unwritten=()) -> Packed:
    """Check the arguments of a launch and lay them out.

    Raises: TinyError if their number, types, widths or layout are not those of the signature
    """
    if len(args) != len(parameters):
        listed = ", ".join(map(str, parameters))
        raise TinyError(f"{kernel} takes {len(parameters)} arguments, and {len(args)} were given.",
                        f"In its order: {listed or 'none'}.")
    packed = Packed()
    for number, (arg, wanted) in enumerate(zip(args, parameters)):
        where = f"{kernel}, argument {number} {wanted}"
        pack_one(packed, where, arg, wanted, number not in unwritten)
    return packed


def pack_one(packed: Packed, where: str, arg, wanted: Parameter, written: bool) -> None:
    """Check one argument and append its cell and its ranges."""
    if wanted.kind == "scalar":
        packed.cells.append(scalar(where, arg, wanted))
    elif wanted.kind == "array":
        check_array(where, arg, wanted)
        packed.ranges.append((arg.ctypes.data, arg.nbytes, not wanted.const, written, wanted.name))
        packed.cells.append(np.array([arg.ctypes.data], np.uint64))
    elif wanted.kind == "table":
        packed.cells.append(table(packed, where, arg, wanted, written))
    else:
        raise TinyError(f"{where}: the emulator has no argument of this type.",
                        "Pass scalars, arrays, or lists of arrays for `T* const*`.")


def scalar(where: str, arg, wanted: Parameter) -> np.ndarray:
    """A cell that holds the number itself."""
    say = f"np.{wanted.dtype}(...)" if wanted.dtype else f"a NumPy scalar of {wanted.bytes} bytes"
    if not isinstance(arg, np.generic):
        raise TinyError(f"{where}: a scalar is wanted, and a {describe(arg)} was given.", f"Pass {say}.")
    if wanted.dtypes and arg.dtype.name not in wanted.dtypes or arg.dtype.itemsize != wanted.bytes:
        raise TinyError(f"{where}: the scalar is {arg.dtype.name}.", f"Pass {say}.")
    return np.frombuffer(np.array([arg]).tobytes().ljust(16, b"\0"), np.uint8).copy()


def check_array(where: str, arg, wanted: Parameter) -> None:
    """Require an array that the parameter can point to."""
    if not isinstance(arg, np.ndarray):
        raise TinyError(f"{where}: an array is wanted, and a {describe(arg)} was given.",
                        f"Pass a NumPy array of {' or '.join(wanted.dtypes) or 'any dtype'}.")
    if wanted.dtypes and arg.dtype.name not in wanted.dtypes:
        raise TinyError(f"{where}: the array is {arg.dtype.name}.", f"Pass {' or '.join(wanted.dtypes)}.")
    if not arg.flags.c_contiguous:
        raise TinyError(f"{where}: the array is not contiguous.", "Pass np.ascontiguousarray(...), or a copy.")
    if not wanted.const and not arg.flags.writeable:
        raise TinyError(f"{where}: the kernel may write, and the array is read-only.", "Pass a copy of it.")
    if not arg.dtype.isnative:
        raise TinyError(f"{where}: the array has its bytes in the other order.",
                        "Pass x.astype(x.dtype.newbyteorder()).")


def table(packed: Packed, where: str, arg, wanted: Parameter, written: bool) -> np.ndarray:
    """A cell that holds the address of a table of addresses."""
    if not isinstance(arg, (list, tuple)):
        raise TinyError(f"{where}: a list of arrays is wanted, and a {describe(arg)} was given.",
                        "It becomes a table of pointers.")
    for number, array in enumerate(arg):
        check_array(f"{where}, element {number}", array, wanted)
        packed.ranges.append((array.ctypes.data, array.nbytes, not wanted.const, written, f"{wanted.name}[{number}]"))
    addresses = np.array([array.ctypes.data for array in arg], np.uint64)
    packed.ranges.append((addresses.ctypes.data, addresses.nbytes, False, True, wanted.name))
    packed.tables.append(addresses)
    return np.array([addresses.ctypes.data], np.uint64)


def describe(arg) -> str:
    """What was given instead."""
    if isinstance(arg, (bool, int, float)):
        return f"Python {type(arg).__name__}"
    return f"NumPy array of {arg.dtype.name}" if isinstance(arg, np.ndarray) else type(arg).__name__


def check_launch(grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int, static_bytes: int) -> None:
    """Require a launch configuration that a GPU would accept.

    Raises: TinyError that names the limit
    """
    limits = [("block", block, (1024, 1024, 64)), ("grid", grid, (2**31 - 1, 65535, 65535))]
    for name, sizes, most in limits:
        for axis, size, limit in zip("xyz", sizes, most):
            if not 1 <= size <= limit:
                raise TinyError(f"The {name} {sizes} is {size} along {axis}; a GPU takes 1 to {limit} there.",
                                "Choose another launch configuration.")
    threads = block[0] * block[1] * block[2]
    if threads > 1024:
        raise TinyError(f"The block {block} has {threads} threads; a GPU takes at most 1024.",
                        "Choose a smaller block.")
    if static_bytes > 48 << 10:
        raise TinyError(f"The kernels have {static_bytes} bytes of static shared memory; a GPU takes at most 49152.",
                        "Declare `extern __shared__` memory and pass shared_bytes.")
    if not 0 <= shared_bytes <= (227 << 10) - static_bytes:
        raise TinyError(f"shared_bytes is {shared_bytes}; an H100 has {227 << 10} bytes for a block, of which "
                        f"{static_bytes} are taken by static shared memory.", "Choose smaller tiles.")
