"""The experts as kernels: matrices are read where they are, through a table of pointers.

The NumPy functions are `feed_forward` and `experts` of `tiny/experts.py`. Of int8 weights these get the numbers that
whole numbers and scales stand for (`tiny/files/packed/int8.py`).

The kernels of this file's versions are in `experts.cu`. They read every matrix once for each token that wants it (from
the cache, where tokens agree), which is right for decoding; many tokens get the grouped product of `grouped.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kernels.grouped import run_grouped
from kernels.linear import split_of
from kernels.storage import STORES, stored, to_store, to_weight, type_defines, wide
from tiny.experts import check_experts, check_feed_forward, used_experts
from tiny.files.packed.int8 import INT8
from tiny.numerics import check_precision, need

FILE, VERSIONS = "experts.cu", ("v1", "v2", "v3", "v4")
WARPS, ROWS = 8, 2  # the defaults of experts.cu
THREADS = 256
FEW = 2  # tokens of an expert, on average: with more of them the grouped product moves less
V1_BYTES = 163 << 10  # shared memory that a block of v1 can have on sm_80
Matrices = Sequence[np.ndarray]  # one of each expert
Scales = tuple[Matrices, Matrices, Matrices]  # of w1, w2 and w3


class Tables(NamedTuple):
    """A layer's matrices on a device, E of each kind, which a launcher turns into tables of pointers; and their sizes.

    s1, s2, s3: the scales of int8 matrices; of others the matrices again, which nobody reads
    """

    w1: list
    w2: list
    w3: list
    s1: list
    s2: list
    s3: list
    D: int
    F: int

    @property
    def scaled(self) -> bool:
        """Whether the matrices are int8."""
        return self.w1[0].dtype == INT8


def experts(launcher: Any, x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Matrices,
            w2: Matrices, w3: Matrices, precision: str = "float32", version: str | None = None,
            scales: Scales | None = None) -> np.ndarray:
    """Send every token to its chosen experts and add up their answers.

    version: v1 to v4, or grouped_v1 to grouped_v3; by default v4 for few tokens, and for many the grouped product

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K), w1 E x (F, D), w2 E x (D, F), w3 E x (F, D); scales of
             their rows E x (F,), E x (D,), E x (F,) -> (T, D)
    Dtypes:  x float32, expert_ids int, expert_weights float32 -> float32; matrices float32 or bfloat16, others are
             converted, or int8 with scales of float32. Under "bfloat16" x, the hidden state and the sum over the
             experts are stored as bfloat16
    Order:   experts in ascending index; the weights of an expert without tokens are not read, nor looked up if the
             ids are on the host
    Raises:  ValueError as the NumPy function, for int8 without scales or scales without int8, and for what v1 cannot
             hold in shared memory
    Source:  tiny/experts.py experts
    Differs: ids on a GPU are not checked, because that would wait for the device
    """
    check_experts(x, expert_ids, expert_weights, w1, w2, w3, precision, stored(precision))
    used = used_experts(expert_ids, len(w1)) if isinstance(expert_ids, np.ndarray) else range(len(w1))
    found = [{e: arrays[e] for e in used} for arrays in (w1, w2, w3, *(scales or ()))]
    for e in used:
        check_expert(x, [arrays[e] for arrays in found], precision)
    x = to_store(x, precision)
    if not expert_ids.size:
        out = launcher.empty(x.shape, x.dtype)
        out[...] = 0
        return out.astype(np.float32, copy=False)
    ids, weights = (array.astype(dtype, order="C", copy=False)
                    for array, dtype in ((expert_ids, np.int32), (expert_weights, np.float32)))
    tables = make_tables(launcher, [filled(arrays, len(w1)) for arrays in alike(found)])
    return run_experts(launcher, x, ids, weights, tables, version).astype(np.float32, copy=False)


def feed_forward(launcher: Any, x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                 precision: str = "float32", version: str | None = None,
                 scales: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """One expert, which every token has: the feed-forward layer of a dense model.

    Shapes:  x (T, D), w1 (F, D), w2 (D, F), w3 (F, D); scales of their rows (F,), (D,), (F,) -> (T, D)
    Dtypes:  as `experts`
    Raises:  ValueError as `experts`
    Source:  tiny/experts.py feed_forward
    """
    arrays = [w1, w2, w3, *(scales or ())]
    check_expert(x, arrays, precision)
    tables = make_tables(launcher, [[array] for array, in map(dict.values, alike([{0: array} for array in arrays]))])
    return run_experts(launcher, to_store(x, precision), None, None, tables, version).astype(np.float32, copy=False)


def check_expert(x: np.ndarray, arrays: Sequence[np.ndarray], precision: str) -> None:
    """The guard of one expert: its three matrices, and three scales if they are int8. Shapes:  x (T, D)."""
    w1, w2, w3, *scales = arrays
    if not scales:
        if any(getattr(matrix, "dtype", None) == INT8 for matrix in arrays):
            raise ValueError("experts expects a scale for each row of int8 matrices; got none.")
        check_feed_forward(x, w1, w2, w3, precision, stored(precision))
        return
    need("experts", "x", x, ("T", "D"), None, stored(precision))
    for n, (matrix, scale) in enumerate(zip((w1, w2, w3), scales), 1):
        need("experts", f"w{n}", matrix, ("N", "M"), (INT8,))
        need("experts", f"the scales of w{n}", scale, ("N",))
    check_precision(precision)
    shapes, D, F = [array.shape for array in arrays], x.shape[1], len(arrays[0])
    if shapes != [(F, D), (D, F), (F, D), (F,), (D,), (F,)]:
        raise ValueError(f"experts expects int8 matrices (F, {D}), ({D}, F), (F, {D}) and scales (F,), ({D},), (F,) "
                         f"for x (T, {D}); got {', '.join(map(str, shapes))}.")


def alike(found: list[dict[int, np.ndarray]]) -> list[dict[int, np.ndarray]]:
    """The arrays of several experts as kernels read them: matrices of one dtype, then scales if there are any."""
    matrices = [matrix for arrays in found[:3] for matrix in arrays.values()]
    if len(found) > 3:
        return [{e: array.astype(array.dtype, order="C", copy=False) for e, array in arrays.items()}
                for arrays in found]
    narrow = all(matrix.dtype == STORES["bfloat16"] for matrix in matrices)
    return [{e: to_weight(matrix if narrow else matrix.astype(np.float32, copy=False)) for e, matrix in arrays.items()}
            for arrays in found]


def filled(arrays: dict[int, np.ndarray], E: int) -> list[np.ndarray]:
    """A list of E arrays. An unused expert gets another's: a table needs some pointer."""
    return [arrays.get(e, next(iter(arrays.values()))) for e in range(E)]


