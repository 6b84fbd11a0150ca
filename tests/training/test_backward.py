"""The backward passes: against central differences in float64 of forward passes written with loops, and mutants.

Each loop-written forward is itself held to the book's operation. The backward passes run in float64 here, where
differences with a step of 1e-5 are good to about 1e-9 of the largest derivative.
"""

import numpy as np
import pytest
from compare import assert_close

from tests.mutants.backward import MUTANTS
from tiny import ops
from tiny.training import backward, experts_backward

pytestmark = pytest.mark.usefixtures("float64_too")

STEP = 1e-5
T, D, F, E, K, V, H, G, d = 9, 6, 5, 4, 2, 7, 4, 2, 4
LENGTHS = [4, 1, 4]


def draw(rng, *shapes):
    return [rng.standard_normal(shape) for shape in shapes]


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
    """Measured over 60 draws of every check: at most 2.6e-10 of the largest derivative."""
    return assert_close(actual, expected, atol=1e-9 * max(1.0, np.abs(expected).max()), name=name)


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


# ---- one check for each operation; a mutant must fail the same check


def check_linear(rng):
    x, weight, dout = draw(rng, (T, D), (F, D), (T, F))
    dw = np.full_like(weight, np.nan)
    dx = backward.linear_backward(dout, x, weight, dw)
    close(dx, differences(lambda: np.sum(x @ weight.T * dout), x), "dx")
    close(dw, differences(lambda: np.sum(x @ weight.T * dout), weight), "dw")


def check_embedding(rng):
    ids, (table, dout) = np.array([3, 1, 3, 0, 3, 6, 1, 1, 0]), draw(rng, (V, D), (T, D))
    dw = np.full_like(table, np.nan)
    backward.embedding_backward(dout, ids, dw)
    close(dw, differences(lambda: np.sum(table[ids] * dout), table), "dw")


def check_rms_norm(rng):
    (x, weight, dout), eps = draw(rng, (T, D), (D,), (T, D)), 1e-2
    book = ops.rms_norm(*as_float32(x, weight), eps)
    assert_close(book, loop_rms_norm(x, weight, eps), atol=3e-6, name="forward")
    dw = np.full_like(weight, np.nan)
    dx = backward.rms_norm_backward(dout, x, weight, eps, dw)
    close(dx, differences(lambda: np.sum(loop_rms_norm(x, weight, eps) * dout), x), "dx")
    close(dw, differences(lambda: np.sum(loop_rms_norm(x, weight, eps) * dout), weight), "dw")


