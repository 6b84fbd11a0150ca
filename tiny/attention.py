"""Attention: every query averages the values of the keys it may see, weighted by how well they match.

Tokens of several sequences are packed in one array; each sequence attends only to its own keys. Read `rope.py`
next.

>>> one = np.ones((1, 1, 2), np.float32)
>>> attention(one, one, one, [1], [(0, 1)])
array([[[1., 1.]]], dtype=float32)
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import FLOAT32, STORED, check_precision, need, round_to, softmax

QUERIES = 64  # Queries scored at a time, half as many in larger groups: 32 x 4 x 131,072 scores take 67 MB.
KEPT = STORED[:2]  # what keys and values may be: float32, and bfloat16 of a cache
SCORES = 1 << 20  # For images (not causal): this many scores at once, 4 MB, as larger products run faster.


def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
              spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32") -> np.ndarray:
    """Grouped-query attention over packed sequences.

    Sequence n owns lengths[n] consecutive rows of q and the rows spans[n] = (start, stop) of keys and values.
    Its queries are the last of its positions: with causal, the last query sees all of its keys, the one before it
    all but the last, and so on. Without causal (images) every query sees all keys of its own sequence.

    Shapes:  q (T, H, d), keys (S, G, d), values (S, G, d) -> (T, H, d); query head h uses KV head h // (H / G)
    Dtypes:  q float32; keys and values float32 or bfloat16, as a cache stores them -> float32
    Order:   the scale 1 / sqrt(d) multiplies the scores, not the queries; an ordinary softmax over whole rows
    Raises:  ValueError for another dtype, rank or precision, keys and values of two shapes, an H that is not a multiple
             of G, lengths that do not cover q, or a span that is outside the keys or shorter than its queries
    Source:  arXiv:1706.03762 eq. 1; arXiv:2305.13245 (grouped queries); mistral-inference transformer_layers.py
    """
    check_attention(q, keys, values, lengths, spans, precision)
    T, H, d = q.shape
    # (1) the R query heads that share a KV head, a block of queries at a time: memory grows with the keys
    G, R = keys.shape[1], H // keys.shape[1]
    grouped = q.reshape(T, G, R, d)
    out = np.empty_like(grouped)
    steps = [min(length, block_size(R, stop - start, causal)) for length, (start, stop) in zip(lengths, spans)]
    needed = max(step * R * (stop - start) for step, (start, stop) in zip(steps, spans))
    scores = np.empty(needed, np.float32)  # reused by every block
    first = 0
    # (2) each text with its own keys, and of those the keys that the block may see
    for length, step, (start, stop) in zip(lengths, steps, spans):
        for g in range(G):
            k, v = keys[start:stop, g], values[start:stop, g]
            # bfloat16 becomes float32, one head at a time. And a copy without gaps pays from the second block on.
            if length > step or k.dtype != FLOAT32:
                k, v = np.ascontiguousarray(k, FLOAT32), np.ascontiguousarray(v, FLOAT32)
            for block in range(0, length, step):
                rows = slice(first + block, first + min(block + step, length))
                seen = stop - start - max(0, length - block - step) if causal else stop - start
                out[rows, g] = attend(grouped[rows, g], k[:seen], v[:seen], scores, causal, precision)
        first += length
    return out.reshape(T, H, d)


def block_size(R: int, S: int, causal: bool) -> int:
    """How many queries are scored at a time, each by R heads against S keys.

    Without a causal mask, more of them if there are few keys, because large products are faster. With one, a larger
    block would score more keys that its first queries may not see, and R heads make the product large already. It does
    not depend on S, so that the blocks of a prompt are the same in one pass and in several.
    """
    if not causal:
        return max(QUERIES, SCORES // (R * S))
    return QUERIES if R < 4 else QUERIES // 2


def attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray, scores: np.ndarray, causal: bool,
           precision: str) -> np.ndarray:
    """Attention of one block of queries, all heads that share one KV head at once.

    Shapes:  q (t, R, d) with R = H / G, keys (s, d), values (s, d), scores: scratch of at least t * R * s
             -> (t, R, d); query i of t sees s - t + i + 1 keys if causal
    """
    t, R, d = q.shape
    # (3) scores: how well each query matches each key
    scores = scores[: t * R * len(keys)].reshape(t * R, len(keys))
    scores = round_to(np.matmul(q.reshape(t * R, d), keys.T, out=scores), precision)
    scores *= np.float32(d**-0.5)
    scores = round_to(scores, precision)
    # (4) causal mask: only the last t keys can be ahead of a query
    if causal and t > 1:
        scores.reshape(t, R, -1)[:, :, -t:] += np.triu(np.full((t, t), -np.inf, np.float32), 1)[:, None]
    # (5) softmax over the keys, (6) the weighted average of the values
    weights = round_to(softmax(scores, out=scores), precision)
    return round_to(weights @ values, precision).reshape(t, R, d)


def check_attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
                    spans: Sequence[tuple[int, int]], precision: str, stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `attention`, here and as a kernel, which also takes what is stored.

    Shapes:  q (T, H, d), keys (S, G, d), values (S, G, d)
    """
    for name, x, axes in (("q", q, "THd"), ("keys", keys, "SGd"), ("values", values, "SGd")):
        need("attention", name, x, axes, None, stored if name == "q" else KEPT)
    check_precision(precision)
    (_, H, d), (_, G, width) = q.shape, keys.shape
    if keys.shape != values.shape or not 0 < d == width or not 0 < G <= H or H % G:
        raise ValueError("attention expects q (T, H, d), keys and values (S, G, d), and H a multiple of G; "
                         f"got {q.shape}, {keys.shape} and {values.shape}.")
    check_spans(len(q), len(keys), lengths, spans)


def check_spans(T: int, S: int, lengths: Sequence[int], spans: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError unless the lengths cover T queries and every span fits in S keys and holds its queries."""
    if len(lengths) != len(spans) or sum(lengths) != T or T < 1:
        raise ValueError(f"attention expects one length >= 1 and one span for each sequence, lengths adding up to {T}; "
                         f"got lengths {list(lengths)} and {len(spans)} spans.")
    for length, (start, stop) in zip(lengths, spans):
        if not 0 <= start <= stop - length < stop <= S or not isinstance(start + stop + length, (int, np.integer)):
            raise ValueError(f"attention expects spans inside the {S} keys that hold their own queries; "
                             f"got span {(start, stop)} for {length} queries.")
