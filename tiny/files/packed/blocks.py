"""The types in which a GGUF file stores numbers: blocks of 32 or 256 numbers, a scale and small whole numbers in each.

An unpacker takes rows of bytes and returns their blocks, (n, 32) or (n, 8, 32), as float32. A half, 4 bits or 2 bits of
a byte are stored for numbers that are 16, 32 or 64 places apart, so that a processor can take many of them at once.

Source: ggml-quants.c, dequantize_row_*; the package gguf, quants.py, which the tests compare with, bit by bit
"""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

# Every type that ggml has or had, in the order of its codes. Source: ggml.h, enum ggml_type
NAMES = ("F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S "
         "IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 "
         "IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4 Q1_0").split()
PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


class Kind(NamedTuple):
    """A type of blocks: how many numbers and bytes one has, and what unpacks some."""

    numbers: int
    bytes: int
    unpack: Callable[[np.ndarray], np.ndarray]


def halves(blocks: np.ndarray, *places: int) -> list[np.ndarray]:
    """Float16 numbers at some places of each block, as float32. Shapes:  (n, bytes) -> (n, 1) each."""
    return [blocks[:, at : at + 2].view(np.float16).astype(np.float32) for at in places]


def bits(data: np.ndarray, width: int) -> np.ndarray:
    """The parts of each byte, the lowest first: of all bytes the first part, then of all the second.

    Shapes:  (..., bytes) -> (..., 8 / width, bytes)
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return data[..., None, :] >> shifts & np.uint8((1 << width) - 1)


def q8_0(raw: np.ndarray) -> np.ndarray:
    """A scale, 32 signed bytes. Shapes:  (..., 34 n) -> (n, 32)."""
    blocks = raw.reshape(-1, 34)
    return halves(blocks, 0)[0] * blocks[:, 2:].view(np.int8)


def four_or_five(raw: np.ndarray, size: int, minimum: bool, fifth: bool) -> np.ndarray:
    """A scale, perhaps a minimum, perhaps 32 fifth bits, 32 times 4 bits. Shapes:  (..., size n) -> (n, 32)."""
    blocks, zero = raw.reshape(-1, size), 0 if minimum else 16 if fifth else 8
    q = bits(blocks[:, -16:], 4).reshape(-1, 32)
    if fifth:
        at = 4 if minimum else 2
        q = q | np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)
    if minimum:
        scale, least = halves(blocks, 0, 2)
        return scale * q + least
    return halves(blocks, 0)[0] * (q.astype(np.int8) - np.int8(zero))


def scales_k(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minima of 6 bits each, from 12 bytes. Shapes:  (n, 12) -> (n, 8) and (n, 8)."""
    first, second, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, last & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def q4_k(raw: np.ndarray) -> np.ndarray:
    """Two scales; scale and minimum of each of 8 rows; 256 times 4 bits. Shapes:  (..., 144 n) -> (n, 8, 32)."""
    blocks = raw.reshape(-1, 144)
    return scaled_k(blocks, bits(blocks[:, 16:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32))


def q5_k(raw: np.ndarray) -> np.ndarray:
    """As q4_k, with 256 fifth bits before the four. Shapes:  (..., 176 n) -> (n, 8, 32)."""
    blocks = raw.reshape(-1, 176)
    q = bits(blocks[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return scaled_k(blocks, q | bits(blocks[:, 16:48], 1) << np.uint8(4))


def scaled_k(blocks: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Apply the scales and minima of q4_k and q5_k. Shapes:  blocks (n, bytes), q (n, 8, 32) -> (n, 8, 32)."""
    scale, least = halves(blocks, 0, 2)
    scales, minima = scales_k(blocks[:, 4:16])
    out = (scale * scales)[..., None] * q
    out -= (least * minima)[..., None]
    return out


def q6_k(raw: np.ndarray) -> np.ndarray:
    """256 times 4 bits, then 2 bits; 16 signed scales; their scale. Shapes:  (..., 210 n) -> (n, 16, 16)."""
    blocks = raw.reshape(-1, 210)
    low = bits(blocks[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 8, 32)
    high = bits(blocks[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 8, 32)
    q = (low | high << np.uint8(4)).view(np.int8) - np.int8(32)
    return (halves(blocks, 208)[0] * blocks[:, 192:208].view(np.int8))[..., None] * q.reshape(-1, 16, 16)


KINDS = {"Q4_0": Kind(32, 18, lambda raw: four_or_five(raw, 18, minimum=False, fifth=False)),
         "Q4_1": Kind(32, 20, lambda raw: four_or_five(raw, 20, minimum=True, fifth=False)),
         "Q5_0": Kind(32, 22, lambda raw: four_or_five(raw, 22, minimum=False, fifth=True)),
         "Q5_1": Kind(32, 24, lambda raw: four_or_five(raw, 24, minimum=True, fifth=True)),
         "Q8_0": Kind(32, 34, q8_0), "Q4_K": Kind(256, 144, q4_k), "Q5_K": Kind(256, 176, q5_k),
         "Q6_K": Kind(256, 210, q6_k)}
