"""The experts as kernels, for few tokens: matrices are read where they are, through a table of pointers.

The NumPy functions are `feed_forward` and `experts` of `tiny/experts.py`.

The kernels are in `experts.cu`. They read every matrix once for each token that wants it (from the cache, where tokens
agree), which is right for decoding; a prompt of many tokens wants a grouped product instead.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.storage import STORES, stored, to_store, to_weight, type_defines
from tiny.experts import check_experts, check_feed_forward, used_experts

VERSIONS = ("v1", "v2", "v3")
WARPS, ROWS = 8, 2  # the defaults of experts.cu
THREADS = 256
V1_BYTES = 163 << 10  # shared memory that a block of v1 can have on sm_80


def experts(launcher: Any, x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray,
            w1: Sequence[np.ndarray], w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32",
            version: str = "v3") -> np.ndarray:
    """Send every token to its chosen experts and add up their answers.

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K), w1 E x (F, D), w2 E x (D, F), w3 E x (F, D)
             -> (T, D)
    Dtypes:  x float32, expert_ids int, expert_weights float32 -> float32; matrices float32 or bfloat16, others are
             converted. Under "bfloat16" x, the hidden state and the sum over the experts are stored as bfloat16
    Order:   experts in ascending index; the weights of an expert without tokens are not read, nor looked up if the
             ids are on the host
    Raises:  ValueError as the NumPy function, and for what v1 cannot hold in shared memory
    Source:  tiny/experts.py experts
    Differs: ids on a GPU are not checked, because that would wait for the device
    """
    check_experts(x, expert_ids, expert_weights, w1, w2, w3, precision, stored(precision))
    used = used_experts(expert_ids, len(w1)) if isinstance(expert_ids, np.ndarray) else range(len(w1))
    tables = [{e: matrices[e] for e in used} for matrices in (w1, w2, w3)]
    for e in used:
        check_feed_forward(x, tables[0][e], tables[1][e], tables[2][e], precision, stored(precision))
    x = to_store(x, precision)
    out = launcher.empty(x.shape, x.dtype)
    if not expert_ids.size:
        out[...] = 0
        return out.astype(np.float32, copy=False)
    F, D = next(iter(tables[0].values())).shape
    arrays = (x, *(array.astype(dtype, order="C", copy=False)
                   for array, dtype in ((expert_ids, np.int32), (expert_weights, np.float32))))
    launch(launcher, version, arrays, pointers(tables, len(w1)), out, F, D)
    return out.astype(np.float32, copy=False)


def launch(launcher: Any, version: str, arrays: tuple, tables: list[list], out: np.ndarray, F: int, D: int) -> None:
    """Launch the kernels of one version.

    Shapes:  arrays x (T, D), expert_ids (T, K), expert_weights (T, K) -> out (T, D)
    """
    if version not in VERSIONS:
        raise ValueError(f"experts has the versions v1, v2 and v3; got {version!r}.")
    (x, expert_ids, expert_weights), (w1, w2, w3) = arrays, tables
    (T, K), E = expert_ids.shape, len(w1)
    sizes, defines = [np.int32(size) for size in (D, F, E, K)], type_defines(x, w1[0])
    if version == "v1":
        shared = 8 * D + F * out.dtype.itemsize
        if shared > V1_BYTES:
            raise ValueError(f"experts v1 keeps 8 D + {out.dtype.itemsize} F = {shared} bytes in shared memory, and a "
                             f"block has {V1_BYTES}; use v2 or v3.")
        launcher.launch("experts.cu", "experts_v1", (T,), (THREADS,),
                        [x, expert_ids, expert_weights, w1, w2, w3, out, *sizes], shared_bytes=shared, defines=defines)
        return
    rows = WARPS * (ROWS if version == "v3" else 1)
    hidden = launcher.empty((T, K, F), out.dtype)
    launcher.launch("experts.cu", f"experts_{version}", (T * K, -(-F // rows)), (WARPS * 32,),
                    [x, expert_ids, w1, w3, hidden, *sizes[:2], sizes[3]], defines=defines)
    launcher.launch("experts.cu", f"experts_{version}_down", (T, -(-D // rows)), (WARPS * 32,),
                    [hidden, expert_ids, expert_weights, w2, out, *sizes], defines=defines)


def pointers(tables: Sequence[dict[int, np.ndarray]], E: int) -> list[list[np.ndarray]]:
    """Three lists of E matrices of one dtype. An unused expert gets another's: a table needs some pointer."""
    alike = all(matrix.dtype == STORES["bfloat16"] for table in tables for matrix in table.values())
    found = [{e: to_weight(matrix if alike else matrix.astype(np.float32, copy=False)) for e, matrix in table.items()}
             for table in tables]
    return [[table.get(e, next(iter(table.values()))) for e in range(E)] for table in found]


def floor(T: int, K: int, D: int, F: int, used: int, store: int = 2, weight: int = 2) -> tuple[int, int]:
    """Bytes that must move, and FLOP: T tokens to K experts each, `used` different ones in all.

    store and weight are the bytes of one number. The hidden state could stay on the chip, so it is not counted.
    """
    return 3 * used * F * D * weight + 2 * T * D * store + 8 * T * K, 6 * T * K * F * D
