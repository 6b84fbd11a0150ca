"""Rotary positions: turn each pair of a query's or key's numbers by an angle that grows with its position.

The score of a query and a key then depends on how far apart they are. Read `kv_cache.py` next.

>>> cos, sin = rope_table(np.array([0, 1]), head_dim=4, theta=1e6)
>>> rope(np.ones((2, 1, 4), np.float32), cos, sin)[0, 0]
array([1., 1., 1., 1.], dtype=float32)
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import INTEGERS, check_precision, need, round_to


def rope_table(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the angle position * theta^(-2i / head_dim) for each pair i.

    Shapes:  positions (T,) -> cos (T, d / 2), sin (T, d / 2)
    Dtypes:  positions int; angles in float64, rounded once to float32 at the end
    Raises:  ValueError for other positions, a head_dim that is odd or below 2, or a theta that is not positive
    Source:  arXiv:2104.09864 sec. 3.2.2; mistral-inference rope.py, precompute_freqs_cis
    Differs: torch multiplies in float32. At position 32,767 and theta 1e6 its angles are off by up to 1.3e-3 rad
             (cosines by 4.8e-4), where these are exact to float32
    """
    check_rope_table(positions, head_dim, theta)
    # (1) one frequency for each pair, the first turns fastest
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    # (2) angle = position times frequency
    angles = np.outer(positions, frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, precision: str = "float32") -> np.ndarray:
    """Rotate each interleaved pair (x[2i], x[2i+1]) of every head by its token's angle.

    Shapes:  x (T, n, d), cos (T, d / 2), sin (T, d / 2) -> (T, n, d)
    Dtypes:  float32 -> float32
    Raises:  ValueError for another dtype, rank or precision, an odd d, or if cos and sin do not have one angle for
             each token and pair
    Source:  arXiv:2104.09864 eq. 15 and 34; mistral-inference rope.py, apply_rotary_emb
    Differs: HF stores the two halves of a head apart, pairs (i, i + d/2); `weights.py` undoes that order of rows
    """
    check_rope(x, cos, sin, precision)
    cos, sin = round_to(cos, precision)[:, None], round_to(sin, precision)[:, None]
    # (1) the two numbers of each pair
    even, odd = x[..., 0::2], x[..., 1::2]
    # (2) rotate: the product (even + i odd)(cos + i sin), real and imaginary part
    out = np.empty_like(x)
    out[..., 0::2] = round_to(even * cos, precision) - round_to(odd * sin, precision)
    out[..., 1::2] = round_to(odd * cos, precision) + round_to(even * sin, precision)
    return round_to(out, precision)


def check_rope_table(positions: np.ndarray, head_dim: int, theta: float) -> None:
    """The guard of `rope_table`. Shapes:  positions (T,)."""
    need("rope_table", "positions", positions, ("T",), INTEGERS)
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"rope_table expects an even head_dim of at least 2; got {head_dim}.")
    if not 0 < theta < np.inf:
        raise ValueError(f"rope_table expects a theta above 0; got {theta}.")


def check_rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, precision: str,
               stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `rope`, here and as a kernel, which also takes what is stored.

    Shapes:  x (T, n, d), cos (T, d / 2), sin (T, d / 2)
    """
    need("rope", "x", x, ("T", "n", "d"), None, stored)
    need("rope", "cos", cos, ("T", "d / 2"))
    need("rope", "sin", sin, ("T", "d / 2"))
    check_precision(precision)
    if x.shape[2] % 2:
        raise ValueError(f"rope turns pairs, so the last axis of x must be even; got {x.shape}.")
    if not (x.shape[0], x.shape[2] // 2) == cos.shape == sin.shape:
        raise ValueError(f"rope expects cos and sin {(x.shape[0], x.shape[2] // 2)} for x {x.shape}; "
                         f"got {cos.shape} and {sin.shape}. Build them with rope_table for these positions.")
