"""The orders in which PyTorch adds and chooses on a CPU with AVX512_BF16: dot products, sums, softmax, top-k.

In exact arithmetic none of these orders matters. In float32 each has its own last bits, and where a result is rounded
to bfloat16, or decides between two experts, such a bit now and then becomes a visible one. Found out by experiment on
inputs that cancel almost completely, where every low bit shows, beside the sources that are named; PyTorch 2.13.
`torch_cpu.py` builds a model's operations from these.
"""

from collections.abc import Sequence

import numpy as np

# Up to OWN multiplications (of a whole batch) PyTorch computes itself instead of oneDNN; a matrix of a batch with fewer
# than PLAIN in the plain order of k.
OWN, PLAIN = 4096, 400
TILE = 1 << 15  # Outputs summed at a time: their accumulators stay in the cache from one k to the next.
# exp: log2 e, ln 2 in two parts, and the coefficients of exp(r) = 1 + r + r^2 (...), from the highest power.
LOG2E, LN2 = 1.442695041, (0.693145751953125, 1.428606765330187e-06)
EXP = (0.000198527617612853646, 0.00139304355252534151, 0.00833336077630519867, 0.0416664853692054749,
       0.166666671633720398, 0.5)


# ---- dot products

def product(a: np.ndarray, b: np.ndarray, by_columns: bool = False) -> np.ndarray:
    """The dot product of every row of a with every row of b, not yet rounded to bfloat16.

    Leading axes are a batch. Sizes decide who computes: oneDNN, or for small ones PyTorch itself, whose order also
    depends on the order of b in memory: row by row, as weights do, or by_columns, as the values of attention do.

    Shapes:  a (..., M, K), b (..., N, K) -> (..., M, N); M, N = rows, K = the summed length
    Dtypes:  float32 holding bfloat16 values -> float32
    Source:  PyTorch aten LinearAlgebra.cpp, bmm_out_or_baddbmm_; mkldnn/Matmul.cpp, checksize
    """
    (M, K), N = a.shape[-2:], b.shape[-2]
    if a.size * N > OWN:
        return in_blocks(a, b, 512 if K <= 1024 or M == 1 else 1024)
    if a.ndim > 2 and M * K * N < PLAIN:
        return chain(a, b, range(K))
    return four_sums(a, b) if by_columns else eight_lanes(a, b)


def in_blocks(a: np.ndarray, b: np.ndarray, block: int) -> np.ndarray:
    """Dot products as oneDNN forms them: K is cut into blocks, each is summed from zero, then added to those before.

    Shapes:  a (..., M, K), b (..., N, K) -> (..., M, N)
    Dtypes:  float32 holding bfloat16 values -> float32
    """
    K = a.shape[-1]
    out = chain(a, b, pairs(0, min(block, K)))
    for start in range(block, K, block):
        out += chain(a, b, pairs(start, min(start + block, K)))
    return out


def pairs(start: int, stop: int) -> list[int]:
    """The numbers from start to stop, of each pair the second one first; an odd one at the end stays alone.

    Source:  the AVX512_BF16 instruction VDPBF16PS, which takes two products at a time, the upper before the lower
    """
    return [k for first in range(start, stop, 2) for k in (first + 1, first) if k < stop]


