"""Rotary positions on the device: the host side of `rope.cu`, and the form that fills the cache on its way.

The NumPy function is `rope` of `tiny/rope.py`.
"""

from typing import Any

import numpy as np

from kernels.storage import CPP_NAMES, STORES, stored, to_store, wide
from tiny.numerics import need
from tiny.rope import check_rope

FILE, THREADS = "rope.cu", 256


def rope(launcher: Any, x: np.ndarray, cos: np.ndarray, sin: np.ndarray, precision: str = "float32",
         version: str = "v2") -> np.ndarray:
    """Rotate each interleaved pair (x[2i], x[2i+1]) of every head by its token's angle.

    Shapes:  x (T, n, d), cos (T, d / 2), sin (T, d / 2) -> (T, n, d)
    Dtypes:  x float32, stored as the precision says; cos, sin float32 -> float32
    Raises:  ValueError as the NumPy function
    Source:  tiny/rope.py
    Differs: with bfloat16, the angles and the four products are not rounded, only the result is; v3 is rope_into_cache
    """
    check_rope(x, cos, sin, precision, stored(precision))
    return run_rope(launcher, to_store(x, precision), *tables(cos, sin), version).astype(np.float32, copy=False)


def run_rope(launcher: Any, x: Any, cos: Any, sin: Any, version: str = "v2") -> Any:
    """`rope` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  x (T, n, d), cos (T, d / 2), sin (T, d / 2) -> (T, n, d)
    Dtypes:  x float32 or bfloat16, cos and sin float32 -> as x
    Raises:  ValueError for an unknown version
    """
    T, n, d = x.shape
    units = {"v1": n * (d // 2), "v2": n * -(-d // wide(x))}
    if version not in units:
        raise ValueError(f"rope has the versions v1 and v2, and v3 as rope_into_cache; got {version!r}.")
    out = launcher.empty((T, n, d), x.dtype)
    if out.size:
        launcher.launch(FILE, f"rope_{version}", (T, -(-units[version] // THREADS)), (THREADS,),
                        (x, cos, sin, out, np.int32(n), np.int32(d)), defines=(f"STORE={CPP_NAMES[x.dtype]}",))
    return out


def rope_into_cache(launcher: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, cos: np.ndarray, sin: np.ndarray,
                    rows: np.ndarray, cache_keys: np.ndarray, cache_values: np.ndarray,
                    precision: str = "float32") -> np.ndarray:
    """Rotate queries and keys; return the queries, and write keys and values into their rows of one layer's cache.

    Shapes:  q (T, H, d), k, v (T, G, d), cos, sin (T, d / 2), rows (T,), cache_keys, cache_values (S, G, d)
             -> (T, H, d)
    Dtypes:  q, k, v float32, stored as the precision says; rows int32, read on the device; the cache is what the
             precision stores -> float32
    Order:   rows are distinct and below S: the device does not check them
    Raises:  ValueError if shapes do not agree, or the cache or rows have another type or are not contiguous
    Source:  tiny/rope.py and the first step of KVCache.append, tiny/kv_cache.py
    """
    for x in (q, k):
        check_rope(x, cos, sin, precision, stored(precision))
    need("rope_into_cache", "v", v, ("T", "G", "d"), also=stored(precision))
    check_cache(k, v, rows, cache_keys, cache_values, precision)
    q, k, v = (to_store(x, precision) for x in (q, k, v))
    out = run_rope_into_cache(launcher, q, k, v, *tables(cos, sin), rows, cache_keys, cache_values)
    return out.astype(np.float32, copy=False)


def run_rope_into_cache(launcher: Any, q: Any, k: Any, v: Any, cos: Any, sin: Any, rows: Any, cache_keys: Any,
                        cache_values: Any) -> Any:
    """`rope_into_cache` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  q (T, H, d), k, v (T, G, d), cos, sin (T, d / 2), rows (T,), cache_keys, cache_values (S, G, d)
             -> (T, H, d)
    Dtypes:  q, k, v and the cache float32 or bfloat16, cos and sin float32, rows int32 -> as q
    """
    (T, H, d), G = q.shape, k.shape[1]
    out = launcher.empty((T, H, d), q.dtype)
    grid = T, -(-(H + 2 * G) * -(-d // wide(q)) // THREADS)
    if out.size:
        launcher.launch(FILE, "rope_v3", grid, (THREADS,), (q, k, v, cos, sin, rows, out, cache_keys, cache_values,
                        np.int32(H), np.int32(G), np.int32(d)), defines=(f"STORE={CPP_NAMES[q.dtype]}",))
    return out


def check_cache(k: np.ndarray, v: np.ndarray, rows: np.ndarray, keys: np.ndarray, values: np.ndarray,
                precision: str) -> None:
    """Refuse a cache of another type or shape than the keys and values: a converted copy would be filled instead."""
    if v.shape != k.shape or keys.shape[1:] != k.shape[1:] or values.shape != keys.shape or rows.shape != k.shape[:1]:
        raise ValueError("rope_into_cache expects k, v (T, G, d), a cache (S, G, d) and rows (T,); got "
                         f"{k.shape}, {v.shape}, {keys.shape}, {values.shape} and {rows.shape}.")
    wanted = STORES.get(precision)
    if {keys.dtype, values.dtype} != {wanted} or rows.dtype != np.dtype(np.int32):
        raise ValueError(f"rope_into_cache with precision {precision!r} expects a cache of {wanted} and rows of int32; "
                         f"got {keys.dtype}, {values.dtype} and {rows.dtype}.")
    if not all(x.flags.c_contiguous for x in (keys, values, rows)):
        raise ValueError("rope_into_cache writes into the cache itself: keys, values and rows must be contiguous. "
                         "One layer of a KVCache is.")


def tables(cos: np.ndarray, sin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The angles as the kernels read them: float32 with every precision."""
    return cos.astype(np.float32, order="C", copy=False), sin.astype(np.float32, order="C", copy=False)


def floor(T: int, heads: int, head_dim: int, precision: str = "float32", copied: int = 0) -> tuple[int, int]:
    """Bytes that must move and floating-point operations, for `heads` rotated heads and `copied` ones (those of v)."""
    numbers = T * head_dim * (heads + copied)
    return 2 * numbers * STORES[precision].itemsize + 2 * T * (head_dim // 2) * 4, 3 * T * heads * head_dim
