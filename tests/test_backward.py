"""The backward passes: against finite differences in float64 of forward passes written with loops, and mutants.

Each loop-written forward is itself held to the book's operation. The backward passes run in float64 here; central
differences with a step of 1e-5 are then good to about 1e-9 of the largest derivative.
"""

import numpy as np
import pytest
from compare import assert_close

from tiny import ops
from tiny.training import backward

STEP = 1e-5
RNG = np.random.default_rng(2)
T, D, F, E, K, V, H, G, d = 9, 6, 5, 4, 2, 7, 4, 2, 4
LENGTHS = [4, 1, 4]


def normal(*shape):
    return RNG.standard_normal(shape)


def differences(f, x):
    """The gradient of the scalar f() by x, by central differences; x is changed in place and put back."""
    out = np.empty_like(x)
    for place in np.ndindex(x.shape):
        kept = x[place]
        x[place] = kept + STEP
        above = f()
        x[place] = kept - STEP
        out[place] = (above - f()) / (2 * STEP)
        x[place] = kept
    return out


def close(actual, expected, name):
    """Measured over 200 draws: XX of the largest derivative; the mutants below are off by 1e-2 of it and more."""
    return assert_close(actual, expected, atol=2e-9 * max(1.0, np.abs(expected).max()), name=name)


def as_float32(*arrays):
    return [np.asarray(x, np.float32) for x in arrays]


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


# ---- forward passes, written with loops


def loop_rms_norm(x, weight, eps):
    return np.stack([row / np.sqrt(np.mean(row * row) + eps) * weight for row in x])


