"""One host function as the lists of cases describe it: its arguments, drawn at random, its sizes and its versions."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from kernels.signature import HERE

BF16, BFLOAT16 = "bfloat16", np.dtype(ml_dtypes.bfloat16)
FLOAT = np.dtype(np.float32)
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?(\w+)\s*\(")


class Draw:
    """Random arguments for one storage, as arrays of NumPy or of CuPy."""

    def __init__(self, arrays: ModuleType, precision: str, weight: np.dtype, seed: int = 0):
        self.arrays, self.precision, self.weight = arrays, precision, weight
        self.random, self.host = arrays.random.default_rng(seed), np.random.default_rng(seed)

    def activations(self, *shape: int) -> Any:
        """Standard normal numbers, in the type in which the precision stores activations."""
        return self.normal(shape, FLOAT if self.precision == "float32" else BFLOAT16)

    def weights(self, *shape: int) -> Any:
        """Normal numbers that keep the magnitude of what they multiply, in the type of weights."""
        return self.normal(shape, self.weight, shape[-1] ** -0.5)

    def normal(self, shape: tuple[int, ...], dtype: np.dtype, scale: float = 1.0) -> Any:
        """Normal numbers. CuPy converts to bfloat16 as NumPy does, to the nearest, ties to even."""
        numbers = self.random.standard_normal(shape, dtype=np.float32)
        numbers *= np.float32(scale)
        return numbers.astype(dtype, copy=False)

    def put(self, array: np.ndarray) -> Any:
        """An array of the host where the others are."""
        return self.arrays.asarray(array)


@dataclass(frozen=True)
class Operation:
    """One host function: how to make its arguments, what the book says they give, and which shapes are run.

    versions: by letter, or (None,) for a function that has one form only
    """

    name: str
    host: Callable
    expected: Callable
    make: Callable[..., tuple]
    floor: Callable[..., tuple[int, int]]
    small: tuple[dict, ...]
    published: dict[str, dict]
    versions: tuple = (None,)

    def call(self, launcher: Any, arguments: tuple, precision: str, version: str | None) -> tuple:
        """Run the host function; its results as a tuple."""
        options = {"version": version} if version else {}
        result = self.host(launcher, *arguments, precision=precision, **options)
        return result if isinstance(result, tuple) else (result,)


def kernels_of(file: str) -> list[str]:
    """The names of the kernels that a `.cu` file of this folder declares."""
    return KERNEL.findall((HERE / file).read_text(encoding="utf-8"))


def versions_of(file: str, name: str) -> tuple[str, ...]:
    """The versions of an operation: every v1, v2, ... for which the file has a kernel NAME_vN."""
    found = (re.fullmatch(rf"{name}_(v\d+)", kernel) for kernel in kernels_of(file))
    return tuple(sorted(match[1] for match in found if match))
