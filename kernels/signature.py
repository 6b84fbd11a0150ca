"""What a kernel's parameters are, read from its C++ declaration, and whether a launch fits them and a GPU.

A GPU gets addresses and bytes and nothing else: a Python number of the wrong width, a float64 array or a slice with
gaps gives wrong results and no message. So every argument of every launch is checked here, for both devices alike.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tiny.config import TinyError

HERE = Path(__file__).parent
# NumPy's types for the C++ types that kernels take, spelt as in a source and as a compiler spells them. Arrays of other
# types (void, structures) are not checked for theirs.
DTYPES = {ctype: np.dtype(dtype) for dtype, names in {
    np.float32: "float", np.float64: "double", np.bool_: "bool", np.int8: "char, signed char",
    np.uint8: "unsigned char", np.int16: "short, short int", np.uint16: "unsigned short, short unsigned int",
    np.int32: "int", np.uint32: "unsigned, unsigned int", np.int64: "long, long int, long long, long long int",
    np.uint64: "unsigned long, long unsigned int, unsigned long long, long long unsigned int, size_t",
    np.float16: "__half, __half2", ml_dtypes.bfloat16: "__nv_bfloat16, __nv_bfloat162"}.items()
    for ctype in names.split(", ")}
PARTS = {"uchar": "unsigned char", "ushort": "unsigned short", "uint": "unsigned", "ulong": "unsigned long",
         "longlong": "long long", "ulonglong": "unsigned long long"}  # of vectors: uint4 is four unsigned
LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
SPECIFIERS = re.compile(r"\b(?:const|volatile|__restrict__|__grid_constant__|struct)\b|\[[^\]]*\]")


@dataclass(frozen=True)
class Parameter:
    """One parameter: its text as declared, name, C++ type, how many stars, and whether what it points at is const.

    size: its bytes, where the compiler has said so
    """

    text: str
    name: str
    ctype: str
    stars: int
    const: bool
    size: int | None = None

    @property
    def kind(self) -> str:
        """What is passed: a scalar, an array, or a table of pointers to arrays."""
        return ("scalar", "array", "table")[self.stars] if self.stars < 3 else "unknown"

    @property
    def dtype(self) -> np.dtype | None:
        """NumPy's type for the scalar or the elements; None for any other type."""
        vector = re.fullmatch(r"(\w+?)[1-4]", self.ctype)
        part = PARTS.get(vector[1], vector[1]) if vector and self.stars else self.ctype
        return DTYPES.get(self.ctype, DTYPES.get(part))


def local_files(path: Path) -> list[Path]:
    """A source and the files beside it, or in this folder, that it includes, and that these include."""
    found = [path]
    for file in found:  # grows while it is read
        for name in INCLUDE.findall(file.read_text(encoding="utf-8")):
            part = next((folder / name for folder in (file.parent, HERE) if (folder / name).is_file()), None)
            if part is not None and part not in found:
                found.append(part)
    return found


def read_parameters(path: Path, kernel: str, defines: Sequence[str] = ()) -> list[Parameter]:
    """The parameters of one kernel of a file. Raises TinyError if the file has no such kernel."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in reversed(local_files(path)))
    return parameters(source, kernel, defines, path.name)


def macros(source: str, defines: Sequence[str]) -> dict[str, str]:
    """Names that the preprocessor replaces by types or numbers: -D options, then the simple #defines of the source."""
    found = {name: value for name, _, value in (text.partition("=") for text in defines)}
    for name, value in re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$", source, re.M):
        found.setdefault(name, value)
    return found


def declared(source: str) -> dict[str, str]:
    """The __global__ functions of a source, each with the text of its parameters."""
    bounds = r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?"
    pattern = rf"__global__\s+{bounds}void\s+{bounds}(\w+)\s*\(([^()]*)\)"
    return dict(re.findall(pattern, COMMENT.sub(" ", source)))


def parameters(source: str, kernel: str, defines: Sequence[str] = (), file: str = "this file") -> list[Parameter]:
    """The parameters of one __global__ function. `source` is the file's text, behind the texts that it includes.

    Raises:  TinyError if the source has no such kernel
    """
    found = declared(source)
    if kernel not in found:
        raise TinyError(f"{file} has no kernel {kernel}; it has {', '.join(found) or 'none'}.",
                        'Name one that is there, or declare it: extern "C" __global__ void NAME(...).')
    known = macros(source, defines)
    return [parameter(text, known) for text in found[kernel].split(",") if text.strip()]


def parameter(text: str, known: Mapping[str, str]) -> Parameter:
    """Read one parameter, such as `const WEIGHT* const* w1` with WEIGHT=float.

    >>> parameter("const WEIGHT* const* w1", {"WEIGHT": "float"})
    Parameter(text='const WEIGHT* const* w1', name='w1', ctype='float', stars=2, const=True)
    """
    text = " ".join(text.split())
    words = re.sub(r"\w+", lambda word: resolve(word[0], known), text)
    bare = " ".join(SPECIFIERS.sub(" ", words.replace("*", " ")).split())
    ctype, _, name = bare.rpartition(" ")
    first = words[: words.find("*")] if "*" in words else words
    return Parameter(text, name, ctype, words.count("*") + words.count("["), "const" in first.split())


