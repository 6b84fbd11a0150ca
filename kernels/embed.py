"""Rows of a table on the device, by ids that lie there: the host side of `embed.cu`.

The NumPy function is `embed` of `tiny/numerics.py`.
"""

from typing import Any

import numpy as np

from kernels.storage import STORES, to_weight, type_defines, wide
from tiny.numerics import INTEGERS, STORED, check_precision, need

FILE, VERSIONS, THREADS = "embed.cu", ("v1", "v2"), 256


def embed(launcher: Any, ids: np.ndarray, table: np.ndarray, precision: str = "float32",
          version: str = "v2") -> np.ndarray:
    """Look up one row for each id: the vector of a token.

    Shapes:  ids (T,), table (V, D) -> (T, D)
    Dtypes:  ids int, from 0 to V - 1: the device does not check them; table float32, bfloat16 or float16 -> float32
    Raises:  ValueError for another dtype, rank, precision or version
    Source:  tiny/numerics.py embed
    Differs: with precision "bfloat16", a row is rounded to bfloat16: the residual stream is stored so
    """
    need("embed", "ids", ids, ("T",), INTEGERS)
    check(table)
    check_precision(precision)
    ids = ids.astype(np.int32, order="C", copy=False)
    return run_embed(launcher, ids, to_weight(table), precision, version).astype(np.float32, copy=False)


def run_embed(launcher: Any, ids: Any, table: Any, precision: str, version: str = VERSIONS[-1]) -> Any:
    """`embed` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  ids (T,), table (V, D) -> (T, D)
    Dtypes:  ids int32, table float32 or bfloat16 -> what the precision stores
    Raises:  ValueError for another dtype, rank or version
    """
    need("embed", "ids", ids, ("T",), (np.dtype(np.int32),))
    check(table)
    if version not in VERSIONS:
        raise ValueError(f"embed has the versions v1 and v2; got {version!r}.")
    out = launcher.empty((len(ids), table.shape[1]), STORES[precision])
    units = table.shape[1] if version == "v1" else -(-table.shape[1] // wide(out))
    if out.size:
        launcher.launch(FILE, f"embed_{version}", (len(ids), -(-units // THREADS)), (THREADS,),
                        [ids, table, out, np.int32(table.shape[1])], defines=type_defines(out, table))
    return out


def check(table: np.ndarray) -> None:
    """The guard of a table. Shapes:  table (V, D)."""
    need("embed", "table", table, ("V", "D"), STORED)


def floor(T: int, D: int, precision: str = "float32", weight_bytes: int = 4) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: ids and their rows in, rows out."""
    return 4 * T + T * D * (weight_bytes + STORES[precision].itemsize), 0
