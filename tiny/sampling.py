"""From scores to a token: greedy, or a draw from the likeliest part of the distribution.

Read `generate.py` next.

>>> sample(np.array([0.0, 2.0, 1.0], np.float32), temperature=0.0, top_p=1.0, rng=None)
1
"""

import numpy as np

from tiny.config import TinyError


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the softmax. Shapes:  (..., V) -> (..., V), float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sample(logits: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator | None) -> int:
    """Choose the next token.

    Temperature 0 takes the largest logit (of equal ones the lower id) and needs no generator. Otherwise one number
    is drawn from rng, whatever the distribution, so that a seed gives the same text.

    Shapes:  logits (V,) -> id
    Order:   divide by the temperature, sort falling (equal ones by lower id), keep a token while the probability
             before it is at most top_p, renormalise, draw
    Raises:  ValueError for a temperature above 0 without a generator
    Source:  arXiv:1904.09751 (nucleus sampling); mistral-inference generate.py, sample_top_p
    """
    if temperature == 0:
        return int(np.argmax(logits))
    if rng is None:
        raise ValueError("sample expects a random generator when the temperature is above 0; got None.")
    # (1) temperature, in float64 and on differences from the largest logit: no temperature is too small for that
    with np.errstate(over="ignore"):
        probabilities = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    probabilities /= probabilities.sum()
    # (2) the smallest set of likeliest tokens that holds top_p
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order])
    kept = max(1, int(np.count_nonzero(cumulative - probabilities[order] <= top_p)))
    # (3) draw among them
    draw = rng.random() * cumulative[kept - 1]
    return int(order[min(int(np.searchsorted(cumulative[:kept], draw, side="right")), kept - 1)])


def check_sampling(max_tokens: int, temperature: float, top_p: float, seed: int | None = None) -> None:
    """Raise TinyError unless max_tokens >= 1, temperature >= 0, 0 < top_p <= 1, and a seed, if given, is >= 0."""
    if not isinstance(max_tokens, (int, np.integer)) or max_tokens < 1:
        raise TinyError(f"max_tokens is {max_tokens!r}.", "Ask for a whole number of tokens, at least one.")
    if not isinstance(temperature, (int, float, np.number)) or not 0 <= temperature < float("inf"):
        raise TinyError(f"The temperature is {temperature!r}.", "Use 0 for greedy, about 0.7 for variety.")
    if not isinstance(top_p, (int, float, np.number)) or not 0 < top_p <= 1:
        raise TinyError(f"top_p is {top_p!r}.", "Use a number above 0 and at most 1; 1 keeps every token.")
    if seed is not None and (not isinstance(seed, (int, np.integer)) or seed < 0):
        raise TinyError(f"The seed is {seed!r}.", "Use a whole number, 0 or above.")