def resolve(word: str, known: Mapping[str, str]) -> str:
    """What a macro stands for, through further macros; a circle of them ends where it began."""
    seen: set[str] = set()
    while word in known and word not in seen:
        seen.add(word)
        word = known[word]
    return word


def check_arguments(kernel: str, wanted: Sequence[Parameter], args: Sequence[Any], array_type: Any,
                    device: str) -> None:
    """Refuse arguments that a kernel's parameters do not describe: kind, dtype, width, contiguity, device.

    Raises:  TinyError that names the kernel, the argument, what came and what to pass
    """
    if len(args) != len(wanted):
        raise TinyError(f"{kernel} takes {len(wanted)} arguments; {len(args)} came.",
                        f"Pass, in this order: {', '.join(p.text for p in wanted) or 'none'}.")
    for p, arg in zip(wanted, args):
        label = f"{kernel}: the argument for `{p.text}`"
        if p.kind == "scalar":
            check_scalar(label, p, arg)
        elif p.kind == "array":
            check_array(label, p, arg, array_type, device)
        elif p.kind == "unknown":
            raise TinyError(f"{label} is a pointer to a table of pointers.",
                            "Pass scalars, arrays, or lists of arrays for `T* const*`.")
        elif not isinstance(arg, (list, tuple)) or not arg:
            raise TinyError(f"{label} is {describe(arg)}.", "Pass a list of arrays: it becomes a table of pointers.")
        else:
            for item in arg:
                check_array(label, p, item, array_type, device)


def check_scalar(label: str, p: Parameter, arg: Any) -> None:
    """A number must be a NumPy scalar of exactly the parameter's type: its bytes are what the kernel reads."""
    if p.dtype is None and p.size is None:
        raise TinyError(f"{label} has the type {p.ctype}, which no NumPy scalar has.", "Use one of the plain types.")
    fits = isinstance(arg, np.generic) and (arg.dtype == p.dtype if p.dtype else arg.dtype.itemsize == p.size)
    if not fits:
        raise TinyError(f"{label} is {describe(arg)}.",
                        f"Pass np.{p.dtype}(...)." if p.dtype else f"Pass a NumPy scalar of {p.size} bytes.")


def check_array(label: str, p: Parameter, arg: Any, array_type: Any, device: str) -> None:
    """An array must be on the launcher's device, without gaps, in the parameter's dtype, and writeable."""
    if not isinstance(arg, array_type):
        raise TinyError(f"{label} is {describe(arg)}; this launcher's arrays are {kind(array_type)} arrays on "
                        f"{device}.", "Bring it there with launcher.put(array).")
    if not arg.dtype.isnative:
        raise TinyError(f"{label} is {describe(arg)} with its bytes in the other order.",
                        "Pass x.astype(x.dtype.newbyteorder()).")
    if p.dtype is not None and arg.dtype != p.dtype:
        raise TinyError(f"{label} is {describe(arg)}.", f"Pass {p.dtype}, for example from array.astype.")
    if not arg.flags.c_contiguous:
        raise TinyError(f"{label} is {describe(arg)} with gaps or turned axes.",
                        "Kernels read rows one after another: make a copy with np.ascontiguousarray.")
    if not p.const and not getattr(arg.flags, "writeable", True):
        raise TinyError(f"{label} is {describe(arg)} that may only be read, and the kernel writes it.",
                        "Pass a copy, or declare the parameter const.")


def triple(sizes: Sequence[int], name: str) -> tuple[int, int, int]:
    """A grid or block as three sizes. Raises TinyError for sizes that no GPU takes."""
    limits = LIMITS[name]
    if not 1 <= len(sizes) <= 3 or any(not 1 <= size <= limit for size, limit in zip(sizes, limits)):
        raise TinyError(f"The {name} {tuple(sizes)} cannot be launched.",
                        f"Give 1 to 3 sizes, each at least 1 and at most {limits}.")
    x, y, z = (int(size) for size in (*sizes, 1, 1)[:3])
    return x, y, z


def geometry(grid: Sequence[int], block: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block as triples. Raises TinyError for sizes that no GPU takes."""
    blocks, threads = triple(grid, "grid"), triple(block, "block")
    if math.prod(threads) > 1024:
        raise TinyError(f"The block {threads} has {math.prod(threads):,} threads.", "A block has at most 1,024.")
    return blocks, threads


def kind(array_type: type) -> str:
    """Whose arrays these are: NumPy, or CuPy."""
    return {"numpy": "NumPy", "cupy": "CuPy"}.get(array_type.__module__.split(".")[0], array_type.__module__)


def describe(arg: Any) -> str:
    """An argument in a few words, with its dtype and shape if it is an array."""
    if hasattr(arg, "shape") and arg.shape != ():
        return f"a {kind(type(arg))} array {arg.dtype} {tuple(arg.shape)}"
    if isinstance(arg, np.generic):
        return f"np.{arg.dtype}({arg})"
    if isinstance(arg, (bool, int, float)):
        return f"the Python number {arg!r}, whose width no kernel knows"
    return f"a {type(arg).__name__}"
