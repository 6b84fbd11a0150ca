"""The arithmetic that every layer shares: softmax, SiLU, GELU, the linear map, and bfloat16 rounding.

Nothing here knows about language models. Weights may be stored as bfloat16, float16 or float32; activations are
float32, and every operation refuses others (`need`). Read `rms_norm.py` next.

>>> softmax(np.array([[0.0, 0.0]], np.float32))
array([[0.5, 0.5]], dtype=float32)
"""

import math
import threading
from collections.abc import Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np

FLOAT32 = np.dtype(np.float32)
# What activations may be. Finite differences need float64: the tests of the backward passes add it here.
ACTIVATIONS = (FLOAT32,)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORED = (FLOAT32, BFLOAT16, np.dtype(np.float16))  # what weights may be
INTEGERS = tuple(np.dtype(f"{kind}{size}") for kind in "iu" for size in (8, 4, 2, 1))  # ids and positions
PRECISIONS = ("float32", "bfloat16")
# OpenBLAS packs a matrix before it multiplies, which for few tokens costs more than the product; it packs nothing for a
# vector, nor, on processors with AVX-512, where a product has at most 10^6 multiplications. So up to FEW tokens meet
# FEW_WEIGHTS at a time, and up to SINGLE meet them one by one. So few weights keep one core busy. A machine with many
# cores would be faster with more of them, but then the last bits of an answer would depend on how many there are.
FEW, SINGLE, FEW_WEIGHTS = 8, 3, 125_000
WHOLE_ROWS = 16  # a block of more rows has a multiple of this, because kernels of OpenBLAS take so many at once
MANY_BYTES = 4 << 20  # of float32 weights at a time, for one token or many: products gain from larger blocks
# 1 - erf(x) = exp(-x^2) sum_k ERF_TERMS[k] t^(k + 1) with t = 1 / (1 + ERF_SCALE x), for x >= 0: the form of Abramowitz
# and Stegun 7.1.26 with two more terms, fitted to math.erfc on [0, 6]; it is off by 1.2e-9 at most.
ERF_SCALE = 0.45
ERF_TERMS = (0.258989686, 0.201009394, 0.460170616, -0.375802803, 0.857167808, -0.494104347, 0.092569647)


def need(operation: str, name: str, x: Any, axes: Sequence[str] | None,
         dtypes: Sequence[np.dtype] | None = None, also: Sequence[np.dtype] = ()) -> None:
    """Refuse an argument that an operation has no meaning for: every guard of the book is a call of this function.

    axes:   the letters of its axes, as ("T", "D"); None for any number from one on
    dtypes: what it may be, ACTIVATIONS by default; also: further dtypes, those that a kernel stores

    Raises:  ValueError if x is not an array, or has other axes or another dtype; it says what was expected and came
    """
    dtype = getattr(x, "dtype", "none")  # not None, which NumPy takes for float64
    if dtype is FLOAT32 and (dtypes is None or dtypes is STORED) and axes is not None and x.ndim == len(axes):
        return  # nearly all calls end here, so that a guard costs nothing
    dtypes = ACTIVATIONS if dtypes is None else dtypes
    if (dtype in dtypes or dtype in also) and (x.ndim if axes is None else x.ndim == len(axes)):
        return
    kinds = "whole numbers" if dtypes is INTEGERS else " or ".join(map(str, dtypes))
    came = f"{x.shape} of {x.dtype}" if hasattr(x, "dtype") else f"a {type(x).__name__}, not an array"
    shape = " (...)" if axes is None else f" ({', '.join(axes)}{',' * (len(axes) == 1)})"
    raise ValueError(f"{operation} expects {name}{shape} of {kinds}; got {came}.")


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that is not one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ValueError(f"The precision is 'float32' or 'bfloat16'; got {precision!r}.")