def loop_rope(x, cos, sin):
    out = np.empty_like(x)
    for t, head, pair in np.ndindex(x.shape[0], x.shape[1], x.shape[2] // 2):
        z = complex(x[t, head, 2 * pair], x[t, head, 2 * pair + 1]) * complex(cos[t, pair], sin[t, pair])
        out[t, head, 2 * pair : 2 * pair + 2] = z.real, z.imag
    return out


def loop_attention(q, keys, values, lengths):
    out, first = np.empty_like(q), 0
    for length in lengths:
        for t, head in np.ndindex(length, q.shape[1]):
            kv = head // (q.shape[1] // keys.shape[1])
            seen = slice(first, first + t + 1)
            weights = softmax(keys[seen, kv] @ q[first + t, head] / np.sqrt(q.shape[2]))
            out[first + t, head] = weights @ values[seen, kv]
        first += length
    return out


def loop_feed_forward(x, w1, w2, w3):
    a = w1 @ x
    return w2 @ (a / (1 + np.exp(-a)) * (w3 @ x))


def loop_experts(x, chosen, weights, w1, w2, w3):
    return np.stack([sum(c * loop_feed_forward(row, w1[e], w2[e], w3[e]) for c, e in zip(scales, picks))
                     for row, scales, picks in zip(x, weights, chosen)])


def loop_weights(logits, chosen):
    return np.stack([softmax(row[picks]) for row, picks in zip(logits, chosen)])


def loop_balance(logits, chosen):
    share = [np.sum(chosen == e) / len(logits) for e in range(logits.shape[1])]
    return logits.shape[1] * np.dot(share, np.mean([softmax(row) for row in logits], axis=0))


def loop_cross_entropy(logits, targets, weights):
    return -sum(w * np.log(softmax(row)[t]) for row, t, w in zip(logits, targets, weights)) / weights.sum()


# ---- one check for each operation; a mutant runs the same check on a changed copy of the function


def check_linear(f):
    x, weight, dout = normal(T, D), normal(F, D), normal(T, F)
    dw = np.full_like(weight, np.nan)
    dx = f(dout, x, weight, dw)
    close(dx, differences(lambda: np.sum(x @ weight.T * dout), x), "dx")
    close(dw, differences(lambda: np.sum(x @ weight.T * dout), weight), "dw")


def check_embedding(f):
    ids, table, dout = np.array([3, 1, 3, 0, 3, 6, 1, 1, 0]), normal(V, D), normal(T, D)
    dw = np.full_like(table, np.nan)
    f(dout, ids, dw)
    close(dw, differences(lambda: np.sum(table[ids] * dout), table), "dw")


def check_rms_norm(f):
    x, weight, dout, eps = normal(T, D), normal(D), normal(T, D), 1e-2
    assert_close(ops.rms_norm(*as_float32(x, weight), eps), loop_rms_norm(x, weight, eps), atol=1e-6, name="forward")
    dw = np.full_like(weight, np.nan)
    dx = f(dout, x, weight, eps, dw)
    close(dx, differences(lambda: np.sum(loop_rms_norm(x, weight, eps) * dout), x), "dx")
    close(dw, differences(lambda: np.sum(loop_rms_norm(x, weight, eps) * dout), weight), "dw")


def check_rope(f):
    x, dout, angles = normal(T, H, d), normal(T, H, d), normal(T, d // 2)
    cos, sin = np.cos(angles), np.sin(angles)
    assert_close(ops.rope(*as_float32(x, cos, sin)), loop_rope(x, cos, sin), atol=1e-6, name="forward")
    close(f(dout, cos, sin), differences(lambda: np.sum(loop_rope(x, cos, sin) * dout), x), "dx")


def check_attention(f):
    q, k, v, dout = normal(T, H, d), normal(T, G, d), normal(T, G, d), normal(T, H, d)
    stops = np.cumsum(LENGTHS)
    book = ops.attention(*as_float32(q, k, v), LENGTHS, list(zip([0, *stops], stops)))
    assert_close(book, loop_attention(q, k, v, LENGTHS), atol=3e-6, name="forward")
    dq, dk, dv, out = f(dout, q, k, v, LENGTHS)
    loss = lambda: np.sum(loop_attention(q, k, v, LENGTHS) * dout)
    close(out, loop_attention(q, k, v, LENGTHS), "out")
    for name, actual, x in (("dq", dq, q), ("dk", dk, k), ("dv", dv, v)):
        close(actual, differences(loss, x), name)


def draw_route():
    logits = normal(T, E)
    logits[:, -1] -= 9  # The last expert gets no token.
    return logits, np.argsort(-logits, axis=1)[:, :K]


def check_route(f):
    logits, chosen = draw_route()
    dweights, coefficient = normal(T, K), 0.7
    book = ops.route(logits.astype(np.float32), np.eye(E, dtype=np.float32), K)
    assert (book[1] == chosen).all()
    assert_close(book[2], loop_weights(logits, chosen), atol=1e-6, name="forward")
    loss = lambda: np.sum(loop_weights(logits, chosen) * dweights) + coefficient * loop_balance(logits, chosen)
    close(f(dweights, logits, chosen, loop_weights(logits, chosen), coefficient), differences(loss, logits), "dlogits")


def draw_experts():
    shapes = ((E, F, D), (E, D, F), (E, F, D))
    return [normal(*shape) for shape in shapes], [np.full(shape, np.nan) for shape in shapes]


def check_experts(f):
    chosen, (w, dw) = draw_route()[1], draw_experts()
    x, scales, dout = normal(T, D), RNG.random((T, K)), normal(T, D)
    book = ops.experts(*as_float32(x), chosen, *as_float32(scales, *w))
    assert_close(book, loop_experts(x, chosen, scales, *w), atol=2e-5, name="forward")
    dx, dscales = f(dout, x, chosen, scales, *w, list(zip(*dw)))
    loss = lambda: np.sum(loop_experts(x, chosen, scales, *w) * dout)
    for name, actual, by in (("dx", dx, x), ("dweights", dscales, scales), *zip(("dw1", "dw2", "dw3"), dw, w)):
        close(actual, differences(loss, by), name)


def check_feed_forward(f):
    w, dw = draw_experts()
    (w1, w2, w3), dw, x, dout = (part[0] for part in w), [part[0] for part in dw], normal(T, D), normal(T, D)
    dx = f(dout, x, w1, w2, w3, dw)
    loss = lambda: np.sum([loop_feed_forward(row, w1, w2, w3) for row in x] * dout)
    for name, actual, by in (("dx", dx, x), *zip(("dw1", "dw2", "dw3"), dw, (w1, w2, w3))):
        close(actual, differences(loss, by), name)


def check_cross_entropy(f):
    logits, targets, weights = normal(T, V), RNG.integers(0, V, T), RNG.random(T)
    weights[2] = 0
    loss, dlogits = f(logits, targets, weights)
    close(np.array(loss), np.array(loop_cross_entropy(logits, targets, weights)), "loss")
    close(dlogits, differences(lambda: loop_cross_entropy(logits, targets, weights), logits), "dlogits")


CHECKS = {"linear_backward": check_linear, "embedding_backward": check_embedding, "rms_norm_backward": check_rms_norm,
          "rope_backward": check_rope, "attention_backward": check_attention, "route_backward": check_route,
          "experts_backward": check_experts, "feed_forward_backward": check_feed_forward,
          "cross_entropy": check_cross_entropy}
