"""What `--arg` says, as values: arrays with a fill, scalars, tables of arrays, and files.

    float32[64,32]:random    an array and its fill: random, zeros, ones, arange, empty, or a number
    int32:7                  a scalar
    data.npy                 a stored array; nothing in it is executed
    float32[8]:ones+float32[8]:zeros    a table of pointers, as for a parameter `const float* const* rows`
"""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from tiny.config import TinyError
from tiny.system.reading import check_plain
from tiny.tools.terminal import one_line

DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16",
                                            "int32", "uint32", "int64", "uint64", "bool")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
FILLS = ("random", "zeros", "ones", "arange", "empty")
AXES = 64  # of an array; NumPy has no more
LARGEST = 1 << 28  # bytes of all arrays together: what the emulator gets through in minutes, not hours
BLOCK = 1 << 20  # numbers that are made as 64 bits at a time, before they become smaller ones
FORMS = "Write TYPE[SIZES]:FILL, TYPE:NUMBER or FILE.npy, as in float32[64,32]:random, int32:7, data.npy."


def read_values(texts: list[str], seed: int) -> tuple[list, list[int]]:
    """The values of all `--arg` in order, and the places of those that count as never written.

    Raises:  TinyError if one cannot be read, or all together are larger than LARGEST
    """
    values: list = []
    unwritten: list[int] = []
    total = 0
    for place, text in enumerate(texts):
        parts = [text] if text.endswith(".npy") else text.split("+")
        made: list = []
        for part in parts:
            check_size(total := total + declared_bytes(part), text)
            made.append(read_value(part, np.random.default_rng([seed, place, len(made)])))
        table = len(made) > 1
        if table and not all(isinstance(value, np.ndarray) for value in made):
            raise TinyError(f"--arg {one_line(text, 100)}: a table of pointers holds arrays only.", FORMS)
        values.append(made if table else made[0])
        if any(part.endswith(":empty") for part in parts):
            if not all(part.endswith(":empty") for part in parts):
                raise TinyError(f"--arg {one_line(text, 100)}: one array of a table is empty and another is not.",
                                "Give all of them the fill empty, or none.")
            unwritten.append(place)
    return values, unwritten


def read_value(text: str, random: np.random.Generator) -> np.ndarray | np.generic:
    """One array or scalar."""
    if text.endswith(".npy"):
        return read_file(Path(text))
    form = re.fullmatch(r"(\w+)(?:\[([\d,\s]*)\])?:(\S+)", text)
    if not form:
        raise TinyError(f"--arg {one_line(text, 100)}: not a type, sizes and a fill.", FORMS)
    dtype, fill = dtype_of(form[1], text), form[3]
    if form[2] is None:
        if fill in FILLS:
            raise TinyError(f"--arg {one_line(text, 100)}: a scalar needs a number.",
                            f"Write TYPE:7, or TYPE[SIZE]:{fill}.")
        return parse_number(fill, dtype, text)
    shape = sizes_of(form[2])
    if fill == "random":
        return random_array(shape, dtype, random)
    if fill == "arange":
        return in_blocks(shape, dtype, lambda start, stop: np.arange(start, stop, dtype=np.int64))
    if fill == "empty":
        return np.full(shape, poison(dtype), dtype)
    return np.full(shape, parse_number({"zeros": "0", "ones": "1"}.get(fill, fill), dtype, text), dtype)


