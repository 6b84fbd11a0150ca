"""Gradients of the whole model with pictures, against differences in float64 of a model of loops, and mutants.

The loops are those of `test_backward.py` and `test_backward_images.py`. Every tensor is held to the derivative along
one random direction, which no error of a whole part survives.
"""

from functools import cache

import numpy as np
import pytest
from compare import assert_close

from tests.mutants.gradients_images import MUTANTS
from tests.training.test_backward import loop_cross_entropy, loop_feed_forward, loop_rms_norm, loop_rope, softmax
from tests.training.test_backward_images import loop_adapter, loop_label_loss, loop_patch_embed
from tiny.config import Config, VisionConfig
from tiny.pixtral import Pixtral
from tiny.training import optimiser
from tiny.training.images import gradients
from tiny.training.images.batches import Batch
from tiny.training.images.gradients import Head, answer_loss, encoder_loss

pytestmark = pytest.mark.usefixtures("float64_too")

BOS, INST, IMG, BREAK, END = 1, 3, 10, 12, 13
COLUMNS, ROWS, IMAGES, B = 3, 2, 2, 2  # of an image; images of a sequence; sequences
IMAGE = [IMG, IMG, IMG, BREAK, IMG, IMG, IMG, END]
PREFIX = 2 + IMAGES * len(IMAGE)
# Of every token of each sequence: its question, 0 before the questions, -1 what fills up the shorter one.
OWNERS = [[0] * PREFIX + [1, 1, 1, 2, 2, 2], [0] * PREFIX + [1, 1, 2, 2, 2, -1]]
T = PREFIX + 6
DENSE, STEP = 0.5, 1e-4
HEADS = {"what": Head(4, 1.0, 0.25), "place": Head(3, 0.75, 0.0)}
ENCODER = ("vision_encoder.", "heads.")


def config():
    vision = VisionConfig(hidden_size=8, num_channels=3, image_size=16, patch_size=2, rope_theta=10.0,
                          intermediate_size=6, num_hidden_layers=2, num_attention_heads=2, image_token_id=IMG,
                          max_image_size=16)
    return Config(dim=12, n_layers=2, head_dim=4, hidden_dim=10, n_heads=4, n_kv_heads=2, norm_eps=1e-5, vocab_size=17,
                  rope_theta=1e2, max_seq_len=64, vision=vision)


def sees(n, query, key):
    return key <= query and OWNERS[n][key] in (0, OWNERS[n][query])


def rows_of(n, question):
    """The tokens of one question, and those that all questions follow."""
    return [t for t in range(T) if OWNERS[n][t] in (0, question)]


def make(seed=0):
    """A model with weights that are not small, a batch, and gradients full of NaN, heads among them."""
    rng = np.random.default_rng(seed)
    shapes = optimiser.weight_shapes(config()) | {"heads.weight": (7, 8), "heads.bias": (7,)}
    weights = {name: rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5) if len(shape) > 1
               else 1 + np.float32(0.3) * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    grads = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    ids = rng.choice([1, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16], (B, T))
    ids[:, :PREFIX] = [BOS, INST] + IMAGE * IMAGES
    asked = rng.random((B, T), np.float32) * (np.array(OWNERS) > 0) * (np.arange(T) % 3 > 0)
    positions = [t if t < PREFIX else PREFIX + OWNERS[n][PREFIX:t].count(OWNERS[n][t]) for n in range(B)
                 for t in range(T)]
    mask = np.array([[[0 if sees(n, query, key) else -np.inf for query in range(T)] for key in range(T)]
                     for n in range(B)], np.float32)
    images = [rng.standard_normal((3, 2 * ROWS, 2 * COLUMNS), np.float32) for _ in range(B * IMAGES)]
    labels = np.stack([rng.integers(0, head.classes, B * IMAGES * ROWS * COLUMNS) for head in HEADS.values()])
    batch = Batch(ids.reshape(-1), rng.integers(0, 17, B * T), asked.astype(np.float32).reshape(-1),
                  np.array(positions), mask, images, labels)
    return Pixtral(config(), weights), batch, grads


# ---- the model of loops


