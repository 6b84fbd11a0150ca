"""The arithmetic that every layer shares: softmax, SiLU, GELU, the linear map, and bfloat16 rounding.

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
# 1 - erf(x) = exp(-x^2) sum_k ERF_TERMS[k] t^(k + 1) with t = 1 / (1 + ERF_SCALE x), for x >= 0: the form of Abramowitz
# and Stegun 7.1.26 with two more terms, fitted anew to math.erfc on [0, 6]; it is off by 1.2e-9 at most.
ERF_SCALE = 0.45
ERF_TERMS = (0.258989686, 0.201009394, 0.460170616, -0.375802803, 0.857167808, -0.494104347, 0.092569647)


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


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, which NumPy lacks.

    Shapes:  x any -> same
    Dtypes:  float32 -> float32; the largest error is 4e-7
    """
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
    Source:  arXiv:1606.08415; the adapter of Pixtral has this exact form, not the one with tanh
    """
    return x * np.float32(0.5) * (np.float32(1) + erf(x * np.float32(0.5**0.5)))


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