def round_to(x: np.ndarray, precision: str) -> np.ndarray:
    """Mark a rounding point: return x as it would be stored between two operations.

    Shapes:  x any -> same
    Dtypes:  float32 -> float32; under "bfloat16" every value is the nearest bfloat16 one, ties to even
    Raises:  ValueError for another dtype or an unknown precision
    Source:  transformers modeling_mixtral.py run in bfloat16 rounds after every operation; float32 rounds nowhere
    """
    need("round_to", "x", x, None)
    if precision == "float32":
        return x
    check_precision(precision)
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def softmax(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Exponentials of the last axis, divided by their sum; written into out if it is given (it may be x itself).

    Shapes:  x (..., n) -> (..., n)
    Dtypes:  float32 -> float32
    Order:   the maximum is subtracted first, so that no exponential overflows
    Raises:  ValueError for another dtype, rows without a number, or an out of another shape or dtype
    """
    need("softmax", "x", x, None)
    if not x.shape[-1]:
        raise ValueError(f"softmax expects rows of at least one number; got x {x.shape}.")
    if out is not None and out is not x and (out.shape, out.dtype) != (x.shape, x.dtype):
        raise ValueError(f"softmax expects out like x, {x.shape} of {x.dtype}; got {out.shape} of {out.dtype}.")
    out = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    return np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), written x / (1 + exp(-x)).

    Shapes:  x any -> same
    Dtypes:  float32 -> float32
    Raises:  ValueError for another dtype
    Source:  arXiv:1710.05941 (SiLU, there "swish"); Mixtral's experts use it in SwiGLU, arXiv:2002.05202
    """
    need("silu", "x", x, None)
    out = np.negative(x)
    with np.errstate(over="ignore"):  # exp(100) is infinity, and x / infinity is the right zero.
        np.exp(out, out=out)
    out += np.float32(1)
    return np.divide(x, out, out=out)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, which NumPy lacks.

    Shapes:  x any -> same
    Dtypes:  float32 -> float32; the largest error is 4e-7
    Raises:  ValueError for another dtype
    """
    need("erf", "x", x, None)
    magnitude = np.abs(x)
    t = np.float32(1) / (np.float32(1) + np.float32(ERF_SCALE) * magnitude)
    # (1) the polynomial by Horner's rule, from the highest power
    total = np.full_like(t, ERF_TERMS[-1])
    for term in ERF_TERMS[-2::-1]:
        total *= t
        total += np.float32(term)
    # (2) times t exp(-x^2), which is zero from 14 on
    total *= t
    np.minimum(magnitude, np.float32(14), out=magnitude)
    total *= np.exp(-magnitude * magnitude)
    return np.copysign(np.float32(1) - total, x)


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the probability that a standard normal number is below x: x (1 + erf(x / sqrt 2)) / 2.

    Shapes:  x any -> same
    Dtypes:  float32 -> float32
    Raises:  ValueError for another dtype
    Source:  arXiv:1606.08415; the adapter of Pixtral has this exact form, not the one with tanh
    """
    need("gelu", "x", x, None)
    return x * np.float32(0.5) * (np.float32(1) + erf(x * np.float32(0.5**0.5)))


def add(x: np.ndarray, y: np.ndarray, precision: str = "float32") -> np.ndarray:
    """Add an answer to the residual stream, as a new array.

    Shapes:  x, y (T, D) -> (T, D)
    Dtypes:  float32 -> float32
    Raises:  ValueError for another dtype, rank or precision, or if x and y differ in shape
    """
    need("add", "x", x, ("T", "D"))
    need("add", "y", y, ("T", "D"))
    if x.shape != y.shape:
        raise ValueError(f"add expects x and y of one shape; got {x.shape} and {y.shape}.")
    return round_to(x + y, precision)


def embed(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look up one row for each id: the vector of a token.

    Shapes:  ids (T,), table (V, D) -> (T, D)
    Dtypes:  ids int; table float32, bfloat16 or float16 -> float32
    Raises:  ValueError for another dtype or rank, or an id that has no row
    """
    need("embed", "ids", ids, ("T",), INTEGERS)
    need("embed", "table", table, ("V", "D"), STORED)
    if not ((ids >= 0) & (ids < len(table))).all():
        raise ValueError(f"embed expects ids from 0 to {len(table) - 1}; got {ids.min()} to {ids.max()}.")
    return table[ids].astype(np.float32, copy=False)


def linear(x: np.ndarray, weight: np.ndarray, precision: str = "float32") -> np.ndarray:
    """y = x W^T, with W as torch's Linear stores it: one row for each output.

    Shapes:  x (T, in), weight (out, in) -> (T, out); weight (a, b, ..., in) counts as (a * b * ..., in)
    Dtypes:  x float32; weight float32, bfloat16 or float16 -> float32
    Order:   weights are taken a block of rows at a time. In another dtype, or not contiguous, they are converted in
             a scratch buffer of at most 4 MiB (one row at least), which the next call uses again
    Raises:  ValueError for another dtype, rank or precision, or if the two inner sizes differ
    """
    check_linear(x, weight, precision)
    return product(x, weight, precision)


def check_linear(x: np.ndarray, weight: np.ndarray, precision: str, stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `linear`. Shapes:  x (T, in), weight (out, in) or (a, b, ..., in)."""
    need("linear", "x", x, ("T", "in"), None, stored)
    need("linear", "weight", weight, None, STORED)
    check_precision(precision)
    if weight.ndim < 2 or x.shape[1] != weight.shape[-1]:
        raise ValueError(f"linear expects x (T, in) and weight (out, in); got {x.shape} and {weight.shape}. "
                         "The last axes must agree: weights are stored one row for each output.")


def product(x: np.ndarray, weight: np.ndarray, precision: str, order: Literal["C", "F"] = "C") -> np.ndarray:
    """`linear` without its guard, for operations that have checked x and the weight.

    Shapes:  as linear
    Order:   "F" puts the columns of the answer side by side, not its rows, which is faster for many tokens
    """
    out = np.empty((len(x), math.prod(weight.shape[:-1])), x.dtype, order)
    matrix = isinstance(weight, np.ndarray) and weight.ndim == 2  # anything else unpacks when rows are asked for
    group = math.prod(weight.shape[1:-1])  # rows of the output for each index of the first axis
    step = rows_of(MANY_BYTES // 4, group * weight.shape[-1])
    # What is float32 already goes by the same blocks, so that mapped, packed and resident weights give the same bits:
    # in other blocks, BLAS may add up in another order. But for one token, all cores share a resident matrix: there the
    # bits are the same with one thread only. What was converted stays with its core, as the others would have to fetch
    # it, which can take longer than the product.
    resident = matrix and weight.dtype is FLOAT32
    if resident and len(x) == 1:
        return round_to(np.matmul(x, weight.T, out=out), precision)
    scratch = None if resident else SCRATCH.take((min(step, len(weight)), *weight.shape[1:]))
    part = rows_of(FEW_WEIGHTS, weight.shape[-1]) if len(x) <= FEW else step * group
    for start in range(0, len(weight), step):
        # (1) weights become float32, a block of rows at a time
        block = weight[start : start + step] if scratch is None else scratch[: min(step, len(weight) - start)]
        if scratch is not None:
            np.copyto(block, weight[start : start + step])
        # (2) each row with each token
        block_product(x, block.reshape(-1, x.shape[1]), out[:, start * group : (start + len(block)) * group], part)
    # (3) round what comes out
    return round_to(out, precision)


class Scratch(threading.local):
    """Memory in which the products of one thread convert weights, one product after another.

    New memory for each of them would cost time: the system hands it out in pages of 4 KiB, and fills each with zeros.
    """

    memory = np.empty(0, np.float32)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array with whatever the last product left in it, until the next call. Shapes:  -> shape."""
        size = math.prod(shape)
        if size > self.memory.size:
            self.memory = np.empty(size, np.float32)
        return self.memory[:size].reshape(shape)


SCRATCH = Scratch()


def rows_of(numbers: int, width: int) -> int:
    """How many rows of so many numbers a block has: one at least, and of many a multiple of WHOLE_ROWS."""
    rows = max(1, numbers // max(1, width))
    return rows - rows % WHOLE_ROWS if rows > WHOLE_ROWS else rows


def block_product(x: np.ndarray, block: np.ndarray, out: np.ndarray, part: int) -> None:
    """out = x W^T for a block of W, so many of its rows at a time. A few tokens read each from memory once, and then
    from the cache.

    Shapes:  x (T, in), block (n, in), out (T, n)
    """
    together = 1 if len(x) <= SINGLE else len(x)
    for start in range(0, len(block), part):
        rows, columns = block[start : start + part].T, out[:, start : start + part]
        for t in range(0, len(x), together):
            np.matmul(x[t : t + together], rows, out=columns[t : t + together])
