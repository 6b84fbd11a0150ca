"""The experts: feed-forward networks of which each token visits a few.

Tokens are grouped by expert, so that each expert is one product over just its own tokens. Read `ops.py` next.

>>> one = np.ones((1, 1), np.float32)
>>> experts(one, np.array([[0]]), one, [one], [one], [one]).round(4)
array([[0.7311]], dtype=float32)
"""

import itertools
from collections.abc import Sequence

import numpy as np

from tiny.numerics import INTEGERS, STORED, check_precision, need, product, round_to, silu

TOKENS = 1024  # Tokens of one block in feed_forward.
FILL = 8  # An expert's tokens are filled up to a multiple of this, if they are many: between, OpenBLAS is slower.


def feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                 precision: str = "float32") -> np.ndarray:
    """SwiGLU: w2 (silu(w1 x) * w3 x). One expert, or the feed-forward layer of a dense model.

    Shapes:  x (T, D), w1 (F, D), w2 (D, F), w3 (F, D) -> (T, D)
    Dtypes:  x float32; weights float32, bfloat16 or float16 -> float32
    Raises:  ValueError for another dtype, rank or precision, or matrices of other shapes
    Source:  arXiv:2002.05202; mistral-inference transformer_layers.py, FeedForward (w1 gate, w3 up, w2 down)
    """
    check_feed_forward(x, w1, w2, w3, precision)
    out = np.empty_like(x)
    # (1) a block of tokens at a time, because the hidden states are the widest arrays of the model
    for start in range(0, len(x), TOKENS):
        rows = x[start : start + TOKENS]
        # (2) the gate, through SiLU, times the linear branch
        hidden = round_to(silu(product(rows, w1, precision, "F")), precision)
        hidden *= product(rows, w3, precision, "F")
        # (3) back to the width of the model
        out[start : start + TOKENS] = product(round_to(hidden, precision), w2, precision, "F")
    return out


def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
            w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
    """Send every token to its chosen experts and add up their answers.

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K), w1 E x (F, D), w2 E x (D, F), w3 E x (F, D)
             -> (T, D)
    Dtypes:  x float32, expert_ids int, expert_weights float32, matrices float32, bfloat16 or float16 -> float32
    Order:   experts in ascending index; the weights of an expert without tokens are not read
    Raises:  ValueError for another dtype, rank or precision, if expert_ids and expert_weights do not both have one
             row for each token, for an id that is no expert's, or an expert twice in a row
    Source:  arXiv:2401.04088 sec. 2.1; mistral-inference moe.py, MoeLayer.forward
    """
    check_experts(x, expert_ids, expert_weights, w1, w2, w3, precision)
    out = np.zeros_like(x)
    for e in used_experts(expert_ids, len(w1)):
        # (1) the tokens that chose this expert, and as which of their choices
        tokens, rank = np.nonzero(expert_ids == e)
        # (2) the expert's answer for just those tokens
        answer = feed_forward(filled(x[tokens]), w1[e], w2[e], w3[e], precision)[: len(tokens)]
        # (3) add it, weighted; a token has an expert once at most, so no row is added twice
        answer *= expert_weights[tokens, rank, None]
        out[tokens] = round_to(out[tokens] + round_to(answer, precision), precision)
    return out


def filled(rows: np.ndarray) -> np.ndarray:
    """Many rows, with rows of zeros behind them up to a multiple of FILL. Shapes:  (n, D) -> (m, D)."""
    return rows if len(rows) <= 4 * FILL else np.pad(rows, ((0, -len(rows) % FILL), (0, 0)))


def check_feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray, precision: str,
                       stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `feed_forward`. Shapes:  x (T, D), w1 (F, D), w2 (D, F), w3 (F, D)."""
    need("feed_forward", "x", x, ("T", "D"), None, stored)
    for name, matrix, axes in (("w1", w1, "FD"), ("w2", w2, "DF"), ("w3", w3, "FD")):
        need("feed_forward", name, matrix, axes, STORED)
    check_precision(precision)
    if not w1.shape == w3.shape == w2.shape[::-1] or w1.shape[1] != x.shape[1]:
        D = x.shape[1]
        raise ValueError(f"feed_forward expects w1 and w3 (F, {D}) and w2 ({D}, F) for x (T, {D}); got {w1.shape}, "
                         f"{w3.shape} and {w2.shape}.")


def check_experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
                  w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str,
                  stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `experts`, here and as a kernel, which also takes what is stored.

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K)
    """
    need("experts", "x", x, ("T", "D"), None, stored)
    need("experts", "expert_ids", expert_ids, ("T", "K"), INTEGERS)
    need("experts", "expert_weights", expert_weights, ("T", "K"))
    check_precision(precision)
    if expert_ids.shape != expert_weights.shape or len(expert_ids) != len(x):
        raise ValueError(f"experts expects expert_ids and expert_weights {(len(x), 'K')}; got {expert_ids.shape} and "
                         f"{expert_weights.shape}.")
    if not len(w1) == len(w2) == len(w3):
        raise ValueError(f"experts expects the same number of w1, w2 and w3; got {len(w1)}, {len(w2)} and {len(w3)}.")


def used_experts(expert_ids: np.ndarray, num_experts: int) -> list[int]:
    """The experts that have tokens, in ascending order.

    Shapes:  expert_ids (T, K)
    Raises:  ValueError for an id that is no expert's, or an expert twice in one token's choices
    """
    used = sorted(set(expert_ids.ravel().tolist()))
    if used and not 0 <= used[0] <= used[-1] < num_experts:
        raise ValueError(f"experts expects ids from 0 to {num_experts - 1}; got {used[0]} to {used[-1]}.")
    if len(used) < expert_ids.size and any(  # as many ids as choices are all different: so it is for one token
            (first == second).any() for first, second in itertools.combinations(expert_ids.T, 2)):
        raise ValueError("experts expects different experts in each row of expert_ids; got one twice.")
    return used
