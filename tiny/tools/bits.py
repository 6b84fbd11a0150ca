"""Numbers bit by bit: what is stored of a float32, and its nearest bfloat16 found without the type itself.

The book rounds with `ml_dtypes` (`tiny.numerics.round_to`). Here the same is done on whole numbers, to draw it and to
check it.

>>> in_bits(1.0)
'0 01111111 0000000|0000000000000000'
"""

import numpy as np

from tiny.numerics import need

LOWER = 16  # bits of a float32 that bfloat16 does not have


def in_bits(x: float) -> str:
    """The bits of a number in float32: sign, exponent, fraction. Those before the bar are what bfloat16 has."""
    bits = f"{int(np.float32(x).view(np.uint32)):032b}"
    return f"{bits[0]} {bits[1:9]} {bits[9:LOWER]}|{bits[LOWER:]}"


def nearest_bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 of each number, as a float32 of the same value: its lower 16 bits are 0.

    Shapes:  x any -> same
    Dtypes:  float32 -> float32
    Order:   a number in the middle of two neighbours goes to the even one, whose last kept bit is 0; NaN stays NaN;
             what is nearer to 2^128 than to the largest bfloat16 becomes infinity
    Raises:  ValueError for another dtype
    Source:  IEEE 754-2019 sec. 4.3.1, roundTiesToEven
    """
    need("nearest_bfloat16", "x", x, None)
    # (1) the same 32 bits, read as a whole number
    bits = x.view(np.uint32)
    # (2) add so much that the cut of step (4) rounds
    # Half a step, less the smallest bit if the last kept bit is even. The addition carries by itself.
    last = (bits >> LOWER) & 1
    rounded = bits + (np.uint32(0x7FFF) + last)
    # (3) NaN by itself
    # It is not rounded, and one bit of its upper half is set: what is left could be infinity.
    kept = np.where(np.isnan(x), bits | np.uint32(0x400000), rounded)
    # (4) clear the lower half and read the bits as a number again
    return (kept & np.uint32(0xFFFF0000)).view(np.float32)
