"""The linear map on the device: the host side of `linear.cu` (few tokens) and `linear_prompt.cu` (many), for weights in
float32, bfloat16 or int8.

The NumPy functions are `linear` of `tiny/numerics.py`, and `linear_int8` of `kernels/int8.py` for whole numbers.
"""

from typing import Any

import numpy as np

from kernels.int8 import check_linear_int8
from kernels.storage import CPP_NAMES, STORES, stored, to_store, to_weight, wide
from tiny.files.packed.int8 import INT8
from tiny.numerics import STORED, check_linear, need

FILE, VERSIONS = "linear.cu", ("v1", "v2", "v3")
PROMPT_FILE, PROMPT_VERSIONS = "linear_prompt.cu", ("v4", "v5")
V1_THREADS, WARPS, ROWS = 128, 8, 2  # the last two are the defaults of linear.cu
MOST_TOKENS = 16  # that share a read of the weights; more of them are a prompt
ENOUGH_WARPS = 4096  # 32 for each of the 132 multiprocessors of an H100, nearly
TILE, V4_THREADS = 128, 256  # of tile.cuh: tokens and rows of a block, and plain::THREADS
ENOUGH_BLOCKS = 100  # most of those 132 multiprocessors


def linear(launcher: Any, x: np.ndarray, weight: np.ndarray, precision: str = "float32", version: str | None = None,
           scale: np.ndarray | None = None, bias: np.ndarray | None = None, gelu: bool = False,
           residual: np.ndarray | None = None) -> np.ndarray:
    """y = x W^T, or residual + gelu(x W^T + bias), or any part of it.

    version: by default v3 for up to 16 tokens; for more v5, if x is bfloat16 and weights are bfloat16 or int8, else v4

    Shapes:  x (T, D), weight (N, D), scale (N,), bias (N,), residual (T, N) -> (T, N)
    Dtypes:  x and residual float32, stored as the precision says; weight float32, bfloat16 or float16, or int8 with a
             scale of float32; bias as x or as float weights -> float32
    Order:   a version adds up a token's products in one order, however many tokens come with it
    Raises:  ValueError as the NumPy function, for a bias or residual of another shape, for int8 without a scale, or a
             scale without int8, and for v5 with types that it does not take
    Source:  tiny/numerics.py linear; kernels/int8.py linear_int8
    Differs: with bfloat16, only the result is rounded, and not the product before bias, GELU and residual
    """
    check(x, weight, precision, scale, bias, residual)
    weight = weight.astype(INT8, order="C", copy=False) if scale is not None else to_weight(weight)
    tail = [None if array is None else to_store(array, precision) for array in (bias, residual)]
    out = run_linear(launcher, to_store(x, precision), weight, scale, tail[0], gelu, tail[1], version)
    return out.astype(np.float32, copy=False)


def run_linear(launcher: Any, x: Any, weight: Any, scale: Any = None, bias: Any = None, gelu: bool = False,
               residual: Any = None, version: str | None = None) -> Any:
    """`linear` of arrays that are on the device as the kernels read them; nothing is read on the host.

    Shapes:  x (T, D), weight (N, D), scale (N,), bias (N,), residual (T, N) -> (T, N)
    Dtypes:  x, bias and residual float32 or bfloat16; weight float32, bfloat16, or int8 with a scale of float32 -> as x
    Raises:  ValueError for an unknown version, or v5 with types that it does not take
    """
    weight = weight.reshape(-1, x.shape[1])
    (T, D), N = x.shape, len(weight)
    tensor_cores = x.dtype == STORES["bfloat16"] and weight.dtype != STORES["float32"]
    version = version or ("v3" if T <= MOST_TOKENS else "v5" if tensor_cores else "v4")
    if version not in VERSIONS + PROMPT_VERSIONS or version == "v5" and not tensor_cores:
        raise ValueError("linear has the versions v1, v2, v3, v4 and, for bfloat16 with weights of bfloat16 or int8, "
                         f"v5; got {version!r} for {x.dtype} with {weight.dtype}.")
    out = launcher.empty((T, N), x.dtype)
    arrays = [x, weight, *(x if array is None else array for array in (scale, bias, residual)), out]
    sizes = [np.int32(size) for size in (T, D, N)]
    grid, threads, shared_bytes, more = shape_of(version, T, D, N, wide(weight))
    if out.size:
        launcher.launch(PROMPT_FILE if version in PROMPT_VERSIONS else FILE, f"linear_{version}", grid, (threads,),
                        [*arrays, *sizes[version == "v1":]], shared_bytes=shared_bytes,
                        defines=(*options(x, weight, bias is not None, gelu, residual is not None), *more))
    return out


