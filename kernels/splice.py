"""Patches of images into the rows of their tokens, on the device: the host side of `splice.cu`.

The NumPy function is `splice` of `tiny/adapter.py`.
"""

from typing import Any

import numpy as np

from kernels.storage import CPP_NAMES, STORES, stored, to_store, wide
from tiny.numerics import INTEGERS, need

FILE, VERSIONS, THREADS, ROW_THREADS = "splice.cu", ("v1", "v2"), 256, 1024  # the last is the default of splice.cu


def splice(launcher: Any, text: np.ndarray, ids: np.ndarray, features: np.ndarray, image_token_id: int,
           precision: str = "float32", version: str = "v2") -> np.ndarray:
    """Put the features of patches into the rows of [IMG], in order. All other rows stay text.

    Shapes:  text (T, D), ids (T,), features (N, D), N = the [IMG] in ids -> (T, D), a new array
    Dtypes:  text and features float32, stored as the precision says; ids int -> float32
    Raises:  ValueError for another dtype, rank or version, or if text, ids and features do not agree
    Source:  tiny/adapter.py splice
    Differs: that there are N [IMG] is not checked: the ids are read on the device
    """
    need("splice", "ids", ids, ("T",), INTEGERS)
    text, features = to_store(text, precision), to_store(features, precision)
    ids = ids.astype(np.int32, order="C", copy=False)
    return run_splice(launcher, text, ids, features, image_token_id, version).astype(np.float32, copy=False)


def run_splice(launcher: Any, text: Any, ids: Any, features: Any, image_token_id: int,
               version: str = VERSIONS[-1]) -> Any:
    """`splice` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  text (T, D), ids (T,), features (N, D) -> (T, D)
    Dtypes:  text and features float32 or bfloat16, ids int32 -> as text
    Raises:  ValueError as `splice`
    """
    for name, array in (("text", text), ("features", features)):
        need("splice", name, array, ("T", "D"), None, stored("bfloat16"))
    need("splice", "ids", ids, ("T",), (np.dtype(np.int32),))
    (T, D), sizes = text.shape, (np.int32(image_token_id), np.int32(text.shape[1]))
    if ids.shape != (T,) or features.shape[1] != D or features.dtype != text.dtype:
        raise ValueError(f"splice expects text (T, D), ids (T,) and features (N, D) of one dtype; got {text.shape} of "
                         f"{text.dtype}, {ids.shape} and {features.shape} of {features.dtype}.")
    if version not in VERSIONS:
        raise ValueError(f"splice has the versions v1 and v2; got {version!r}.")
    out, defines = launcher.empty((T, D), text.dtype), (f"STORE={CPP_NAMES[text.dtype]}",)
    if not out.size:
        return out
    if version == "v1":
        launcher.launch(FILE, "splice_v1", (T, -(-D // THREADS)), (THREADS,), [text, ids, features, out, *sizes],
                        defines=defines)
        return out
    rows = launcher.empty((T,), np.int32)
    launcher.launch(FILE, "splice_v2_rows", (1,), (ROW_THREADS,), [ids, rows, sizes[0], np.int32(T)], defines=defines)
    launcher.launch(FILE, "splice_v2", (T, -(-D // (wide(text) * THREADS))), (THREADS,),
                    [text, rows, features, out, sizes[1]], defines=defines)
    return out


def floor(T: int, D: int, precision: str = "float32") -> tuple[int, int]:
    """Bytes that must move and floating-point operations: ids in; for each token a row in, and out."""
    return 4 * T + 2 * T * D * STORES[precision].itemsize, 0