def chain(a: np.ndarray, b: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Dot products added up from zero, one product after the other in the order given.

    The processor adds a product without rounding it first. Here it is rounded, and that changes nothing: two bfloat16
    numbers have 8 bits each, their product fits in the 24 of a float32.

    Shapes:  a (..., M, K), b (..., N, K) -> (..., M, N)
    Dtypes:  float32 holding bfloat16 values -> float32
    """
    N = b.shape[-2]
    out = np.zeros((*a.shape[:-1], N), np.float32)
    columns = np.ascontiguousarray(np.moveaxis(a, -1, 0))[..., None]
    rows = np.ascontiguousarray(np.moveaxis(b, -1, 0))[..., None, :]
    step = max(1, TILE * N // max(1, out.size))
    for start in range(0, N, step):
        part = rows[..., start : start + step]
        total = np.zeros((*a.shape[:-1], part.shape[-1]), np.float32)
        terms = np.empty_like(total)
        for k in order:
            total += np.multiply(columns[k], part[k], out=terms)
        out[..., start : start + step] = total
    return out


def eight_lanes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products in PyTorch's own order: eight registers of eight lanes, then one register, then number by number.

    Shapes:  a (..., M, K), b (..., N, K) -> (..., M, N)
    Dtypes:  float32 holding bfloat16 values -> float32
    Source:  PyTorch aten ReducedPrecisionFloatGemvFastPathKernel.cpp, the dot product without bfloat16 instructions
    """
    terms = a[..., :, None, :] * b[..., None, :, :]
    K, outputs = terms.shape[-1], terms.shape[:-1]
    whole, sixteens = K - K % 64, K - K % 16
    # (1) groups of 64: element 8 r + l goes to lane l of register r
    registers = np.zeros((*outputs, 64), np.float32)
    for k in range(0, whole, 64):
        registers += terms[..., k : k + 64]
    total = fold(fold(registers.reshape(*outputs, 8, 8).swapaxes(-1, -2)))
    # (2) groups of 8, as long as two of them fill a vector of 16
    lanes = np.zeros((*outputs, 8), np.float32)
    for k in range(whole, sixteens, 8):
        lanes += terms[..., k : k + 8]
    total += fold(lanes)
    # (3) the rest
    for k in range(sixteens, K):
        total += terms[..., k]
    return total


def four_sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products in PyTorch's plainest way: every fourth term to the same of four sums, what is left to the first.

    Shapes:  a (..., M, K), b (..., N, K) -> (..., M, N)
    Dtypes:  float32 holding bfloat16 values -> float32
    Source:  PyTorch aten native/cpu/BlasKernel.cpp, sum
    """
    terms = a[..., :, None, :] * b[..., None, :, :]
    K, sums = terms.shape[-1], np.zeros((*terms.shape[:-1], 4), np.float32)
    for k in range(0, K - K % 4, 4):
        sums += terms[..., k : k + 4]
    for k in range(K - K % 4, K):
        sums[..., 0] += terms[..., k]
    return ((sums[..., 0] + sums[..., 1]) + sums[..., 2]) + sums[..., 3]


def fold(x: np.ndarray) -> np.ndarray:
    """Add up the last axis, a power of two: the upper half onto the lower one, again and again.

    Shapes:  (..., n) -> (...)
    """
    while (n := x.shape[-1]) > 1:
        x = x[..., : n // 2] + x[..., n // 2 :]
    return x[..., 0]


# ---- sums of rows, and what is made of them

def row_sums(x: np.ndarray) -> np.ndarray:
    """Add up each row as torch.sum does: vectors of eight dealt to four accumulators, in cascades; the rest one by one.

    Shapes:  (T, n) -> (T,)
    Dtypes:  float32 -> float32
    Source:  PyTorch aten native/cpu/SumKernel.cpp
    """
    count = x.shape[1] // 8
    rounds = count // 4
    vectors = x[:, : 8 * count].reshape(len(x), count, 8)
    # (1) four accumulators of eight lanes, (2) the vectors left over, and the other three, into the first
    four = cascade(vectors[:, : 4 * rounds].reshape(len(x), rounds, 4, 8))
    lanes = four[:, 0]
    for vector in (*vectors[:, 4 * rounds :].swapaxes(0, 1), *four[:, 1:].swapaxes(0, 1)):
        lanes = lanes + vector
    # (3) the numbers that fill no vector, then the lanes; without a vector, every fourth number together
    rest = x[:, 8 * count :] if count else x[:, [0, *range(4, x.shape[1]), 1, 2, 3][: x.shape[1]]]
    total = np.zeros(len(x), np.float32)
    for column in (*rest.T, *lanes.T):
        total = total + column
    return total


def cascade(x: np.ndarray) -> np.ndarray:
    """Add up the second axis, in four levels: a level that is full is added to the next.

    Shapes:  (T, n, 4, 8) -> (T, 4, 8)
    """
    T, n = x.shape[:2]
    power = max(4, (n - 1).bit_length() // 4) if n > 1 else 4
    levels = np.zeros((4, T, 4, 8), np.float32)
    for i in range(n):
        levels[0] += x[:, i]
        if (i + 1) % (1 << power):
            continue
        for level in range(1, 4):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if (i + 1) & (((1 << power) - 1) << (level * power)):
                break
    return levels[0] + levels[1] + levels[2] + levels[3]


def fma(a: np.ndarray, b: float | np.ndarray, c: float | np.ndarray) -> np.ndarray:
    """a b + c rounded once, as the processor's fused instruction gives it.

    Shapes:  a any, b and c of its shape or numbers -> same
    Dtypes:  float32, and numbers that are exact in it, -> float32. In float64 the product is exact, the sum nearly so
    """
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def exp(x: np.ndarray) -> np.ndarray:
    """The exponential of numbers up to 0, with PyTorch's polynomial.

    Shapes:  any -> same
    Dtypes:  float32 -> float32
    Source:  PyTorch aten vec512_float.h, exp_u20; the method is Sleef's
    """
    q = np.rint(x * np.float32(LOG2E))
    r = fma(q, -float(np.float32(LN2[0])), x)
    r = fma(q, -float(np.float32(LN2[1])), r)
    u = np.full_like(r, EXP[0])
    for term in EXP[1:]:
        u = fma(u, r, float(np.float32(term)))
    power = np.ldexp(np.float32(1) + fma(r * r, u, r), q.astype(np.int32))
    return np.where(x < -104, np.float32(0), power)


def softmax(x: np.ndarray) -> np.ndarray:
    """Exponentials of the last axis, times one over their sum; -inf has probability 0.

    Shapes:  (..., n) -> (..., n)
    Dtypes:  float32 -> float32
    Order:   sixteen lanes take every sixteenth number and are folded; fewer than sixteen numbers are added in turn
    Source:  PyTorch aten vec_host_softmax_lastdim in native/cpu/SoftMaxKernel.cpp
    """
    hidden = np.isneginf(x)
    e = exp(np.where(hidden, np.float32(0), x - x.max(axis=-1, keepdims=True)))
    e[hidden] = 0
    n = x.shape[-1]
    if n < 16:
        total = np.zeros(x.shape[:-1], np.float32)
        for column in np.moveaxis(e, -1, 0):
            total = total + column
    else:
        lanes = np.zeros((*x.shape[:-1], 16), np.float32)
        for start in range(0, n, 16):
            part = e[..., start : start + 16]
            lanes[..., : part.shape[-1]] += part
        total = fold(lanes)
    return e * (np.float32(1) / total)[..., None]


# ---- choosing

def top_k(values: np.ndarray, k: int) -> list[int]:
    """The places of the k largest numbers of a row, falling; which of equal ones, and in which order, is a matter of
    the algorithm: C++'s nth_element on pairs (number, place), comparing numbers only, then a sort of the first k - 1.

    Shapes:  (n,) -> k places, 1 <= k <= n < 64 k
    Source:  PyTorch aten native/TopKImpl.h; libstdc++ bits/stl_algo.h, __introselect
    """
    row = [(float(value), place) for place, value in enumerate(values)]
    first, last = 0, len(row)
    while last - first > 3:
        cut = partition(row, first, last)
        first, last = (cut, last) if cut <= k - 1 else (first, cut)
    row[first:last] = sorted(row[first:last], key=falling)
    return [place for _, place in sorted(row[: k - 1], key=falling) + row[k - 1 : k]]


def falling(pair: tuple[float, int]) -> float:
    """The key that sorts pairs by falling number; equal ones stay in their order, as in an insertion sort."""
    return -pair[0]


def partition(row: list[tuple[float, int]], first: int, last: int) -> int:
    """Move the larger numbers of row[first:last] to the front of it, in place; return where the smaller ones start.

    Source:  libstdc++ bits/stl_algo.h, __unguarded_partition_pivot
    """
    def larger(i, j):
        return row[i][0] > row[j][0]

    def swap(i, j):
        row[i], row[j] = row[j], row[i]

    # (1) of the second, the middle and the last number the median is the pivot, and goes to the front
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    if larger(a, b):
        median = b if larger(b, c) else c if larger(a, c) else a
    else:
        median = a if larger(a, c) else c if larger(b, c) else b
    swap(first, median)
    # (2) exchange from both ends what is on the wrong side
    low, high = first + 1, last
    while True:
        while larger(low, first):
            low += 1
        high -= 1
        while larger(first, high):
            high -= 1
        if low >= high:
            return low
        swap(low, high)
        low += 1
