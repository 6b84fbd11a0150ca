"""What a fault changes: operations, the ids that are read, where weights are found, and the logits afterwards.

Each maker takes the value of the fault and returns a function of the form that `faults.py` describes. The changed
operations call those of the model, so that they work on whatever weights these work on.
"""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tiny.config import Config
from tiny.files.weights import Tensors
from tiny.numerics import softmax

Ops = Callable[[ModuleType, Config], dict[str, Callable]]
ReadIds = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


# ---- the ids that the model reads, and which row answers each position (-1: none)

def lead(*extra: int) -> ReadIds:
    """Tokens in front of the text: ids, or -1 for BOS, which is its first."""
    def read(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        front = [ids[0] if token < 0 else token for token in extra]
        return np.concatenate([front, ids]).astype(ids.dtype), np.arange(len(ids)) + len(front)
    return read


def cut(kept: int, bos: bool = False) -> ReadIds:
    """Only the last tokens of a longer text; with bos, the first of these is BOS again."""
    def read(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gone = max(0, len(ids) - kept)
        left = np.concatenate([ids[:1], ids[gone + 1 :]]) if bos else ids[gone:]
        rows = np.arange(len(ids)) - gone
        return left, np.where(rows < (bos and gone > 0), -1, rows)
    return read


# ---- operations

def angles(theta: Callable[[float], float] = lambda theta: theta, scale: float = 1.0) -> Ops:
    """Rotary angles with another theta, or of positions that are divided by scale."""
    def ops(base: ModuleType, config: Config) -> dict[str, Callable]:
        def rope_table(positions: np.ndarray, head_dim: int, _: float) -> tuple[np.ndarray, np.ndarray]:
            frequencies = theta(config.rope_theta) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
            turned = np.outer(positions / scale, frequencies)
            return np.cos(turned).astype(np.float32), np.sin(turned).astype(np.float32)
        return {"rope_table": rope_table}
    return ops


def in_order(order: Callable[[int], np.ndarray]) -> Ops:
    """Queries and keys in another order when they are turned. Scores do not mind that they stay so."""
    def ops(base: ModuleType, config: Config) -> dict[str, Callable]:
        def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, precision: str = "float32") -> np.ndarray:
            return base.rope(np.ascontiguousarray(x[..., order(x.shape[2])]), cos, sin, precision)
        return {"rope": rope}
    return ops


def evens_first(d: int) -> np.ndarray:
    """The order of Hugging Face's files: the first numbers of all pairs, then the second ones. Shapes:  -> (d,)."""
    return np.arange(d).reshape(-1, 2).T.ravel()


def halves_paired(d: int) -> np.ndarray:
    """The order in which a number of the first half stands beside its partner of the second half. Shapes:  -> (d,)."""
    return np.arange(d).reshape(2, -1).T.ravel()


def attends(change: Callable[..., tuple]) -> Ops:
    """Attention on other arguments: change(q, keys, values, lengths, spans) -> the same. Not that of images."""
    def ops(base: ModuleType, config: Config) -> dict[str, Callable]:
        def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
                      spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32") -> np.ndarray:
            changed = change(q, keys, values, lengths, spans) if causal else (q, keys, values, lengths, spans)
            return base.attention(*changed, causal=causal, precision=precision)
        return {"attention": attention}
    return ops


def window(size: int) -> Ops:
    """Attention to the last tokens only, itself included: from there on every query is a sequence with its own keys."""
    def change(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
               spans: Sequence[tuple[int, int]]) -> tuple:
        new_lengths, new_spans = [], []
        for length, (start, stop) in zip(lengths, spans):
            whole = min(length, max(0, start + size - (stop - length)))  # queries that still see all of their keys
            new_lengths += [whole] * (whole > 0) + [1] * (length - whole)
            new_spans += [(start, stop - length + whole)] * (whole > 0)
            new_spans += [(end - size, end) for end in range(stop - length + whole + 1, stop + 1)]
        return q, keys, values, new_lengths, new_spans
    return attends(change)


def heads_in_turn(q: np.ndarray, keys: np.ndarray, values: np.ndarray, *rest: Any) -> tuple:
    """Query head h with KV head h % G, not h // (H / G). Shapes:  q (T, H, d), keys and values (S, G, d)."""
    heads = np.arange(q.shape[1]) % keys.shape[1]
    return (q, keys[:, heads], values[:, heads], *rest)


def unscaled(q: np.ndarray, *rest: Any) -> tuple:
    """Scores that are not divided by sqrt(d). Shapes:  q (T, H, d)."""
    return (q * np.float32(q.shape[2] ** 0.5), *rest)


def routes(choose: Callable[..., tuple]) -> Ops:
    """Another choice of experts: choose(logits, ids, weights) -> the same, for what the model's own router says."""
    def ops(base: ModuleType, config: Config) -> dict[str, Callable]:
        def route(x: np.ndarray, gate: np.ndarray, K: int, precision: str = "float32") -> tuple:
            return choose(*base.route(x, gate, K, precision))
        return {"route": route}
    return ops


def not_renormalised(logits: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> tuple:
    """Weights of a softmax over all experts. Shapes:  logits (T, E), ids and weights (T, K)."""
    return logits, ids, np.take_along_axis(softmax(logits), ids, axis=1)


def uniform(logits: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> tuple:
    """The chosen experts all count the same. Shapes:  logits (T, E), ids and weights (T, K)."""
    return logits, ids, np.full_like(weights, 1 / weights.shape[1])


def other_half(logits: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> tuple:
    """Experts of two machines in the wrong order. Shapes:  logits (T, E), ids and weights (T, K)."""
    return logits, (ids + logits.shape[1] // 2) % logits.shape[1], weights


def top_experts(count: int) -> Ops:
    """Another number of experts per token."""
    def ops(base: ModuleType, config: Config) -> dict[str, Callable]:
        def route(x: np.ndarray, gate: np.ndarray, _: int, precision: str = "float32") -> tuple:
            return base.route(x, gate, count, precision)
        return {"route": route}
    return ops


def gate_and_up(base: ModuleType, config: Config) -> dict[str, Callable]:
    """w1 and w3 exchanged, in experts as in a dense layer."""
    def experts(x: np.ndarray, ids: np.ndarray, weights: np.ndarray, w1: Any, w2: Any, w3: Any,
                precision: str = "float32") -> np.ndarray:
        return base.experts(x, ids, weights, w3, w2, w1, precision)

    def feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                     precision: str = "float32") -> np.ndarray:
        return base.feed_forward(x, w3, w2, w1, precision)
    return {"experts": experts, "feed_forward": feed_forward} if config.moe else {"feed_forward": feed_forward}


def epsilon(value: float) -> Ops:
    """Another epsilon in every norm."""
    def ops(base: ModuleType, config: Config) -> dict[str, Callable]:
        def rms_norm(x: np.ndarray, weight: np.ndarray, _: float, precision: str = "float32") -> np.ndarray:
            return base.rms_norm(x, weight, value, precision)

        def add_norm(x: np.ndarray, y: np.ndarray, weight: np.ndarray, _: float, precision: str = "float32") -> tuple:
            return base.add_norm(x, y, weight, value, precision)
        return {"rms_norm": rms_norm, "add_norm": add_norm}
    return ops


# ---- where weights are found

class Found(Tensors):
    """Weights of which some are those of another name, or made of these when they are looked up."""

    def __init__(self, weights: Mapping[str, np.ndarray], found_as: Callable[[str], str],
                 make: Callable[[str, np.ndarray], np.ndarray] = lambda name, x: x):
        super().__init__(list(weights))
        self.weights, self.found_as, self.make = weights, found_as, make

    def __getitem__(self, name: str) -> np.ndarray:
        return self.make(name, self.weights[self.found_as(name)])


# ---- the logits afterwards

def temperature(value: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Logits divided by the temperature."""
    return lambda logits, ids: logits / np.float32(value)


def penalty(value: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Logits of tokens that the text has had so far: divided if positive, multiplied if negative.

    Source: arXiv:1909.05858 sec. 4.1, as transformers' RepetitionPenaltyLogitsProcessor and vLLM have it
    """
    def after(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
        out = logits.copy()
        for t in range(len(ids)):
            seen = np.unique(ids[: t + 1])
            out[t, seen] = np.where(out[t, seen] > 0, out[t, seen] / value, out[t, seen] * value)
        return out
    return after


def nucleus(mass: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Only the likeliest tokens that make up so much of the probability."""
    def after(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
        order = np.argsort(-logits, axis=1, kind="stable")
        p = softmax(np.take_along_axis(logits, order, axis=1))
        beyond = np.cumsum(p, axis=1) - p >= mass
        out = logits.copy()
        np.put_along_axis(out, order, np.where(beyond, -np.inf, np.take_along_axis(logits, order, axis=1)), axis=1)
        return out
    return after
