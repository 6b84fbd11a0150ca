"""The arithmetic that every layer shares: softmax, SiLU, the linear map, and bfloat16 rounding.

Nothing here knows about language models. Weights may be stored as bfloat16, float16 or float32; activations are
float32. Read `rms_norm.py` next.

>>> softmax(np.array([[0.0, 0.0]], np.float32))
array([[0.5, 0.5]], dtype=float32)
"""

import ml_dtypes
import numpy as np

# Bytes of converted weights at a time, for few tokens and for many. Few only read the block once, which is fastest
# while it is in the cache; many use it for a product, which gains from larger blocks.
FEW, FEW_BYTES, MANY_BYTES = 16, 512 << 10, 4 << 20


def round_to(x: np.ndarray, precision: str) -> np.ndarray:
    """Mark a rounding point: return x as it would be stored between two operations.

    Shapes:  x any -> same
    Dtypes:  float32 -> float32; under "bfloat16" every value is the nearest bfloat16 one, ties to even
    Source:  transformers modeling_mixtral.py run in bfloat16 rounds after every operation; float32 rounds nowhere
    """
    if precision == "float32":
        return x
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def softmax(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Exponentials of the last axis, divided by their sum; written into out if it is given (it may be x itself).

    Shapes:  x (..., n) -> (..., n)
    Dtypes:  float32 -> float32
    Order:   the maximum is subtracted first, so that no exponential overflows
    """
    out = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    return np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), written x / (1 + exp(-x)).

    Shapes:  x any -> same
    Dtypes:  float32 -> float32
    Source:  arXiv:1710.05941 (SiLU, there "swish"); Mixtral's experts use it in SwiGLU, arXiv:2002.05202
    """
    out = np.negative(x)
    with np.errstate(over="ignore"):  # exp(100) is infinity, and x / infinity is the zero that belongs there.
        np.exp(out, out=out)
    out += np.float32(1)
    return np.divide(x, out, out=out)


def linear(x: np.ndarray, weight: np.ndarray, precision: str = "float32") -> np.ndarray:
    """y = x W^T, with W as torch's Linear stores it: one row for each output.

    Shapes:  x (T, in), weight (out, in) -> (T, out); weight (a, b, ..., in) counts as (a * b * ..., in)
    Dtypes:  x float32; weight float32, bfloat16 or float16 -> float32
    Order:   weights in another dtype, or not contiguous, are converted a block of rows at a time into a scratch
             buffer of at most 4 MiB (one row at least); nothing is kept
    Raises:  ValueError if the two inner sizes differ
    """
    if x.ndim != 2 or weight.ndim < 2 or x.shape[1] != weight.shape[-1]:
        raise ValueError(f"linear expects x (T, in) and weight (out, in); got {x.shape} and {weight.shape}. "
                         "The last axes must agree: weights are stored one row for each output.")
    if weight.dtype == np.float32 and weight.ndim == 2:
        return round_to(x @ weight.T, precision)
    group = int(np.prod(weight.shape[1:-1]))  # rows of the output for each index of the first axis
    out = np.empty((len(x), len(weight) * group), np.float32)
    step = max(1, (FEW_BYTES if len(x) <= FEW else MANY_BYTES) // (4 * group * weight.shape[-1]))
    scratch = np.empty((min(step, len(weight)), *weight.shape[1:]), np.float32)
    for start in range(0, len(weight), step):
        block = scratch[: min(step, len(weight) - start)]
        np.copyto(block, weight[start : start + step])
        np.matmul(x, block.reshape(-1, x.shape[1]).T, out=out[:, start * group : start * group + len(block) * group])
    return round_to(out, precision)