def loop_attention(q, keys, values, seen):
    """Attention; seen[query] is the list of keys that it sees."""
    out = np.empty_like(q)
    for t, head in np.ndindex(q.shape[:2]):
        kv = head // (q.shape[1] // keys.shape[1])
        weights = softmax(keys[seen[t], kv] @ q[t, head] / np.sqrt(q.shape[2]))
        out[t, head] = weights @ values[seen[t], kv]
    return out


def loop_layers(x, weights, scope, layers, head_dim, angles, seen):
    cos, sin = np.cos(angles), np.sin(angles)
    for layer in range(layers):
        w = lambda name, layer=layer: weights[f"{scope}layers.{layer}.{name}.weight"]
        y = loop_rms_norm(x, w("attention_norm"), 1e-5)
        q, k, v = ((y @ w(f"attention.{name}").T).reshape(len(x), -1, head_dim) for name in ("wq", "wk", "wv"))
        y = loop_attention(loop_rope(q, cos, sin), loop_rope(k, cos, sin), v, seen)
        x = x + y.reshape(len(x), -1) @ w("attention.wo").T
        network = [w(f"feed_forward.{m}") for m in ("w1", "w2", "w3")]
        x = x + np.stack([loop_feed_forward(row, *network) for row in loop_rms_norm(x, w("ffn_norm"), 1e-5)])
    return x


def loop_encoder(images, weights):
    x = loop_patch_embed(images, weights["vision_encoder.patch_conv.weight"])
    x = loop_rms_norm(x, weights["vision_encoder.ln_pre.weight"], 1e-5)
    turns = [[row, column * 10.0**-0.5] for row in range(ROWS) for column in range(COLUMNS)]
    N = ROWS * COLUMNS
    seen = [[*range(n * N, n * N + N)] for n in range(len(images)) for _ in range(N)]
    return loop_layers(x, weights, "vision_encoder.transformer.", 2, 4, np.array(turns * len(images)), seen)


def loop_losses(weights, batch):
    """The losses of the answers and of the labels, in float64."""
    features = loop_encoder(batch.images, weights)
    dense = loop_label_loss(features, batch.labels, HEADS, weights)
    patches = iter(loop_adapter(features, weights))
    x = np.stack([next(patches) if i == IMG else weights["tok_embeddings.weight"][i] for i in batch.ids])
    angles = np.outer(batch.positions, [1, 0.1])
    seen = [[n * T + key for key in range(T) if sees(n, query, key)] for n in range(B) for query in range(T)]
    x = loop_layers(x, weights, "", 2, 4, angles, seen)
    logits = loop_rms_norm(x, weights["norm.weight"], 1e-5) @ weights["output.weight"].T
    return np.array([loop_cross_entropy(logits, batch.targets, batch.weights), dense])


@cache
def reference(seed):
    """The two losses, and for every tensor a direction of length 1 and the derivatives of both along it."""
    model, batch, _ = make(seed)
    weights = {name: weight.astype(np.float64) for name, weight in model.weights.items()}
    rng, slopes = np.random.default_rng(seed + 1000), {}
    for name, weight in weights.items():
        direction = rng.standard_normal(weight.shape)
        direction /= np.linalg.norm(direction)
        sides = [loop_losses(weights | {name: weight + step * direction}, batch) for step in (STEP, -STEP)]
        slopes[name] = direction, (sides[0] - sides[1]) / (2 * STEP)
    return loop_losses(weights, batch), slopes


def close(actual, expected, name):
    """Losses and derivatives, of sizes up to 4. Measured over 12 seeds: 5.1e-7."""
    return assert_close(np.array(actual), np.array(expected), atol=2e-6, name=name)


def compare_gradients(grads, slopes, parts):
    for name, (direction, slope) in slopes.items():
        expected = slope @ parts
        if name in grads and (parts[0] or name.startswith(ENCODER)):
            close(np.sum(grads[name] * direction), expected, name)


def check_encoder(seed=0):
    model, batch, grads = make(seed)
    losses, slopes = reference(seed)
    result = gradients.encoder_loss(batch.images, batch.labels, model.config.vision, HEADS, model.weights, grads)
    close(result["loss"], losses[1], "loss")
    compare_gradients(grads, slopes, (0, 1))


