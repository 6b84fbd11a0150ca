"""How arrays are stored for a kernel: the storage types of a precision, and the conversions at its border.

Only methods of the arrays are called, so that NumPy's and CuPy's go through the same lines.
"""

import ml_dtypes
import numpy as np

from tiny.numerics import check_precision

STORES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CPP_NAMES = {STORES["float32"]: "float", STORES["bfloat16"]: "__nv_bfloat16", np.dtype(np.int8): "signed char"}


def stored(precision: str) -> tuple[np.dtype]:
    """For the guards: the dtypes besides float32 of activations, which earlier kernels leave in the storage type."""
    return (STORES.get(precision, STORES["float32"]),)


def to_store(x: np.ndarray, precision: str) -> np.ndarray:
    """Activations as a kernel reads them: contiguous, float32 or rounded to bfloat16; the same array if it is that.

    Raises:  ValueError for another precision
    """
    check_precision(precision)
    return x.astype(STORES[precision], order="C", copy=False)


def to_weight(weight: np.ndarray) -> np.ndarray:
    """Weights as a kernel reads them: contiguous, bfloat16 as it is, any other type as float32."""
    return weight.astype(STORES["bfloat16" if weight.dtype == STORES["bfloat16"] else "float32"], order="C", copy=False)


def type_defines(x: np.ndarray, weight: np.ndarray) -> tuple[str, str]:
    """The options that compile a kernel for stored activations like x and stored weights like this one."""
    return f"STORE={CPP_NAMES[x.dtype]}", f"WEIGHT={CPP_NAMES[weight.dtype]}"


def wide(x: np.ndarray) -> int:
    """How many numbers of an array are 16 bytes: WIDE of `numbers.cuh`."""
    return 16 // x.dtype.itemsize
