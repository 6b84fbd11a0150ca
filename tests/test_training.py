"""The trainer: gradients of the whole model, the optimiser, and runs that go on where they stopped."""

import numpy as np
from compare import assert_close
from test_backward import (
    loop_attention,
    loop_balance,
    loop_cross_entropy,
    loop_experts,
    loop_feed_forward,
    loop_rms_norm,
    loop_rope,
    loop_weights,
)

from tiny.config import Config, MoeConfig
from tiny.mixtral import Mixtral
from tiny.training.data import Batch
from tiny.training.gradients import loss_and_gradients
from tiny.training.optimiser import layout, views

COEFFICIENT = 0.3


def small_config(moe=True):
    return Config(dim=8, n_layers=2, head_dim=4, hidden_dim=6, n_heads=4, n_kv_heads=2, norm_eps=1e-5, vocab_size=11,
                  rope_theta=1e4, max_seq_len=64, moe=MoeConfig(4, 2) if moe else None)


def small_model(config, seed=0):
    """Random weights, gradients full of NaN, and a packed batch."""
    rng = np.random.default_rng(seed)
    shapes = layout(config)
    flat, grads = np.zeros((2, sum(int(np.prod(shape)) for shape in shapes.values())), np.float32)
    flat[:] = rng.standard_normal(len(flat)) * 0.5
    grads[:] = np.nan
    lengths = [5, 1, 6]
    batch = Batch(rng.integers(0, 11, 12), rng.integers(0, 11, 12), rng.random(12).astype(np.float32), lengths)
    return Mixtral(config, views(flat, shapes)), views(grads, shapes), batch


def reference_loss(config, weights, batch, choices):
    """The loss in float64, from the loop-written operations; the choices of experts are given."""
    positions = np.concatenate([np.arange(length) for length in batch.lengths])
    angles = np.outer(positions, config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim))
    cos, sin = np.cos(angles), np.sin(angles)
    x, aux = weights["tok_embeddings.weight"][batch.ids], []
    for layer in range(config.n_layers):
        w = lambda name, layer=layer: weights[f"layers.{layer}.{name}.weight"]
        y = loop_rms_norm(x, w("attention_norm"), config.norm_eps)
        q, k, v = ((y @ w(f"attention.{name}").T).reshape(len(x), -1, config.head_dim) for name in ("wq", "wk", "wv"))
        y = loop_attention(loop_rope(q, cos, sin), loop_rope(k, cos, sin), v, batch.lengths)
        x = x + y.reshape(len(x), -1) @ w("attention.wo").T
        y = loop_rms_norm(x, w("ffn_norm"), config.norm_eps)
        if config.moe:
            logits, chosen = y @ w("feed_forward.gate").T, choices[layer]
            experts = [[w(f"feed_forward.experts.{e}.{m}") for e in range(4)] for m in ("w1", "w2", "w3")]
            x = x + loop_experts(y, chosen, loop_weights(logits, chosen), *experts)
            aux.append(loop_balance(logits, chosen))
        else:
            network = [w(f"feed_forward.{m}") for m in ("w1", "w2", "w3")]
            x = x + np.stack([loop_feed_forward(row, *network) for row in y])
    logits = loop_rms_norm(x, weights["norm.weight"], config.norm_eps) @ weights["output.weight"].T
    loss = loop_cross_entropy(logits, batch.targets, batch.weights)
    return loss + COEFFICIENT * np.mean(aux) if aux else loss


def check_whole_model(config):
    """Compare a few derivatives of every tensor, always with the largest one. Tolerance: measured 3e-6."""
    model, grads, batch = small_model(config)
    result = loss_and_gradients(model, batch, COEFFICIENT, grads)
    trace = {}
    model(batch.ids, lengths=batch.lengths, trace=trace)
    choices = [trace[f"experts{layer:02}"] for layer in range(config.n_layers)] if config.moe else None
    wide = {name: weight.astype(np.float64) for name, weight in model.weights.items()}
    loss = result["loss"] + COEFFICIENT * result["aux"]
    assert_close(np.array(loss), np.array(reference_loss(config, wide, batch, choices)), atol=3e-6, name="loss")
    rng = np.random.default_rng(1)
    for name, weight in wide.items():
        places = [int(np.argmax(np.abs(grads[name]))), *rng.integers(0, weight.size, 3).tolist()]
        flat, expected = weight.reshape(-1), []
        for place in places:
            kept, sides = flat[place], []
            for step in (1e-5, -1e-5):
                flat[place] = kept + step
                sides.append(reference_loss(config, wide, batch, choices))
            flat[place] = kept
            expected.append((sides[0] - sides[1]) / 2e-5)
        assert_close(grads[name].reshape(-1)[places], np.array(expected), atol=1e-5, name=name)


def test_gradients_of_the_whole_mixture_model():
    check_whole_model(small_config())


def test_gradients_of_the_whole_dense_model():
    check_whole_model(small_config(moe=False))
