"""The vision-language adapter on the device: two products of `linear.py`, with what follows them.

The NumPy function is `adapter` of `tiny/adapter.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kernels import linear
from kernels.storage import STORES, stored, to_store, to_weight
from tiny.adapter import check_adapter
from tiny.numerics import need

NAME = "vision_language_adapter."


def adapter(launcher: Any, x: np.ndarray, weights: Mapping[str, np.ndarray], precision: str = "float32") -> np.ndarray:
    """Two linear maps with biases, and a GELU between them, in its exact form.

    Shapes:  x (N, hidden_size), N = patches -> (N, D)
    Dtypes:  x float32, stored as the precision says; weights float32, bfloat16 or float16 -> float32
    Raises:  ValueError as the NumPy function
    Source:  tiny/adapter.py
    Differs: with bfloat16, a product is not rounded before its bias and the GELU
    """
    need("adapter", "x", x, ("N", "hidden_size"), None, stored(precision))
    check_adapter(x.astype(np.float32, copy=False), weights, precision)
    placed = {f"{NAME}{name}.{part}": weights[f"{NAME}{name}.{part}"]
              for name in ("w_in", "w_out") for part in ("weight", "bias")}
    placed = {name: to_weight(array) if array.ndim > 1 else to_store(array, precision)
              for name, array in placed.items()}
    return run_adapter(launcher, to_store(x, precision), placed).astype(np.float32, copy=False)


def run_adapter(launcher: Any, x: Any, weights: Mapping[str, Any]) -> Any:
    """`adapter` of arrays that are on the device as the kernels read them: biases are stored as x is.

    Shapes:  x (N, hidden_size) -> (N, D)
    Dtypes:  x and biases float32 or bfloat16, matrices float32 or bfloat16 -> as x
    """
    def part(name: str) -> tuple[Any, Any]:
        return weights[f"{NAME}{name}.weight"], weights[f"{NAME}{name}.bias"]

    (w_in, b_in), (w_out, b_out) = part("w_in"), part("w_out")
    hidden = linear.run_linear(launcher, x, w_in, bias=b_in, gelu=True)
    return linear.run_linear(launcher, hidden, w_out, bias=b_out)


def floor(N: int, hidden: int, D: int, precision: str = "float32", weight_bytes: int = 4) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: the weights and patches in, hidden states both ways, out."""
    numbers = N * hidden + 3 * N * D + 2 * D
    return numbers * STORES[precision].itemsize + (hidden + D) * D * weight_bytes, 2 * N * D * (hidden + D)
