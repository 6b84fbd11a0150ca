"""The backward passes of the vision half: against central differences in float64 of loops, and mutants.

As in `test_backward.py`: each loop-written forward is itself held to the book's operation, and so is each operation
that keeps what its backward pass needs.
"""

import math

import numpy as np
import pytest
from compare import assert_close

from tests.mutants.backward_images import MUTANTS
from tests.training.test_backward import as_float32, close, differences, draw, loop_feed_forward, loop_rope, softmax
from tiny import numerics, ops
from tiny.adapter import adapter
from tiny.rope_2d import patch_positions, rope_2d_table
from tiny.training import backward, experts_backward
from tiny.training.images import backward as image_backward
from tiny.training.images import gradients

pytestmark = pytest.mark.usefixtures("float64_too")

T, B, W, D, F, V, H, G, d = 6, 2, 6, 5, 4, 9, 4, 2, 4
C, p = 3, 2  # channels and side of a patch
IMG = 8
OWNERS = [[0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 2]]  # of every token of each text: its question, or 0 before them
GRIDS = [(3, 2), (3, 2)]  # (columns, rows)
WEIGHTS = "vision_language_adapter.w_in.weight", "vision_language_adapter.w_out.weight"
BIASES = "vision_language_adapter.w_in.bias", "vision_language_adapter.w_out.bias"


def nearly(actual, expected, name):
    """For what holds constants in float32, as GELU, angles and the weights of labels do.

    Measured over 60 draws of every check: at most 4.5e-8 of the largest derivative.
    """
    return assert_close(actual, expected, atol=2e-7 * max(1.0, np.abs(expected).max()), name=name)


# ---- forward passes, written with loops


def sees(n, query, key):
    """Whether a token of text n sees another: what all questions follow, and its own question up to itself."""
    return key <= query and OWNERS[n][key] in (0, OWNERS[n][query])


def question_mask():
    return np.array([[[0.0 if sees(n, query, key) else -np.inf for query in range(T)] for key in range(T)]
                     for n in range(B)])


def loop_attention(q, keys, values, seen):
    """Attention of B sequences of T tokens; seen(n, query, key) says who sees whom."""
    out = np.empty_like(q)
    for n, t, head in np.ndindex(B, T, q.shape[1]):
        kv, rows = head // (q.shape[1] // keys.shape[1]), [n * T + s for s in range(T) if seen(n, t, s)]
        weights = softmax(keys[rows, kv] @ q[n * T + t, head] / np.sqrt(q.shape[2]))
        out[n * T + t, head] = weights @ values[rows, kv]
    return out