def check_rope(rng):
    x, dout, angles = draw(rng, (T, H, d), (T, H, d), (T, d // 2))
    cos, sin = np.cos(angles), np.sin(angles)
    assert_close(ops.rope(*as_float32(x, cos, sin)), loop_rope(x, cos, sin), atol=2e-6, name="forward")
    close(backward.rope_backward(dout, cos, sin), differences(lambda: np.sum(loop_rope(x, cos, sin) * dout), x), "dx")


def check_attention(rng):
    q, k, v, dout = draw(rng, (T, H, d), (T, G, d), (T, G, d), (T, H, d))
    stops = np.cumsum(LENGTHS).tolist()
    expected = loop_attention(q, k, v, LENGTHS)
    book = ops.attention(*as_float32(q, k, v), LENGTHS, list(zip([0, *stops], stops)))
    assert_close(book, expected, atol=2e-6, name="forward")
    dq, dk, dv, out = backward.attention_backward(dout, q, k, v, LENGTHS)
    close(out, expected, "out")
    for name, actual, x in (("dq", dq, q), ("dk", dk, k), ("dv", dv, v)):
        close(actual, differences(lambda: np.sum(loop_attention(q, k, v, LENGTHS) * dout), x), name)


def draw_route(rng):
    """Router logits and choices; the last expert gets no token."""
    logits = rng.standard_normal((T, E))
    logits[:, -1] -= 9
    return logits, np.argsort(-logits, axis=1)[:, :K]


def check_route(rng):
    logits, chosen = draw_route(rng)
    dweights, coefficient = rng.standard_normal((T, K)), 0.7
    book = ops.route(logits.astype(np.float32), np.eye(E, dtype=np.float32), K)
    assert (book[1] == chosen).all()
    weights = loop_weights(logits, chosen)
    assert_close(book[2], weights, atol=4e-7, name="forward")
    loss, shares = backward.load_balancing(logits, chosen)
    close(np.array(loss), np.array(loop_balance(logits, chosen)), "load-balancing loss")
    close(shares, np.array([np.mean(chosen == e) for e in range(E)]), "shares")
    actual = backward.route_backward(dweights, logits, chosen, weights, coefficient)
    expected = differences(lambda: np.sum(loop_weights(logits, chosen) * dweights)
                           + coefficient * loop_balance(logits, chosen), logits)
    close(actual, expected, "dlogits")


def draw_experts(rng):
    """w1, w2, w3 of all experts, and arrays full of NaN for their gradients."""
    shapes = ((E, F, D), (E, D, F), (E, F, D))
    return draw(rng, *shapes), [np.full(shape, np.nan) for shape in shapes]


def check_experts(rng):
    chosen, (w, dw) = draw_route(rng)[1], draw_experts(rng)
    (x, dout), scales = draw(rng, (T, D), (T, D)), rng.random((T, K))
    book = ops.experts(*as_float32(x), chosen, *as_float32(scales, *w))
    assert_close(book, loop_experts(x, chosen, scales, *w), atol=8e-5, name="forward")
    dx, dscales = experts_backward.experts_backward(dout, x, chosen, scales, *w, list(zip(*dw)))
    for name, actual, by in (("dx", dx, x), ("dweights", dscales, scales), *zip(("dw1", "dw2", "dw3"), dw, w)):
        close(actual, differences(lambda: np.sum(loop_experts(x, chosen, scales, *w) * dout), by), name)


def check_feed_forward(rng):
    w, dw = ([part[0] for part in parts] for parts in draw_experts(rng))
    x, dout = draw(rng, (T, D), (T, D))
    dx = experts_backward.feed_forward_backward(dout, x, *w, dw)
    for name, actual, by in (("dx", dx, x), *zip(("dw1", "dw2", "dw3"), dw, w)):
        close(actual, differences(lambda: np.sum([loop_feed_forward(row, *w) for row in x] * dout), by), name)


def check_cross_entropy(rng):
    logits, targets, weights = rng.standard_normal((T, V)), rng.integers(0, V, T), rng.random(T)
    weights[2] = 0
    loss, dlogits = backward.cross_entropy(logits, targets, weights)
    close(np.array(loss), np.array(loop_cross_entropy(logits, targets, weights)), "loss")
    close(dlogits, differences(lambda: loop_cross_entropy(logits, targets, weights), logits), "dlogits")


CHECKS = {"linear": check_linear, "embedding": check_embedding, "rms_norm": check_rms_norm, "rope": check_rope,
          "attention": check_attention, "route": check_route, "experts": check_experts,
          "feed_forward": check_feed_forward, "cross_entropy": check_cross_entropy}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that the checks fill several."""
    monkeypatch.setattr(backward, "QUERIES", 3)
    monkeypatch.setattr(backward, "ROWS", 2)


@pytest.mark.parametrize("name", CHECKS)
def test_gradients_are_those_of_finite_differences(name):
    for seed in range(3):
        CHECKS[name](np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["attention", "cross_entropy"])
def test_several_blocks_give_the_same(name, small_blocks):
    CHECKS[name](np.random.default_rng(0))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{MUTANTS[mutant]}: {mutant.__name__}")
def test_mutants_fail(mutant, small_blocks, monkeypatch):
    mutant(monkeypatch)  # outside of the net: where the right function is gone, the mutant must not pass for caught
    with pytest.raises(AssertionError):
        CHECKS[MUTANTS[mutant]](np.random.default_rng(0))


def test_cross_entropy_of_nothing():
    with pytest.raises(ValueError, match="at least one target"):
        backward.cross_entropy(np.zeros((2, 3)), np.zeros(2, np.int64), np.zeros(2))


def test_extreme_gates_stay_finite():
    """exp(1000) is infinite in float32; the gradient there is zero or the plain product's, without a warning."""
    x = np.array([[1000.0], [-1000.0]], np.float32)
    w, dw = [np.ones((1, 1), np.float32)] * 3, [np.empty((1, 1), np.float32) for _ in range(3)]
    dx = experts_backward.feed_forward_backward(np.ones((2, 1), np.float32), x, *w, dw)
    assert_close(dx, np.array([[2000.0], [0.0]], np.float32), atol=0.0, name="dx")
    assert dx.dtype == np.float32
