"""RMSNorm on the device: the host side of `rms_norm.cu`, and the form that adds the residual first.

The NumPy function is `rms_norm` of `tiny/rms_norm.py`.
"""

from typing import Any

import numpy as np

from kernels.storage import STORES, stored, to_store, to_weight, type_defines, wide
from tiny.numerics import need
from tiny.rms_norm import check_rms_norm

FILE = "rms_norm.cu"
ROW_THREADS, V2_THREADS, V3_THREADS, V3_LIMIT = 64, 256, 256, 16384


def rms_norm(launcher: Any, x: np.ndarray, weight: np.ndarray, eps: float, precision: str = "float32",
             version: str = "v3") -> np.ndarray:
    """Normalise each token's vector by its root mean square.

    Shapes:  x (T, D), weight (D,) -> (T, D)
    Dtypes:  x float32, stored as the precision says; weight float32, bfloat16 or float16 -> float32
    Order:   the sum of squares is float32, in one fixed order for each D and version
    Raises:  ValueError as the NumPy function, or if v3 gets a D beyond 16,384
    Source:  tiny/rms_norm.py
    Differs: with bfloat16, the normalised value is not rounded before the weight multiplies it
    """
    check_rms_norm(x, weight, eps, precision, stored(precision))
    out = run_rms_norm(launcher, to_store(x, precision), to_weight(weight), eps, version)
    return out.astype(np.float32, copy=False)


def run_rms_norm(launcher: Any, x: Any, weight: Any, eps: float, version: str = "v3") -> Any:
    """`rms_norm` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  x (T, D), weight (D,) -> (T, D)
    Dtypes:  x and weight float32 or bfloat16 -> as x
    Raises:  ValueError for an unknown version, or if v3 gets a D beyond 16,384
    """
    T, D = x.shape
    if version == "v3":
        check_registers(D)
    out, arguments = launcher.empty((T, D), x.dtype), [np.int32(D), np.float32(eps)]
    threads, chunks = registers(D, wide(x))
    if version == "v1":
        grid, threads, arguments = -(-T // ROW_THREADS), ROW_THREADS, [np.int32(T), *arguments]
    elif version == "v2":
        grid, threads = T, min(V2_THREADS, whole_warps(-(-D // wide(x))))
    elif version == "v3":
        grid = T
    else:
        raise ValueError(f"rms_norm has the versions v1, v2 and v3; got {version!r}.")
    if out.size:
        launcher.launch(FILE, f"rms_norm_{version}", (grid,), (threads,), (x, weight, out, *arguments),
                        defines=(*type_defines(x, weight), f"CHUNKS={chunks}"))
    return out


def add_rms_norm(launcher: Any, x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float,
                 precision: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Add y to the residual stream x, and normalise the sum: both in one pass, by the shipped version.

    Shapes:  x, y (T, D), weight (D,) -> sum (T, D), normed (T, D)
    Dtypes:  as rms_norm; with bfloat16 the sum is rounded before it is normalised, as the model does it
    Raises:  ValueError as rms_norm, and if x and y differ in shape
    """
    check_rms_norm(x, weight, eps, precision, stored(precision))
    need("add_rms_norm", "y", y, ("T", "D"), also=stored(precision))
    if x.shape != y.shape:
        raise ValueError(f"add_rms_norm expects x and y of one shape; got {x.shape} and {y.shape}.")
    both = run_add_norm(launcher, to_store(x, precision), to_store(y, precision), to_weight(weight), eps)
    return both[0].astype(np.float32, copy=False), both[1].astype(np.float32, copy=False)


def run_add_norm(launcher: Any, x: Any, y: Any, weight: Any, eps: float) -> tuple[Any, Any]:
    """`add_rms_norm` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  x, y (T, D), weight (D,) -> sum (T, D), normed (T, D)
    Dtypes:  x, y and weight float32 or bfloat16 -> as x
    Raises:  ValueError if a D is beyond 16,384
    """
    T, D = x.shape
    check_registers(D)
    total, out = launcher.empty((T, D), x.dtype), launcher.empty((T, D), x.dtype)
    threads, chunks = registers(D, wide(x))
    if out.size:
        launcher.launch(FILE, "rms_norm_v3_add", (T,), (threads,),
                        (x, y, weight, total, out, np.int32(D), np.float32(eps)),
                        defines=(*type_defines(x, weight), f"CHUNKS={chunks}"))
    return total, out


def whole_warps(threads: int) -> int:
    """The next multiple of 32."""
    return -(-threads // 32) * 32


def registers(D: int, width: int) -> tuple[int, int]:
    """Threads of a block of v3, and how many 16-byte parts of a row each keeps: as few as 256 threads need, and more
    threads rather than more than 16 numbers, because with 1,024 threads each has only 64 registers.
    """
    parts, chunks = -(-D // width), 1
    while chunks * V3_THREADS < parts and chunks * width < 16:
        chunks *= 2
    return whole_warps(-(-parts // chunks)), chunks


def check_registers(D: int) -> None:
    """Refuse rows that a block of 1,024 threads with 16 numbers each cannot keep."""
    if D > V3_LIMIT:
        raise ValueError(f"rms_norm v3 keeps a row in registers, at most {V3_LIMIT:,} columns; got {D:,}. "
                         'Use version "v2".')


def floor(T: int, D: int, precision: str = "float32", weight_bytes: int = 4, residual: bool = False) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: x and weight in, out written; with y and the sum as well."""
    passes = 4 if residual else 2
    return passes * T * D * STORES[precision].itemsize + D * weight_bytes, (5 if residual else 4) * T * D
