"""The experts: feed-forward networks of which each token visits a few.

Tokens are grouped by expert, so that each expert is one product over just its own tokens. Read `ops.py` next.

>>> one = np.ones((1, 1), np.float32)
>>> experts(one, np.array([[0]]), one, [one], [one], [one]).round(4)
array([[0.7311]], dtype=float32)
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import linear, round_to, silu

TOKENS = 1024  # Tokens of one block in feed_forward.


def feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                 precision: str = "float32") -> np.ndarray:
    """SwiGLU: w2 (silu(w1 x) * w3 x). One expert, or the feed-forward layer of a dense model.

    Shapes:  x (T, D), w1 (F, D), w2 (D, F), w3 (F, D) -> (T, D)
    Dtypes:  x float32; weights float32, bfloat16 or float16 -> float32
    Source:  arXiv:2002.05202; mistral-inference transformer_layers.py, FeedForward (w1 gate, w3 up, w2 down)
    """
    out = np.empty_like(x)
    # (1) a block of tokens at a time, for the hidden states are the widest arrays of the model
    for start in range(0, len(x), TOKENS):
        rows = x[start : start + TOKENS]
        # (2) the gate, through SiLU, times the linear branch
        hidden = round_to(silu(linear(rows, w1, precision)), precision)
        hidden *= linear(rows, w3, precision)
        # (3) back to the width of the model
        out[start : start + TOKENS] = linear(round_to(hidden, precision), w2, precision)
    return out


def experts(x: np.ndarray, chosen: np.ndarray, weights: np.ndarray, w1: Sequence[np.ndarray],
            w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
    """Send every token to its chosen experts and add up their answers.

    Shapes:  x (T, D), chosen (T, K), weights (T, K), w1 E x (F, D), w2 E x (D, F), w3 E x (F, D) -> (T, D)
    Dtypes:  x float32, chosen int, weights float32 -> float32
    Order:   experts in ascending index; an expert without tokens is not touched, nor its weights read
    Raises:  ValueError if chosen and weights do not both hold one row for each token
    Source:  arXiv:2401.04088 sec. 2.1; mistral-inference moe.py, MoeLayer.forward
    """
    if chosen.shape != weights.shape or len(chosen) != len(x):
        raise ValueError(f"experts expects chosen and weights {(len(x), 'K')}; got {chosen.shape}, {weights.shape}.")
    out = np.zeros_like(x)
    for e in np.unique(chosen):
        # (1) the tokens that chose this expert, and as which of their choices
        tokens, rank = np.nonzero(chosen == e)
        # (2) the expert's answer for just those tokens
        answer = feed_forward(x[tokens], w1[e], w2[e], w3[e], precision)
        # (3) add it, weighted; a token has an expert once at most, so no row is added twice
        answer *= weights[tokens, rank, None]
        out[tokens] = round_to(out[tokens] + round_to(answer, precision), precision)
    return out