def random_array(shape: tuple[int, ...], dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Standard normal numbers; whole numbers from 0 to 99; truth values."""
    if dtype.kind in "iub":
        end = 2 if dtype.kind == "b" else 100
        return in_blocks(shape, dtype, lambda start, stop: random.integers(0, end, stop - start))
    return random.standard_normal(shape, np.float32).astype(dtype)


def in_blocks(shape: tuple[int, ...], dtype: np.dtype, make: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """An array of small numbers that are made as large ones: make(start, stop) gives those of a block."""
    numbers = np.empty(math.prod(shape), dtype)
    for start in range(0, len(numbers), BLOCK):
        stop = min(start + BLOCK, len(numbers))
        numbers[start:stop] = make(start, stop).astype(dtype)
    return numbers.reshape(shape)


def poison(dtype: np.dtype) -> float | int:
    """What memory holds that nobody has written: NaN, or a whole number that no index can be."""
    return int(np.iinfo(dtype).max) // 2 if dtype.kind in "iu" else 1 if dtype.kind == "b" else np.nan


def parse_number(text: str, dtype: np.dtype, whole: str) -> np.generic:
    """Read one number of that type. Raises TinyError if it is not a number or does not fit."""
    try:
        value = int(text, 0) if dtype.kind in "iub" else float(text)
    except ValueError:
        kind = "a whole number" if dtype.kind in "iub" else "a number"
        raise TinyError(f"--arg {one_line(whole, 100)}: {one_line(text, 100)!r} is neither {kind} nor a fill.",
                        f"The fills are {', '.join(FILLS)}.") from None
    low, high = ((0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
                 if dtype.kind in "iu" else (-np.inf, np.inf))
    if value < low or value > high:
        raise TinyError(f"--arg {one_line(whole, 100)}: {one_line(text, 60)} does not fit into {dtype.name}.",
                        f"It holds {low} to {high}.")
    return dtype.type(value)


def dtype_of(name: str, whole: str) -> np.dtype:
    if name not in DTYPES:
        raise TinyError(f"--arg {one_line(whole, 100)}: there is no type {one_line(name, 60)!r}.",
                        f"The types are {', '.join(DTYPES)}.")
    return DTYPES[name]


def sizes_of(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(",") if size.strip())
        if len(sizes) > AXES:
            raise ValueError
        return sizes
    except ValueError:
        raise TinyError(f"--arg: [{one_line(text, 100)}] is not a list of sizes.", FORMS) from None


def declared_bytes(text: str) -> int:
    """Bytes that an `--arg` asks for, before anything is allocated."""
    form = re.fullmatch(r"(\w+)\[([\d,\s]*)\]:\S+", text)
    if not form or form[1] not in DTYPES:
        return 0
    total = DTYPES[form[1]].itemsize
    for size in sizes_of(form[2]):
        total *= max(size, 1)  # NumPy refuses the other sizes of an empty array too, if they are too large
    return total


def check_size(total: int, text: str) -> None:
    if total > LARGEST:
        raise TinyError(f"--arg {one_line(text, 100)}: the arrays are {total:.3g} bytes, and the limit is {LARGEST}.",
                        "Use smaller sizes: a kernel that is wrong is nearly always wrong on small ones too.")


def read_file(path: Path) -> np.ndarray:
    """A stored array, in native byte order and C order. Its header is checked against the file; nothing is unpickled.

    Dtypes:  bfloat16 comes as two bytes without a type (V2), which is how NumPy stores it, and is read as bfloat16
    Raises:  TinyError if the file is missing, damaged, no .npy file, too large, or of another type
    """
    remedy = "It takes what numpy.save wrote, of one of the types " + ", ".join(DTYPES) + "."
    try:
        check_plain(path)
        with path.open("rb") as file:
            return read_stored(file, str(path), remedy)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TinyError(f"{path}: {reason}.", "Check the path and the file.") from None
    except (TinyError, MemoryError):
        raise
    except Exception as error:  # NumPy reports damaged headers by many types
        raise TinyError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}.", remedy) from None


def read_stored(file: BinaryIO, path: str, remedy: str) -> np.ndarray:
    """The array of an open .npy file. Raises TinyError, and what NumPy raises for a header that cannot be read."""
    if file.read(6) != b"\x93NUMPY":
        raise TinyError(f"{path} is not a .npy file.", remedy)
    file.seek(0)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = read[np.lib.format.read_magic(file)](file)
    dtype = DTYPES["bfloat16"] if dtype == np.dtype("V2") else dtype
    if dtype.newbyteorder("=") not in DTYPES.values():
        raise TinyError(f"{path} holds {str(dtype)[:100]}.", remedy)
    count, rest = math.prod(shape), os.fstat(file.fileno()).st_size - file.tell()
    if len(shape) > AXES or any(type(size) is not int or size < 0 for size in shape) or count * dtype.itemsize > rest:
        raise TinyError(f"{path} declares {str(shape)[:100]} numbers of {dtype}, and {rest:,} bytes follow.", remedy)
    check_size(count * dtype.itemsize, path)
    stored = np.frombuffer(file.read(count * dtype.itemsize), dtype).reshape(shape, order="F" if by_columns else "C")
    array = np.array(stored, stored.dtype.newbyteorder("="), order="C")
    return array if array.ndim else array[()]