def check_answers(seed=0):
    model, batch, grads = make(seed)
    losses, slopes = reference(seed)
    result = gradients.answer_loss(model, batch, grads, HEADS, DENSE)
    close(result["answers"], losses[0], "loss of the answers")
    close(result["loss"], losses[1], "loss of the labels")
    compare_gradients(grads, slopes, (1, DENSE))


CHECKS = {"encoder": check_encoder, "answers": check_answers}


@pytest.mark.parametrize("name", CHECKS)
def test_gradients_are_those_of_finite_differences(name):
    CHECKS[name]()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{MUTANTS[mutant]}: {mutant.__name__}")
def test_mutants_fail(mutant, monkeypatch):
    mutant(monkeypatch)  # outside of the net: where the right function is gone, the mutant must not pass for caught
    with pytest.raises(AssertionError):
        CHECKS[MUTANTS[mutant]]()


# ---- questions about one picture


def logits_of(model, batch):
    """What the model of a training step answers."""
    states = gradients.ForwardStates(batch.mask, batch.positions)
    packed = Pixtral(model.config, model.weights, ops=states.ops)
    return packed(batch.ids, batch.images, lengths=[T] * B).reshape(B, T, -1)


def test_a_question_is_answered_as_if_it_stood_alone():
    """Against the book's model with one question; measured over 12 seeds, of logits up to 4: 2.7e-6."""
    model, batch, _ = make()
    together, ids = logits_of(model, batch), batch.ids.reshape(B, T)
    for n, question in ((0, 1), (0, 2), (1, 1), (1, 2)):
        rows = rows_of(n, question)
        alone = model(ids[n, rows], batch.images[n * IMAGES : (n + 1) * IMAGES])
        assert_close(together[n, rows], alone, atol=1e-5, name=f"sequence {n}, question {question}")


def test_other_questions_change_nothing():
    """Not even the last bit: what a question may not see is multiplied by zero."""
    model, batch, _ = make()
    before = logits_of(model, batch)
    for question in (1, 2):
        ids, rows = batch.ids.reshape(B, T).copy(), rows_of(0, question)[PREFIX:]
        ids[0, rows] = 14 + (ids[0, rows] + 1) % 3
        after = logits_of(model, batch._replace(ids=ids.reshape(-1)))
        same = np.ones((B, T), bool)
        same[0, rows] = False
        assert (after[same] == before[same]).all()
        assert (after[~same] != before[~same]).any(axis=1).all()


def test_another_picture_changes_every_answer_about_it():
    model, batch, _ = make()
    before = logits_of(model, batch)
    images = [*batch.images[:1], batch.images[1][:, ::-1], *batch.images[2:]]
    after = logits_of(model, batch._replace(images=images))
    assert (after[1] == before[1]).all() and (after[0, PREFIX:] != before[0, PREFIX:]).any(axis=1).all()


# ---- the frozen encoder


def test_a_frozen_encoder_gets_no_gradients():
    """The losses and all other gradients are those with an encoder that learns, bit for bit."""
    model, batch, grads = make()
    _, _, frozen = make()
    learning = answer_loss(model, batch, grads, HEADS, DENSE)
    result = answer_loss(model, batch, frozen)
    assert result == {name: learning[name] for name in ("answers", "right")}
    for name, gradient in frozen.items():
        if name.startswith(ENCODER):
            assert np.isnan(gradient).all(), name
        else:
            assert (gradient == grads[name]).all(), name
    assert not any(np.isnan(gradient).any() for gradient in grads.values())


def test_without_answers_only_the_encoder_gets_gradients():
    model, batch, grads = make()
    encoder_loss(batch.images, batch.labels, model.config.vision, HEADS, model.weights, grads)
    for name, gradient in grads.items():
        assert np.isnan(gradient).all() != name.startswith(ENCODER), name


def test_right_answers_are_counted():
    model, batch, grads = make()
    best = logits_of(model, batch).reshape(B * T, -1).argmax(axis=1)
    asked = np.flatnonzero(batch.weights)
    targets = best.copy()
    targets[asked[0]] = (best[asked[0]] + 1) % 17
    result = answer_loss(model, batch._replace(targets=targets), grads)
    assert result["right"] == (len(asked) - 1) / len(asked)
