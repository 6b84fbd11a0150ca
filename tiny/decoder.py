"""One decoder layer: tokens look at each other, then each thinks for itself.

Both halves read the normalised residual stream and add their answer to it. Read `mixtral.py` next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tiny.config import Config, MoeConfig, Trace, VisionConfig
from tiny.kv_cache import KVCache


@dataclass
class ForwardPass:
    """What all layers of one forward pass share: the packed sequences, their angles, the cache, the trace.

    The vision encoder has its own one inside the model's: not causal, with a prefix for the names of its weights
    (scope) and another for the names of its arrays in the trace (label).
    """

    lengths: Sequence[int]
    cos: np.ndarray
    sin: np.ndarray
    cache: KVCache | None
    trace: Trace | None
    ops: ModuleType
    precision: str
    causal: bool = True
    scope: str = ""
    label: str = ""

    def keep(self, name: str, value: np.ndarray, layer: int | None = None) -> None:
        """Put an intermediate result into the trace, if the caller gave one. Nothing changes the array afterwards."""
        if self.trace is not None:
            self.trace[f"{self.label}{name}" if layer is None else f"{self.label}{name}{layer:02}"] = value


class ExpertMatrices(Sequence[np.ndarray]):
    """One matrix of every expert of a layer, looked up when an operation asks for it and not before."""

    def __init__(self, weights: Mapping[str, np.ndarray], layer: int, matrix: str, num_experts: int):
        self.weights, self.num_experts = weights, num_experts
        self.name = f"layers.{layer}.feed_forward.experts.%d.{matrix}.weight"

    def __len__(self) -> int:
        return self.num_experts

    def __getitem__(self, expert: Any) -> Any:
        return self.weights[self.name % expert]


def decoder_layer(x: np.ndarray, layer: int, weights: Mapping[str, np.ndarray], config: Config | VisionConfig,
                  run: ForwardPass) -> np.ndarray:
    """Run one layer on the residual stream. The layers of the vision encoder are the same, only not causal.

    Shapes:  x (T, D) -> (T, D)
    Dtypes:  float32 -> float32
    Source:  arXiv:2401.04088 sec. 2; mistral-inference transformer_layers.py, TransformerBlock.forward
    """
    def w(name: str) -> np.ndarray:
        return weights[f"{run.scope}layers.{layer}.{name}.weight"]

    ops, precision = run.ops, run.precision
    # (1) normalise, (2) tokens look at each other, (3) add, (4) normalise the sum
    y = ops.rms_norm(x, w("attention_norm"), config.norm_eps, precision)
    y = self_attention(y, layer, w, config, run)
    x, y = ops.add_norm(x, y, w("ffn_norm"), config.norm_eps, precision)
    # (5) each token through its experts, or the one network of a dense layer, (6) add
    if config.moe is None:
        y = ops.feed_forward(y, w("feed_forward.w1"), w("feed_forward.w2"), w("feed_forward.w3"), precision)
    else:
        y = mixture_of_experts(y, layer, weights, config.moe, run)
    x = ops.add(x, y, precision)
    # (7) what went out of this layer goes into the next one
    run.keep("layer", x, layer)
    return x


def self_attention(x: np.ndarray, layer: int, w: Callable[[str], np.ndarray], config: Config | VisionConfig,
                   run: ForwardPass) -> np.ndarray:
    """Queries, keys and values of the new tokens; rotate; remember; attend; project back.

    Shapes:  x (T, D) -> (T, D); w(name) -> the layer's weight
    """
    ops, precision, heads = run.ops, run.precision, (len(x), -1, config.head_dim)
    # (1) project
    q = ops.linear(x, w("attention.wq"), precision).reshape(heads)
    k = ops.linear(x, w("attention.wk"), precision).reshape(heads)
    v = ops.linear(x, w("attention.wv"), precision).reshape(heads)
    # (2) rotate by position
    q = ops.rope(q, run.cos, run.sin, precision)
    k = ops.rope(k, run.cos, run.sin, precision)
    for name, value in (("q", q), ("k", k), ("v", v)):
        run.keep(name, value, layer)
    # (3) remember: with a cache, the keys of earlier calls are seen too
    if run.cache is None:
        stops = np.cumsum(run.lengths).tolist()
        spans = list(zip([0, *stops], stops))
    else:
        spans = run.cache.append(layer, k, v, run.lengths)
        k, v = run.cache.keys[layer], run.cache.values[layer]
    # (4) attend, (5) mix the heads
    y = ops.attention(q, k, v, run.lengths, spans, causal=run.causal, precision=precision).reshape(len(x), -1)
    y = ops.linear(y, w("attention.wo"), precision)
    run.keep("attn", y, layer)
    return y


def mixture_of_experts(x: np.ndarray, layer: int, weights: Mapping[str, np.ndarray], moe: MoeConfig,
                       run: ForwardPass) -> np.ndarray:
    """Route every token, then let its experts answer. Shapes:  x (T, D) -> (T, D)."""
    gate = weights[f"layers.{layer}.feed_forward.gate.weight"]
    # (1) route
    logits, expert_ids, expert_weights = run.ops.route(x, gate, moe.num_experts_per_tok, run.precision)
    for name, value in (("router_logits", logits), ("experts", expert_ids), ("expert_weights", expert_weights)):
        run.keep(name, value, layer)
    # (2) the experts answer
    w1, w2, w3 = (ExpertMatrices(weights, layer, name, moe.num_experts) for name in ("w1", "w2", "w3"))
    return run.ops.experts(x, expert_ids, expert_weights, w1, w2, w3, run.precision)
