"""What a run leaves behind: a line for every array, and the arrays in a file."""

from pathlib import Path

import ml_dtypes
import numpy as np

from kernels.emulator.listing import columns
from tiny.system.whole import write_whole


def summary(names: list[str], arrays: list) -> str:
    """A table of the arrays: name, type, shape, smallest and largest number, and how many are NaN."""
    rows: list[tuple[str, ...]] = [("argument", "type", "shape", "min", "max", "NaN")]
    for name, array in parts(names, arrays):
        numbers = array.astype(np.float64) if array.dtype.kind not in "iub" else array
        nan = int(np.isnan(numbers).sum()) if numbers.dtype.kind == "f" else 0
        some = numbers.size > nan
        low, high = (np.nanmin(numbers), np.nanmax(numbers)) if some else ("", "")
        rows.append((name, array.dtype.name, "x".join(map(str, array.shape)), shorten(low), shorten(high), str(nan)))
    return columns(rows, left=(0, 1, 2)) if len(rows) > 1 else ""


def shorten(value) -> str:
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def parts(names: list[str], arrays: list):
    """Yield (name, array); the arrays of a table are name_0, name_1 and so on; scalars are left out."""
    for name, value in zip(names, arrays):
        if isinstance(value, list):
            yield from ((f"{name}_{i}", part) for i, part in enumerate(value))
        elif isinstance(value, np.ndarray):
            yield name, value


def save(path: Path, arrays: list) -> bool:
    """Keep the arrays as arg0, arg1 and so on in a .npz; True if one is bfloat16, which NumPy stores untyped."""
    named = dict(parts([f"arg{i}" for i in range(len(arrays))], arrays))
    write_whole(path, lambda file: np.savez(file, **named))
    return any(array.dtype == ml_dtypes.bfloat16 for array in named.values())
