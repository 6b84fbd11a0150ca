"""What `--arg` says, as values: arrays with a fill, scalars, tables of arrays, and files.

    float32[64,32]:random    an array and its fill: random, zeros, ones, arange, empty, or a number
    int32:7                  a scalar
    data.npy                 a stored array; nothing in it is executed
    float32[8]:ones+float32[8]:zeros    a table of pointers, as for a parameter `const float* const* rows`
"""

import re
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import TinyError

DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16",
                                            "int32", "uint32", "int64", "uint64", "bool")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
FILLS = ("random", "zeros", "ones", "arange", "empty")
LARGEST = 1 << 30  # bytes of all arrays together: what the emulator gets through in minutes, not hours
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
            raise TinyError(f"--arg {text}: a table of pointers holds arrays only.", FORMS)
        values.append(made if table else made[0])
        if any(part.endswith(":empty") for part in parts):
            if not all(part.endswith(":empty") for part in parts):
                raise TinyError(f"--arg {text}: one array of a table is empty and another is not.",
                                "Give all of them the fill empty, or none.")
            unwritten.append(place)
    return values, unwritten


def read_value(text: str, random: np.random.Generator) -> np.ndarray | np.generic:
    """One array or scalar."""
    if text.endswith(".npy"):
        return read_file(Path(text))
    form = re.fullmatch(r"(\w+)(?:\[([\d,\s]*)\])?:(\S+)", text)
    if not form:
        raise TinyError(f"--arg {text}: not a type, sizes and a fill.", FORMS)
    dtype, fill = dtype_of(form[1], text), form[3]
    if form[2] is None:
        if fill in FILLS:
            raise TinyError(f"--arg {text}: a scalar needs a number.", f"Write {form[1]}:7, or {form[1]}[SIZE]:{fill}.")
        return parse_number(fill, dtype, text)
    shape = sizes_of(form[2])
    if fill == "random":
        return random_array(shape, dtype, random)
    if fill == "arange":
        return np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).astype(dtype).reshape(shape)
    if fill == "empty":
        return np.full(shape, poison(dtype), dtype)
    return np.full(shape, parse_number({"zeros": "0", "ones": "1"}.get(fill, fill), dtype, text), dtype)


def random_array(shape: tuple[int, ...], dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Standard normal numbers; whole numbers from 0 to 99; truth values."""
    if dtype.kind in "iub":
        return random.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    return random.standard_normal(shape, np.float32).astype(dtype)


def poison(dtype: np.dtype) -> float | int:
    """What memory holds that nobody has written: NaN, or a whole number that no index can be."""
    return int(np.iinfo(dtype).max) // 2 if dtype.kind in "iu" else 1 if dtype.kind == "b" else np.nan


def parse_number(text: str, dtype: np.dtype, whole: str) -> np.generic:
    """Read one number of that type. Raises TinyError if it is not a number or does not fit."""
    try:
        value = int(text, 0) if dtype.kind in "iub" else float(text)
    except ValueError:
        kind = "a whole number" if dtype.kind in "iub" else "a number"
        raise TinyError(f"--arg {whole}: {text!r} is neither {kind} nor a fill.",
                        f"The fills are {', '.join(FILLS)}.") from None
    low, high = ((0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
                 if dtype.kind in "iu" else (-np.inf, np.inf))
    if value < low or value > high:
        raise TinyError(f"--arg {whole}: {text} does not fit into {dtype.name}.", f"It holds {low} to {high}.")
    return dtype.type(value)


def dtype_of(name: str, whole: str) -> np.dtype:
    if name not in DTYPES:
        raise TinyError(f"--arg {whole}: there is no type {name!r}.", f"The types are {', '.join(DTYPES)}.")
    return DTYPES[name]


def sizes_of(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise TinyError(f"--arg: [{text}] is not a list of sizes.", FORMS) from None


def declared_bytes(text: str) -> int:
    """Bytes that an `--arg` asks for, before anything is allocated."""
    form = re.fullmatch(r"(\w+)\[([\d,\s]*)\]:\S+", text)
    if not form or form[1] not in DTYPES:
        return 0
    total = DTYPES[form[1]].itemsize
    for size in sizes_of(form[2]):
        total *= size
    return total


def check_size(total: int, text: str) -> None:
    if total > LARGEST:
        raise TinyError(f"--arg {text[:100]}: the arrays are {total:.3g} bytes, and {LARGEST} is the limit here.",
                        "Use smaller sizes: a kernel that is wrong is nearly always wrong on small ones too.")


def read_file(path: Path) -> np.ndarray:
    """A stored array, in native byte order and C order. Its header is checked against the file; nothing is unpickled.

    Dtypes:  bfloat16 comes as two bytes without a type (V2), which is how NumPy stores it, and is read as bfloat16
    Raises:  TinyError if the file is missing, damaged, no .npy file, too large, or of another type
    """
    remedy = "It takes what numpy.save wrote, of one of the types " + ", ".join(DTYPES) + "."
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise TinyError(f"{path} is not a .npy file.", remedy)
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except TinyError:
        raise
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TinyError(f"{path}: {reason}.", "Check the path and the file.") from None
    except Exception as error:  # NumPy reports damaged headers by many types
        raise TinyError(f"{path} cannot be read: {' '.join(str(error).split())}.", remedy) from None
    check_size(stored.nbytes, str(path))
    if stored.dtype == np.dtype("V2"):
        stored = stored.view(DTYPES["bfloat16"])
    if stored.dtype.newbyteorder("=") not in DTYPES.values():
        raise TinyError(f"{path} holds {stored.dtype}.", remedy)
    array = np.array(stored, stored.dtype.newbyteorder("="), order="C", subok=False)
    return array if array.ndim else array[()]
