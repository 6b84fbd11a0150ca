"""Bits and numbers: the types of PTX, numbers that stand in the code, and arithmetic that NumPy does not have.

A register holds bits; the type at the end of an opcode says what they mean.
"""

import ctypes
import functools
from collections.abc import Callable

import numpy as np

TYPES = {name: np.dtype(dtype) for dtype, names in {
    np.bool_: "pred", np.uint8: "b8 u8", np.int8: "s8", np.uint16: "b16 u16 bf16", np.int16: "s16",
    np.uint32: "b32 u32 bf16x2", np.int32: "s32", np.uint64: "b64 u64", np.int64: "s64", np.float16: "f16",
    np.float32: "f32", np.float64: "f64"}.items() for name in names.split()}
SMALLEST = np.float32(2.0**-126)  # the smallest number of float32 that keeps all its bits


@functools.cache
def immediate(text: str, dtype: np.dtype) -> np.generic:
    """A number that stands in the code, as bits of a type: 7, -1, 0xFF, or 0fBITS for a float.

    >>> float(immediate("0f3F800000", np.dtype(np.float32)))
    1.0
    """
    if text[:2] in ("0f", "0F"):
        return np.uint32(int(text[2:], 16)).view(np.float32)
    if text[:2] in ("0d", "0D"):
        return np.uint64(int(text[2:], 16)).view(np.float64)
    value = int(text.rstrip("U"), 0)
    if dtype.kind == "b":
        return np.bool_(value)
    bits = np.dtype(f"u{dtype.itemsize}").type(value & (1 << 8 * dtype.itemsize) - 1)
    return bits.view(dtype)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray, down: bool = False) -> np.ndarray:
    """a b + c, rounded once: to the nearest, or down.

    The product of two float32 is exact in float64. Their sum with c is rounded "to odd" there: a sum that is not exact
    gets an odd last bit, so that it can be no tie and no number of float32, and rounding it again is right.
    """
    product, c = a.astype(np.float64) * b, np.asarray(c, np.float64)
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)  # what the sum has lost, exactly (Knuth)
    bits = np.atleast_1d(total).view(np.int64)
    odd = np.where((error > 0) == (total > 0), bits | 1, bits - 1 | 1)
    total = np.where((error != 0) & np.isfinite(error) & (bits & 1 == 0), odd, bits).view(np.float64)
    rounded = total.astype(np.float32)
    return np.where(rounded > total, np.nextafter(rounded, np.float32(-np.inf)), rounded) if down else rounded


@functools.cache
def c_fma() -> Callable:
    """The C library's a b + c for one number of float64, which rounds once, as C demands."""
    function = ctypes.CDLL(None).fma
    function.argtypes, function.restype = [ctypes.c_double] * 3, ctypes.c_double
    return np.vectorize(function, otypes=[np.float64])


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c in float64, rounded once, to the nearest. There is no wider type that NumPy could round from."""
    return c_fma()(a, b, c)


def flush(x: np.ndarray) -> np.ndarray:
    """Numbers too small for all their bits become zeros of their sign: `.ftz`."""
    return np.where(np.abs(x) < SMALLEST, np.copysign(np.float32(0), x), x)


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger number; of a NaN and a number the number, of two zeros the positive one."""
    zero = (a == b) & (a == 0)
    return np.where(zero, a + b, np.fmax(a, b))


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smaller number, likewise."""
    return -larger(-a, -b)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers rounded to bfloat16, to the nearest, ties to even; every NaN is 0x7FFF."""
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers whose upper halves these are."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_integer(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats without a fraction to integers: the nearest that there is, 0 for NaN."""
    limits, x = np.iinfo(dtype), np.nan_to_num(x.astype(np.float64), nan=0.0)
    least, most = x <= float(limits.min), x >= float(limits.max)
    whole = np.where(least | most, 0, x).astype(dtype)
    return np.where(least, dtype.type(limits.min), np.where(most, dtype.type(limits.max), whole))


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer division that rounds toward zero. By zero PTX leaves the result open; here it is all ones."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    whole = a // safe
    whole = whole + ((whole < 0) & (whole * safe != a)).astype(a.dtype) if a.dtype.kind == "i" else whole
    return np.where(b == 0, ~b, whole)


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What the division leaves, with the sign of a."""
    return a - quotient(a, b) * b


def high_half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of a product of integers of at most 32 bits."""
    wide = np.dtype(f"{a.dtype.kind}8")
    return (a.astype(wide) * b.astype(wide) >> wide.type(8 * a.dtype.itemsize)).astype(a.dtype)


def shift_left(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Shift; by the width of the type or more, nothing is left."""
    width = 8 * x.dtype.itemsize
    return np.where(by < width, x << np.minimum(by, width - 1).astype(x.dtype), x.dtype.type(0))


def shift_right(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Shift; by the width of the type or more, copies of the sign are left, or nothing if there is none."""
    width = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(by, width - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(by < width, shifted, x.dtype.type(0))


def insert_field(a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """b with `length` bits of a in the place of its own from `start`."""
    ones = shift_left(np.atleast_1d(np.ones_like(b)), length & 255) - b.dtype.type(1)
    mask = shift_left(ones, start & 255)
    return b & ~mask | shift_left(a, start & 255) & mask


def extract_field(x: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`length` bits from `start`, of a number of 32 bits; with a sign, the last of them is the sign."""
    length = np.minimum(length & 255, 32).astype(np.int64)
    field = x.astype(np.int64) >> np.minimum(start & 255, 63) & (1 << length) - 1
    sign = 1 << length >> 1 if x.dtype.kind == "i" else 0
    return ((field ^ sign) - sign).astype(x.dtype)


def permute_bytes(a: np.ndarray, b: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Four bytes chosen from the eight of b and a, one by each nibble of `control`; its upper bit repeats the sign."""
    both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
    result = np.zeros_like(both)
    for n in range(4):
        nibble = (control >> np.uint32(4 * n) & np.uint32(15)).astype(np.uint64)
        byte = both >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        byte = np.where(nibble & np.uint64(8), (byte >> np.uint64(7)) * np.uint64(255), byte)
        result |= byte << np.uint64(8 * n)
    return result.astype(np.uint32)


def funnel_left(a: np.ndarray, b: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The upper 32 bits of b and a, side by side, shifted left by the distance modulo 32."""
    both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
    return (both << (by & 31).astype(np.uint64) >> np.uint64(32)).astype(np.uint32)


def funnel_right(a: np.ndarray, b: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The lower 32 bits of b and a, side by side, shifted right by the distance modulo 32."""
    both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
    return (both >> (by & 31).astype(np.uint64)).astype(np.uint32)
