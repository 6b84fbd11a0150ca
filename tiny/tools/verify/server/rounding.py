"""Our reference, rounded as a server may be: how far it then is from itself is what a healthy server may be off.

Weights are rounded when they are looked up, tensor by tensor, so that no copy of a model is made.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from tiny.config import TinyError
from tiny.experts import used_experts
from tiny.mixtral import Mixtral
from tiny.numerics import product, silu
from tiny.tools.verify.server.faults import changed_ops
from tiny.tools.verify.server.reference.changes import Found

BLOCK = 32  # numbers that share a scale, in GGUF's types Q8_0 and Q4_0


def rounded(model: Mixtral, kind: str) -> Mixtral:
    """The model as a server of a kind computes it.

    kind: "bfloat16"; "float16", "q8_0" or "q4_0" weights; or "gguf": the weights as they are and activations in blocks
    of 8 bits, as llama.cpp multiplies them with packed weights

    Raises:  TinyError for another kind
    """
    precision, ops, weights = model.precision, model.ops, model.weights
    if kind == "bfloat16":
        precision = kind
    elif kind in KINDS:
        weights = Found(weights, lambda name: name, lambda name, x: packed_as(kind, name)(x) if packs(name, x) else x)
    elif kind == "gguf":
        ops = changed_ops(ops, eight_bits(ops))
    else:
        raise TinyError(f"The rounding {kind!r} is unknown.", f"Use bfloat16, gguf, {', '.join(KINDS)}.")
    return type(model)(model.config, weights, None, ops, precision, model.checkpoint, model.cache)


def packs(name: str, x: np.ndarray) -> bool:
    """Whether llama.cpp packs a tensor: all matrices but the router's. Shapes:  any."""
    return x.ndim > 1 and not name.endswith(".gate.weight") and not name.startswith("vision_")


def packed_as(kind: str, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """How a tensor is rounded: files of 4 bits keep the last matrix at 6 bits and more."""
    return q8_0 if kind == "q4_0" and name == "output.weight" else KINDS[kind]


def half(x: np.ndarray) -> np.ndarray:
    """Numbers as float16 keeps them. Shapes:  any -> same; float32."""
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def blocks_of(x: np.ndarray) -> np.ndarray:
    """A matrix in blocks of one scale, the last one of a row filled with zeros. Shapes:  (..., n) -> (..., m, 32)."""
    x = np.asarray(x, np.float32)
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % BLOCK)])
    return x.reshape(*x.shape[:-1], -1, BLOCK)


def unblocked(blocks: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The inverse of `blocks_of`, for a matrix like x. Shapes:  (..., m, 32) -> (..., n)."""
    return np.ascontiguousarray(blocks.reshape(*blocks.shape[:-2], -1)[..., : x.shape[-1]])


def q8_0(x: np.ndarray) -> np.ndarray:
    """Numbers as Q8_0 keeps them: whole steps of the largest of 32, divided by 127. Shapes:  (..., n) -> same.

    Source: ggml-quants.c, quantize_row_q8_0_ref
    """
    blocks = blocks_of(x)
    step = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    return unblocked(np.round(blocks * inverse) * half(step), x)


def q4_0(x: np.ndarray) -> np.ndarray:
    """Numbers as Q4_0 keeps them: steps from -8 to 7, of which -8 is the largest of 32. Shapes:  (..., n) -> same.

    Source: ggml-quants.c, quantize_row_q4_0_ref
    """
    blocks = blocks_of(x)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    step = largest / np.float32(-8)
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    return unblocked((np.clip(np.floor(blocks * inverse + np.float32(8.5)), 0, 15) - 8) * half(step), x)


KINDS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"float16": half, "q8_0": q8_0, "q4_0": q4_0}


def eight_bits(base: ModuleType) -> dict[str, Callable]:
    """Operations that round what they multiply with packed weights to blocks of 8 bits."""
    def linear(x: np.ndarray, weight: np.ndarray, precision: str = "float32") -> np.ndarray:
        return base.linear(q8_0(x), weight, precision)

    def feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                     precision: str = "float32") -> np.ndarray:
        rows = q8_0(x)
        hidden = silu(product(rows, w1, precision)) * product(rows, w3, precision)
        return product(q8_0(hidden), w2, precision)

    def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Any, w2: Any, w3: Any,
                precision: str = "float32") -> np.ndarray:
        out = np.zeros_like(x)
        for e in used_experts(expert_ids, len(w1)):
            tokens, rank = np.nonzero(expert_ids == e)
            out[tokens] += expert_weights[tokens, rank, None] * feed_forward(x[tokens], w1[e], w2[e], w3[e], precision)
        return out
    return {"linear": linear, "feed_forward": feed_forward, "experts": experts}
