"""Weights as int8: every row of a matrix as whole numbers from -127 to 127, with one float32 scale.

The command `quantize` writes these numbers, and the kernels compute with them. Read `compressed.py` next.

>>> quantise_rows(np.array([[1.0, -2.0, 0.5]], np.float32))[0]
array([[  64, -127,   32]], dtype=int8)
"""

import re

import numpy as np

from tiny.numerics import STORED, need

LARGEST = np.float32(127)  # -128 is not used, so that a matrix and its negative have the same scales
INT8 = np.dtype(np.int8)
# The matrices of linear maps. The router, norms, embeddings and biases stay as they are: they are small, a token reads
# one row of an embedding, and a rounded router would choose other experts.
MATRICES = re.compile(r"(?:^output|\.w[qkvo123]|\.w_in|\.w_out)\.weight$")


def quantise_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each row to whole multiples of a 127th of its largest magnitude.

    Shapes:  weight (N, D), with N rows -> whole (N, D), scale (N,); (a, b, ..., D) counts as (a * b * ..., D)
    Dtypes:  float32, bfloat16 or float16 -> whole int8, scale float32
    Order:   the quotient by the float32 scale is rounded, ties to even, and cut at 127: only where the scale itself is
             subnormal can it be more; a row whose scale is zero becomes zeros
    Raises:  ValueError for another dtype or rank, an empty array, or a row with NaN or infinity
    """
    need("quantise_rows", "weight", weight, None, STORED)
    if weight.ndim < 2 or not weight.size:
        raise ValueError(f"quantise_rows expects weight (N, D) with numbers in it; got {weight.shape}.")
    rows = weight.astype(np.float32, copy=False).reshape(-1, weight.shape[-1])
    # (1) one scale for each row
    scale = np.abs(rows).max(axis=1) / LARGEST
    if not np.isfinite(scale).all():
        raise ValueError(f"quantise_rows expects finite numbers; row {int(np.argmin(np.isfinite(scale)))} has others.")
    # (2) whole multiples of it
    quotient = rows / np.where(scale > 0, scale, np.float32(np.inf))[:, None]
    return np.clip(np.rint(quotient), -LARGEST, LARGEST).astype(INT8), scale


def dequantise_rows(whole: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 matrix that whole numbers and scales stand for. Shapes:  whole (N, D), scale (N,) -> (N, D)."""
    return whole.astype(np.float32) * scale[:, None]