def shape_of(version: str, T: int, D: int, N: int, width: int) -> tuple[tuple[int, int], int, int, tuple[str, ...]]:
    """The grid of a version, the threads and the shared memory of a block, and the options that sizes decide."""
    tiles = -(-T // TILE)
    if version == "v4":
        return (tiles, -(-N // TILE)), V4_THREADS, 0, ()
    if version == "v5":
        rows = tile_rows(tiles, N)
        return (tiles, -(-N // rows)), rows, stages_bytes(rows), tile_options(rows)
    tokens, split = tokens_of(T), split_of(N, D, width)
    defines = (f"TOKENS={tokens}", f"SPLIT={split}")  # the versions of a file are compiled together: all get both
    if version == "v1":
        return (T, -(-N // V1_THREADS)), V1_THREADS, 0, defines
    of_a_block = WARPS if version == "v2" else WARPS // split * ROWS
    return (-(-T // tokens), -(-N // of_a_block)), WARPS * 32, 0, defines


def tile_rows(tiles: int, N: int) -> int:
    """Rows of a block on tensor cores, TILE_ROWS of tile.cuh: 256 if a large GPU has blocks enough then, else 128."""
    return 2 * TILE if tiles * -(-N // (2 * TILE)) >= ENOUGH_BLOCKS else TILE


def tile_options(rows: int) -> tuple[str, ...]:
    """The option for rows of a block on tensor cores: none for as many as the source has by itself."""
    return () if rows == TILE else (f"TILE_ROWS={rows}",)


def stages_bytes(rows: int) -> int:
    """Shared memory of a block on tensor cores: tensor::BYTES of tile.cuh, for three stages of 32 columns."""
    return 3 * (TILE + rows) * 32 * 2


def check(x: np.ndarray, weight: np.ndarray, precision: str, scale: np.ndarray | None, bias: np.ndarray | None,
          residual: np.ndarray | None) -> None:
    """The guard of `linear`. Shapes:  x (T, D), weight (N, D), scale (N,), bias (N,), residual (T, N)."""
    if scale is not None:
        check_linear_int8(x, weight, scale, precision, stored(precision))
    elif getattr(weight, "dtype", None) == INT8:
        raise ValueError("linear expects a scale for each row of int8 weights; got none.")
    else:
        check_linear(x, weight, precision, stored(precision))
    rows = int(np.prod(weight.shape[:-1]))
    if bias is not None:
        need("linear", "bias", bias, ("N",), STORED)
    if residual is not None:
        need("linear", "residual", residual, ("T", "N"), None, stored(precision))
    for name, array, shape in (("bias", bias, (rows,)), ("residual", residual, (len(x), rows))):
        if array is not None and array.shape != shape:
            raise ValueError(f"linear expects {name} {shape} for x {x.shape} and weight {weight.shape}; got "
                             f"{array.shape}.")


def options(x: np.ndarray, weight: np.ndarray, biased: bool, gelu: bool, residual: bool) -> list[str]:
    """The options that compile the kernel for these arrays, and for what follows the product. Shapes:  any."""
    names = CPP_NAMES | {INT8: "signed char"}
    chosen = {"BIASED": biased, "GELU": gelu, "RESIDUAL": residual}
    scale = ["SCALE=float", "SCALED=1"] if weight.dtype == INT8 else []
    return [f"STORE={names[x.dtype]}", f"WEIGHT={names[weight.dtype]}", *scale,
            *(f"{name}=1" for name, wanted in chosen.items() if wanted)]


def tokens_of(T: int) -> int:
    """How many tokens share a read of the weights: a power of two, so that few forms are compiled."""
    return min(MOST_TOKENS, 1 << max(0, T - 1).bit_length())


def split_of(N: int, D: int, width: int) -> int:
    """How many warps share a row in v3: enough to keep a large GPU busy, each with a load for every lane at least."""
    split = 1
    while split < WARPS and -(-N // ROWS) * split < ENOUGH_WARPS and D >= 2 * split * 32 * width:
        split *= 2
    return split


def floor(T: int, D: int, N: int, precision: str = "float32", weight_bytes: int = 4, scaled: bool = False,
          residual: bool = False) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: the weights once, x in, y out; scales and residual if any."""
    numbers = T * D + (2 if residual else 1) * T * N
    return N * D * weight_bytes + numbers * STORES[precision].itemsize + 4 * N * scaled, 2 * T * D * N
