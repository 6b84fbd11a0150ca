"""Loss and gradients of the whole decoder: the book's forward pass, then the backward passes in reverse order.

The forward pass is the book's model, called with a trace. Two of its operations are replaced, at the seam, by ones that
also keep what their backward passes need; the norms are computed again. Read `optimiser.py` next.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

import tiny.ops
from tiny.config import Config, VisionConfig
from tiny.mixtral import Mixtral
from tiny.rms_norm import rms_norm
from tiny.rope import rope_table
from tiny.training.backward import (
    attention_backward,
    cross_entropy,
    embedding_backward,
    keeping_attention,
    linear_backward,
    load_balancing,
    rms_norm_backward,
    rope_backward,
    route_backward,
)
from tiny.training.experts_backward import experts_backward, feed_forward_backward, keeping_experts

Tensors = Mapping[str, np.ndarray]


@dataclass
class Stack:
    """What the backward passes of one stack of layers share: the decoder's, or the vision encoder's.

    scope and label begin the names of its weights and of its arrays in the trace, as in `tiny.decoder.ForwardPass`;
    attention_backward takes dout, q, k, v and what the forward pass kept, and gives dq, dk, dv and the output.
    """

    config: Config | VisionConfig
    weights: Tensors
    grads: Tensors
    trace: Tensors
    angles: tuple[np.ndarray, np.ndarray]
    attention_backward: Callable[..., tuple[np.ndarray, ...]]
    scope: str = ""
    label: str = ""

    def input(self, layer: int, first: str) -> np.ndarray:
        """The input of a layer; `first` names that of layer 0 in the trace."""
        return self.trace[f"{self.label}layer{layer - 1:02}" if layer else first]


def loss_and_gradients(model, batch, coefficient: float, grads: Tensors) -> dict:
    """The loss of one batch, and its gradient with respect to every weight, written into grads.

    The loss is the weighted cross-entropy of the targets plus coefficient times the mean over layers of the
    load-balancing loss; every token of the batch counts for the latter.

    Shapes:  batch.ids (T,), batch.targets (T,), batch.weights (T,), batch.lengths: the packed sequences;
             grads hold the names and shapes of model.weights. Returned: `loss` (the cross-entropy alone), `aux` (mean
             over layers), `shares` (n_layers, E) of the choices; aux 0 and shares None for a dense model
    Dtypes:  float32
    """
    config, weights = model.config, model.weights
    trace: dict[str, np.ndarray] = {}
    attention_states: list[list] = []
    expert_states: list[dict] = []
    # (1) the forward pass: the book's model, with two operations that keep what their backward passes need
    ops: Any = SimpleNamespace(**{name: getattr(tiny.ops, name) for name in tiny.ops.__all__})
    ops.attention, ops.experts = keeping_attention(attention_states), keeping_experts(expert_states)
    Mixtral(config, weights, ops=ops)(batch.ids, lengths=batch.lengths, trace=trace)
    # (2) the loss
    loss, dlogits = cross_entropy(trace["logits"], batch.targets, batch.weights)
    # (3) the output and the last norm
    dx = linear_backward(dlogits, trace["norm"], weights["output.weight"], grads["output.weight"])
    last = trace[f"layer{config.n_layers - 1:02}"]
    dx = rms_norm_backward(dx, last, weights["norm.weight"], config.norm_eps, grads["norm.weight"])
    # (4) the layers, last to first
    positions = np.concatenate([np.arange(length) for length in batch.lengths])
    angles = rope_table(positions, config.head_dim, config.rope_theta)
    stack = Stack(config, weights, grads, trace, angles, partial(attention_backward, lengths=batch.lengths))
    aux: list[float] = []
    shares: list[np.ndarray] = []
    for layer in reversed(range(config.n_layers)):
        x = stack.input(layer, "embed")
        states = expert_states.pop() if config.moe else None
        dx += mixture_backward(dx, x, layer, stack, states, coefficient / config.n_layers)
        dx += self_attention_backward(dx, x, layer, stack, attention_states.pop())
        if config.moe:
            balance = load_balancing(trace[f"router_logits{layer:02}"], trace[f"experts{layer:02}"])
            aux, shares = [balance[0], *aux], [balance[1], *shares]
    # (5) the embedding
    embedding_backward(dx, np.asarray(batch.ids), grads["tok_embeddings.weight"])
    return {"loss": loss, "aux": float(np.mean(aux)) if aux else 0.0, "shares": np.stack(shares) if shares else None}


def mixture_backward(dout: np.ndarray, x: np.ndarray, layer: int, stack: Stack, states,
                     coefficient: float = 0.0) -> np.ndarray:
    """Of experts(n) or feed_forward(n) with n = rms_norm(x + attention): the gradient of its residual input.

    Shapes:  dout (T, D), x (T, D), the input of the layer -> (T, D); states: what the forward pass kept, or None
    """
    config, weights, grads, trace = stack.config, stack.weights, stack.grads, stack.trace
    named = f"{stack.scope}layers.{layer}.{{}}.weight".format
    # (1) forward again: the residual stream between the two halves of the layer, and its norm
    middle, norm = x + trace[f"{stack.label}attn{layer:02}"], weights[named("ffn_norm")]
    normed = rms_norm(middle, norm, config.norm_eps)
    if config.moe:
        # (2) the experts and the router weights
        networks = [f"feed_forward.experts.{e}.{{}}".format for e in range(config.moe.num_experts)]
        w1, w2, w3 = ([weights[named(network(w))] for network in networks] for w in ("w1", "w2", "w3"))
        dw = [[grads[named(network(w))] for w in ("w1", "w2", "w3")] for network in networks]
        logits, expert_ids, expert_weights = (trace[f"{name}{layer:02}"]
                                              for name in ("router_logits", "experts", "expert_weights"))
        dnormed, dweights = experts_backward(dout, normed, expert_ids, expert_weights, w1, w2, w3, dw, states)
        # (3) the router
        dlogits = route_backward(dweights, logits, expert_ids, expert_weights, coefficient)
        gate = named("feed_forward.gate")
        dnormed += linear_backward(dlogits, normed, weights[gate], grads[gate])
    else:
        n1, n2, n3 = (named(f"feed_forward.{w}") for w in ("w1", "w2", "w3"))
        dnormed = feed_forward_backward(dout, normed, weights[n1], weights[n2], weights[n3],
                                        [grads[n1], grads[n2], grads[n3]], states)
    # (4) the norm
    return rms_norm_backward(dnormed, middle, norm, config.norm_eps, grads[named("ffn_norm")])


def self_attention_backward(dout: np.ndarray, x: np.ndarray, layer: int, stack: Stack, states) -> np.ndarray:
    """Of wo attention(rope(wq n), rope(wk n), wv n) with n = rms_norm(x): the gradient of its residual input.

    Shapes:  dout (T, D), x (T, D), the input of the layer -> (T, D); states: what the attention kept
    """
    weights, grads = stack.weights, stack.grads
    named = f"{stack.scope}layers.{layer}.{{}}.weight".format
    wo = named("attention.wo")
    q, k, v = (stack.trace[f"{stack.label}{name}{layer:02}"] for name in "qkv")
    # (1) the output matrix; its own gradient waits for the attention's output
    dcontext = (dout @ weights[wo]).reshape(q.shape)
    dq, dk, dv, context = stack.attention_backward(dcontext, q, k, v, states=states)
    np.matmul(dout.T, context.reshape(len(dout), -1), out=grads[wo])
    # (2) the rotary positions
    dq, dk = rope_backward(dq, *stack.angles), rope_backward(dk, *stack.angles)
    # (3) queries, keys and values, from one norm
    norm = weights[named("attention_norm")]
    normed = rms_norm(x, norm, stack.config.norm_eps)
    dnormed = np.zeros_like(x)
    for name, gradient in (("wq", dq), ("wk", dk), ("wv", dv)):
        matrix = named(f"attention.{name}")
        dnormed += linear_backward(gradient.reshape(len(x), -1), normed, weights[matrix], grads[matrix])
    return rms_norm_backward(dnormed, x, norm, stack.config.norm_eps, grads[named("attention_norm")])
