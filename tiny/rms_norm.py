"""RMSNorm: divide each row by its root mean square, then scale each column.

It comes before attention, before the experts and before the output of the model. Read `attention.py` next.

>>> rms_norm(np.array([[3.0, 4.0]], np.float32), np.ones(2, np.float32), 0.0).round(4)
array([[0.8485, 1.1314]], dtype=float32)
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import STORED, add, check_precision, need, round_to


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, precision: str = "float32") -> np.ndarray:
    """Normalise each token's vector by its root mean square.

    Shapes:  x (T, D), weight (D,) -> (T, D)
    Dtypes:  x float32; weight float32, bfloat16 or float16 -> float32
    Order:   eps is added inside the root; the weight multiplies after the normalised value is rounded
    Raises:  ValueError for another dtype, rank or precision, if the D of x and weight differ, or if eps is negative
    Source:  arXiv:1910.07467; mistral-inference transformer_layers.py, RMSNorm
    Differs: Gemma multiplies by 1 + weight, and before rounding
    """
    check_rms_norm(x, weight, eps, precision)
    # (1) mean of squares
    mean = np.einsum("td,td->t", x, x)[:, None] / np.float32(x.shape[1])
    # (2) divide by the root
    normed = x * (np.float32(1) / np.sqrt(mean + np.float32(eps)))
    # (3) scale each column
    return round_to(round_to(normed, precision) * weight.astype(np.float32, copy=False), precision)


def add_norm(x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float,
             precision: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Add an answer to the residual stream, and normalise the sum. A kernel does both in one pass.

    Shapes:  x, y (T, D), weight (D,) -> sum (T, D), normed (T, D)
    Dtypes:  x and y float32; weight float32, bfloat16 or float16 -> float32
    Order:   the sum is rounded before it is normalised
    Raises:  ValueError as add and rms_norm
    """
    total = add(x, y, precision)
    return total, rms_norm(total, weight, eps, precision)


def check_rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, precision: str,
                   stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `rms_norm`, here and as a kernel, which also takes what is stored.

    Shapes:  x (T, D), weight (D,)
    """
    need("rms_norm", "x", x, ("T", "D"), None, stored)
    need("rms_norm", "weight", weight, ("D",), STORED)
    check_precision(precision)
    if x.shape[1:] != weight.shape:
        raise ValueError(f"rms_norm expects one weight for each column of x; got x {x.shape}, weight {weight.shape}.")
    if not eps >= 0:
        raise ValueError(f"rms_norm expects an eps of at least 0; got {eps}.")