def make_tables(launcher: Any, arrays: Sequence[list]) -> Tables:
    """The tables of a layer, whose arrays are on the device in the types that kernels read; made once, at load.

    arrays: w1, w2, w3 and, if they are int8, their scales: lists with one array of each expert
    """
    w1, w2, w3, *scales = (launcher.table(arrays_of_one) for arrays_of_one in arrays)
    s1, s2, s3 = scales or (w1, w2, w3)
    F, D = w1[0].shape
    return Tables(w1, w2, w3, s1, s2, s3, D, F)


def run_experts(launcher: Any, x: Any, expert_ids: Any, expert_weights: Any, tables: Tables,
                version: str | None = None) -> Any:
    """`experts` of arrays that are on the device as the kernels read them; nothing is read on the host.

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K) -> (T, D)
    Dtypes:  x float32 or bfloat16, expert_ids int32, expert_weights float32 -> as x. Without ids, None, the first
             expert is every token's, with the weight 1
    Raises:  ValueError for an unknown version, sizes that do not agree, and what v1 cannot hold in shared memory
    """
    version = version or ("v4" if few_tokens(x, expert_ids, len(tables.w1)) else "grouped")
    if version.startswith("grouped"):
        return run_grouped(launcher, x, expert_ids, expert_weights, tables, version[len("grouped_"):] or None)
    if version not in VERSIONS:
        raise ValueError(f"experts has the versions v1, v2, v3 and v4, and grouped_v1 to grouped_v3; got {version!r}.")
    (T, D), F, dense = x.shape, tables.F, expert_ids is None
    K = 1 if dense else expert_ids.shape[-1]
    if D != tables.D or not dense and not (expert_ids.shape == expert_weights.shape == (T, K)):
        raise ValueError(f"experts expects x (T, {tables.D}), and ids and weights (T, K); got {x.shape}"
                         f"{'' if dense else f', {expert_ids.shape} and {expert_weights.shape}'}.")
    ids = launcher.empty((1,), np.int32) if dense else expert_ids  # which nobody reads
    weights = launcher.empty((1,), np.float32) if dense else expert_weights
    out = launcher.empty(x.shape, x.dtype)
    if not out.size:
        return out
    split = split_of(D, F, wide(tables.w2[0])) if version == "v4" else 1
    defines = (*type_defines(x, tables.w1[0]), *(("SCALE=float", "SCALED=1") if tables.scaled else ()),
               *(("DENSE=1",) if dense else ()), *((f"SPLIT={split}",) if version == "v4" else ()))
    if version == "v1":
        return run_v1(launcher, x, ids, weights, tables, out, K, defines)
    rows = WARPS * (1 if version == "v2" else ROWS)
    sizes = [np.int32(size) for size in (D, F, K)]
    hidden = launcher.empty((T, K, F), x.dtype)
    launcher.launch(FILE, f"experts_{version}", (T * K, -(-F // rows)), (WARPS * 32,),
                    [x, ids, tables.w1, tables.w3, tables.s1, tables.s3, hidden, *sizes], defines=defines)
    launcher.launch(FILE, f"experts_{version}_down", (T, -(-D // (rows // split))), (WARPS * 32,),
                    [hidden, ids, weights, tables.w2, tables.s2, out, *sizes[:2],
                     *([] if version == "v4" else [np.int32(len(tables.w1))]), sizes[2]], defines=defines)
    return out


def few_tokens(x: Any, expert_ids: Any, E: int) -> bool:
    """Whether the kernels for few tokens move less than the grouped product. Shapes:  x (T, D), expert_ids (T, K)."""
    return (len(x) if expert_ids is None else expert_ids.size) <= FEW * E


def run_v1(launcher: Any, x: Any, ids: Any, weights: Any, tables: Tables, out: Any, K: int, defines: tuple) -> Any:
    """Launch version 1. Shapes:  x (T, D), ids (T, K), weights (T, K), out (T, D) -> (T, D)."""
    shared = 8 * tables.D + tables.F * out.dtype.itemsize
    if shared > V1_BYTES:
        raise ValueError(f"experts v1 keeps 8 D + {out.dtype.itemsize} F = {shared} bytes in shared memory, and a "
                         f"block has {V1_BYTES}; use v2, v3 or v4.")
    sizes = [np.int32(size) for size in (tables.D, tables.F, len(tables.w1), K)]
    launcher.launch(FILE, "experts_v1", (len(x),), (THREADS,), [x, ids, weights, *tables[:6], out, *sizes],
                    shared_bytes=shared, defines=defines)
    return out


def floor(T: int, K: int, D: int, F: int, used: int, store: int = 2, weight: int = 2,
          scaled: bool = False) -> tuple[int, int]:
    """Bytes that must move, and FLOP: T tokens to K experts each, `used` different ones in all.

    store and weight are the bytes of one number; scaled: with scales. The hidden state could stay on the chip, so it is
    not counted.
    """
    scales = 4 * used * (2 * F + D) * scaled
    return 3 * used * F * D * weight + scales + 2 * T * D * store + 8 * T * K, 6 * T * K * F * D