def loop_patch_embed(images, weight):
    rows = []
    for pixels in images:
        for y, x in np.ndindex(pixels.shape[1] // p, pixels.shape[2] // p):
            square = pixels[:, y * p : y * p + p, x * p : x * p + p]
            rows.append([np.sum(kernel * square) for kernel in weight])
    return np.array(rows)


def loop_gelu(x):
    return np.array([z * (1 + math.erf(z / math.sqrt(2))) / 2 for z in x.reshape(-1)]).reshape(x.shape)


def loop_adapter(x, weights):
    hidden = loop_gelu(np.stack([weights[WEIGHTS[0]] @ row + weights[BIASES[0]] for row in x]))
    return np.stack([weights[WEIGHTS[1]] @ row + weights[BIASES[1]] for row in hidden])


def loop_merge(ids, table, features):
    rest = iter(features)
    return np.stack([next(rest) if i == IMG else table[i] for i in ids])


def loop_angles(theta):
    """Of every patch: first the angles of its row, with every other frequency, then those of its column."""
    angles = []
    for columns, rows in GRIDS:
        for row, column in np.ndindex(rows, columns):
            frequencies = [theta ** (-2 * k / d) for k in range(d // 2)]
            angles.append([row * f for f in frequencies[0::2]] + [column * f for f in frequencies[1::2]])
    return np.array(angles)


def loop_label_loss(features, labels, heads, weights):
    logits, total, first = features @ weights["heads.weight"].T + weights["heads.bias"], 0.0, 0
    for head, targets in zip(heads.values(), labels):
        shares = [1.0 if target else head.background for target in targets]
        if sum(shares):
            losses = [-np.log(softmax(row[first : first + head.classes])[target]) for row, target in
                      zip(logits, targets)]
            total += head.share * np.dot(shares, losses) / sum(shares)
        first += head.classes
    return total


# ---- one check for each operation; a mutant must fail the same check


def check_rope(rng):
    """The rotation as one complex product is the book's; backwards, it is held to differences with 2-D angles."""
    theta = 10.0
    angles, table = loop_angles(theta), rope_2d_table(patch_positions(GRIDS), d, theta)
    cos, sin = np.cos(angles), np.sin(angles)
    for name, actual, expected in (("cos", table[0], cos), ("sin", table[1], sin)):
        assert_close(actual, expected, atol=1.2e-7, name=name)  # measured: 2.9e-8
    x, dout = draw(rng, (len(angles), H, d), (len(angles), H, d))
    close(image_backward.complex_rope(x, cos, sin), loop_rope(x, cos, sin), "complex product")
    narrow = as_float32(x, *table)
    turned = image_backward.complex_rope(*narrow)
    assert turned.dtype == np.float32
    assert_close(turned, ops.rope(*narrow), atol=1e-6, name="the book's")  # measured: 2.4e-7
    dx = backward.rope_backward(dout, *(x.astype(np.float64) for x in table))
    nearly(dx, differences(lambda: np.sum(loop_rope(x, cos, sin) * dout), x), "dx")


def check_attention(rng, causal, sees):
    """Images or texts through one keeping operation, as in a model that has both."""
    states = [], []
    attention = image_backward.keeping_equal_attention(*states, question_mask())
    q, k, v, dout = draw(rng, (B * T, H, d), (B * T, G, d), (B * T, G, d), (B * T, H, d))
    forward = lambda: loop_attention(q, k, v, sees)
    close(attention(q, k, v, [T] * B, (), causal), forward(), "forward")
    assert [len(kept) for kept in states] == [1 - causal, causal * 1]
    dq, dk, dv, out = image_backward.equal_attention_backward(dout, q, k, v, B, states[causal][0])
    close(out, forward(), "out")
    for name, actual, x in (("dq", dq, q), ("dk", dk, k), ("dv", dv, v)):
        close(actual, differences(lambda: np.sum(forward() * dout), x), name)
    return q, k, v, forward()


def check_images(rng):
    *inputs, expected = check_attention(rng, False, lambda n, query, key: True)
    book = ops.attention(*as_float32(*inputs), [T] * B, [(n * T, n * T + T) for n in range(B)], False)
    assert_close(book, expected, atol=2e-6, name="the book's")  # measured: 5.7e-7


def check_texts(rng):
    """The book's attention is given each question alone with what stands before it."""
    *inputs, expected = check_attention(rng, True, sees)
    for n in range(B):
        for question in (1, 2):
            rows = [n * T + t for t in range(T) if OWNERS[n][t] in (0, question)]
            book = ops.attention(*as_float32(*(x[rows] for x in inputs)), [len(rows)], [(0, len(rows))])
            assert_close(book, expected[rows], atol=2e-6, name="the book's")  # measured: 5.7e-7


def check_feed_forward(rng):
    """What is kept serves the backward pass, which overwrites it."""
    kept, w = [], draw(rng, (F, D), (D, F), (F, D))
    x, dout, dw = *draw(rng, (T, D), (T, D)), [np.full_like(matrix, np.nan) for matrix in w]
    forward = lambda: np.stack([loop_feed_forward(row, *w) for row in x])
    close(image_backward.keeping_feed_forward(kept)(x, *w), forward(), "forward")
    book = ops.feed_forward(*as_float32(x, *w))
    assert_close(book, forward(), atol=4e-5, name="the book's")  # measured: 9.9e-6
    dx = experts_backward.feed_forward_backward(dout, x, *w, dw, kept.pop())
    for name, actual, by in (("dx", dx, x), *zip(("dw1", "dw2", "dw3"), dw, w)):
        close(actual, differences(lambda: np.sum(forward() * dout), by), name)


def check_patch_embed(rng):
    images, patches = draw(rng, *[(C, rows * p, columns * p) for columns, rows in GRIDS]), 2 * 6
    weight, dout = draw(rng, (W, C, p, p), (patches, W))
    book = ops.patch_embed(as_float32(*images), *as_float32(weight))
    assert_close(book, loop_patch_embed(images, weight), atol=8e-6, name="the book's")  # measured: 1.9e-6
    dw = np.full_like(weight, np.nan)
    image_backward.patch_embed_backward(dout, images, dw)
    close(dw, differences(lambda: np.sum(loop_patch_embed(images, weight) * dout), weight), "dw")


def check_gelu(rng):
    x, dout = np.concatenate([np.linspace(-7, 7, 57), rng.standard_normal(50)]), rng.standard_normal(107)
    assert_close(numerics.gelu(x.astype(np.float32)), loop_gelu(x), atol=1.5e-6, name="the book's")  # measured: 3.5e-7
    nearly(image_backward.gelu_backward(dout, x), differences(lambda: np.sum(loop_gelu(x) * dout), x), "dx")


def check_adapter(rng):
    shapes = dict(zip((*WEIGHTS, *BIASES), ((D, W), (D, D), (D,), (D,))))
    weights = dict(zip(shapes, draw(rng, *shapes.values())))
    grads = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
    x, dout = draw(rng, (T, W), (T, D))
    book = adapter(*as_float32(x), dict(zip(weights, as_float32(*weights.values()))))
    assert_close(book, loop_adapter(x, weights), atol=1.2e-5, name="the book's")  # measured: 2.9e-6
    dx = image_backward.adapter_backward(dout, x, weights, grads)
    for name, actual, by in (("dx", dx, x), *((name, grads[name], weights[name]) for name in shapes)):
        nearly(actual, differences(lambda: np.sum(loop_adapter(x, weights) * dout), by), name)


def check_merge(rng):
    ids = np.array([1, 3, IMG, IMG, 5, IMG, IMG, 6, 3, 2])
    table, features, dout = draw(rng, (V, D), (4, D), (len(ids), D))
    dw = np.full_like(table, np.nan)
    dx = image_backward.merge_backward(dout, ids, IMG, dw)
    merged = lambda: np.sum(loop_merge(ids, table, features) * dout)
    close(dx, differences(merged, features), "dx")
    close(dw, differences(merged, table), "dw")
    assert not dw[IMG].any(), "no row of the table stands for a patch"


def check_label_loss(rng):
    """Four heads: one where the background counts less, one where it does not, one that no patch answers."""
    heads = {"what": gradients.Head(4, 1.0, 0.25), "color": gradients.Head(3, 0.75, 0.0),
             "nothing": gradients.Head(2, 1.0, 0.0), "place": gradients.Head(3, 0.5, 1.0)}
    classes, scale, N = 12, 0.5, 11
    weights = dict(zip(("heads.weight", "heads.bias"), draw(rng, (classes, W), (classes,))))
    grads = {name: np.full_like(weight, np.nan) for name, weight in weights.items()}
    features = rng.standard_normal((N, W))
    labels = np.stack([rng.integers(0, head.classes, N) for head in heads.values()])
    labels[:, 0], labels[:, 1], labels[2] = 0, 2, 0
    result, dx = gradients.label_loss(features, labels, heads, weights, grads, scale)
    loss = lambda: loop_label_loss(features, labels, heads, weights)
    nearly(np.array(result["loss"]), np.array(loss()), "loss")
    for name, actual, by in (("dx", dx, features), *((name, grads[name], weights[name]) for name in weights)):
        nearly(actual, scale * differences(loss, by), name)
    logits, first = features @ weights["heads.weight"].T + weights["heads.bias"], 0
    for (name, head), targets in zip(heads.items(), labels):
        best = logits[:, first : first + head.classes].argmax(axis=1)
        right = [n for n in range(N) if targets[n] and best[n] == targets[n]]
        assert result.get(name) == (len(right) / np.sum(targets > 0) if name != "nothing" else None)
        first += head.classes


CHECKS = {"rope": check_rope, "images": check_images, "texts": check_texts, "feed_forward": check_feed_forward,
          "patch_embed": check_patch_embed, "gelu": check_gelu, "adapter": check_adapter, "merge": check_merge,
          "label_loss": check_label_loss}


@pytest.mark.parametrize("name", CHECKS)
def test_gradients_are_those_of_finite_differences(name):
    for seed in range(3):
        CHECKS[name](np.random.default_rng(seed))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{MUTANTS[mutant]}: {mutant.__name__}")
def test_mutants_fail(mutant, monkeypatch):
    mutant(monkeypatch)  # outside of the net: where the right function is gone, the mutant must not pass for caught
    with pytest.raises(AssertionError):
        CHECKS[MUTANTS[mutant]](np.random.default_rng(0))


@pytest.mark.parametrize("causal, check", [(False, check_images), (True, check_texts)])
@pytest.mark.parametrize("scores", [1, 2 * H * T * T])
def test_sequences_one_at_a_time_or_all_together(monkeypatch, causal, check, scores):
    """However many sequences are computed together, each gets what it gets alone: the checks hold, bit for bit."""
    def results():
        rng, states = np.random.default_rng(3), ([], [])
        q, k, v, dout = draw(rng, (B * T, H, d), (B * T, G, d), (B * T, G, d), (B * T, H, d))
        out = image_backward.keeping_equal_attention(*states, question_mask())(q, k, v, [T] * B, (), causal)
        return len(states[causal][0]), np.concatenate([x.reshape(-1) for x in (
            out, *image_backward.equal_attention_backward(dout, q, k, v, B, states[causal][0]))])

    (together, expected), _ = results(), monkeypatch.setattr(image_backward, "SCORES", scores)
    parts, actual = results()
    assert (together, parts) == (1, B if scores == 1 else -(-B // 2))
    assert_close(actual, expected, 0.0, name="all results")
    check(np.random.default_rng(4))


def test_what_training_cannot_attend_to_is_refused():
    x = np.zeros((3, 1, 4), np.float32)
    with pytest.raises(ValueError, match=r"one length .*\[1, 2\]"):
        image_backward.keeping_equal_attention([], [], None)(x, x, x, [1, 2], causal=False)
    with pytest.raises(ValueError, match="a mask for texts"):
        image_backward.keeping_equal_attention([], [], None)(x, x, x, [3])


def test_float32_stays_float32():
    rng = np.random.default_rng(0)
    x, dout = as_float32(*draw(rng, (T, D), (T, D)))
    assert image_backward.gelu_backward(dout, x).dtype == np.float32
    states = []
    q, k = as_float32(*draw(rng, (B * T, H, d), (B * T, G, d)))
    out = image_backward.keeping_equal_attention(states, [], None)(q, k, k, [T] * B, causal=False)
    results = [out, *image_backward.equal_attention_backward(q, q, k, k, B, states[0])]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
