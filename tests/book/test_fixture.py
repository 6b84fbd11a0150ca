"""A model small enough to write down: weights from an integer recipe, results as printed numbers.

The numbers were computed by mistral-inference and by transformers 5 (float32, eager), which agree to 7e-7. They are
printed with five decimals, so half a unit of the last one is the tolerance, and a little for the arithmetic.
"""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from tolerances import FIXTURE

from tiny.config import Config, MoeConfig
from tiny.files.weights import expected_shapes
from tiny.generate import generate
from tiny.mixtral import Mixtral
from tiny.sampling import log_softmax

CONFIG = Config(dim=32, n_layers=2, head_dim=8, hidden_dim=48, n_heads=4, n_kv_heads=2, norm_eps=1e-5, vocab_size=64,
                rope_theta=1e6, max_seq_len=64, moe=MoeConfig(8, 2))
IDS = [1, 11, 35, 9, 61, 63, 15, 45, 25, 19, 27, 49]
GREEDY = [47, 35, 48, 31, 23, 4, 6, 24]
EXPERTS = [[[6, 2], [4, 5], [4, 5], [4, 3], [1, 6], [6, 3], [5, 7], [7, 0], [0, 6], [0, 4], [4, 1], [0, 6]],
           [[2, 1], [5, 3], [3, 5], [3, 4], [2, 5], [6, 3], [4, 7], [5, 7], [0, 4], [2, 0], [5, 7], [1, 5]]]
FIRST_WEIGHTS = [[.79171, .59765, .83208, .77919, .67048, .71348, .88665, .64812, .86697, .51135, .50648, .50951],
                 [.80877, .50803, .57484, .67030, .78077, .68050, .55760, .59836, .51481, .85914, .76027, .62506]]
GATE_LOGITS = [[.84425, .93799, 1.24031, -2.06005, -.50921, .30006, 2.57559, -.21255],
               [-.29166, .94914, 2.39117, .12279, -2.19591, .44982, .08964, -.13227]]
SMALLEST_GAP = [.01826, .02115]  # between the second and the third router logit of any token
FIRST_LOGITS = [.24809, -.23390, .06113, .81524, .38864, -.35907, -.64410, .62771]
LAST_LOGITS = [1.26005, .67113, -.77357, .01102, -.70840, -1.22238, -.28315, .86634]
ARGMAX = [47, 31, 38, 25, 17, 48, 19, 3, 62, 34, 6, 47]
LAST_LOGITS_BFLOAT16 = [1.25, .6406, -.7695, .0757, -.7617, -1.1562, -.2656, .8555]  # transformers
FLIPPED = {(0, 1): [4, 2], (1, 1): [5, 6], (1, 2): [3, 6], (1, 6): [4, 0]}  # (layer, token) -> experts in bfloat16
RECIPE = {"norm": (1, 0.125), "embed": (0, 1), "gate": (0, 0.5)}  # part of the name -> base, scale; else 0, 0.25


def hashed(count, seed):
    """Numbers in [-0.5, 0.5] on a grid of 1 / 128, from an integer hash of place and seed."""
    with np.errstate(over="ignore"):
        a = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed * 40503 * 65537)
        a %= np.uint64(2**32)
        b = ((a ^ (a >> np.uint64(15))) * np.uint64(2246822519)) % np.uint64(2**32)
    c = b ^ (b >> np.uint64(13))
    return np.round(256 * (c.astype(np.float64) / 2**32 - 0.5)) / 128


def names_in_order():
    """The order that numbers the tensors: their seeds are 1, 2, ..., 65."""
    yield "tok_embeddings"
    for n in range(2):
        parts = ["attention_norm", *(f"attention.w{m}" for m in "qkvo"), "ffn_norm", "feed_forward.gate"]
        parts += [f"feed_forward.experts.{e}.w{m}" for e in range(8) for m in (1, 2, 3)]
        yield from (f"layers.{n}.{part}" for part in parts)
    yield from ("norm", "output")


def make_tensors():
    tensors, shapes = {}, expected_shapes(CONFIG)
    for seed, name in enumerate(names_in_order(), start=1):
        base, scale = next((numbers for part, numbers in RECIPE.items() if part in name), (0, 0.25))
        shape = shapes[f"{name}.weight"]
        values = (base + hashed(int(np.prod(shape)), seed) * scale).reshape(shape)
        tensors[f"{name}.weight"] = values.astype(ml_dtypes.bfloat16)
    assert seed == 65 and set(tensors) == set(shapes)
    return tensors


@pytest.fixture(scope="module")
def tensors():
    return make_tensors()


@pytest.fixture(scope="module")
def traced(tensors):
    trace = {}
    Mixtral(CONFIG, tensors)(IDS, trace=trace)
    return trace


def test_the_recipe(tensors):
    assert IDS == [(7 * i * i + 3 * i + 1) % 64 for i in range(12)]
    expected = [-0.203125, -0.671875, -0.0546875, -0.3828125, 0.3828125, -0.84375]
    assert_close(tensors["tok_embeddings.weight"][0, :6], expected, 0.0)
    assert_close(tensors["layers.0.attention.wq.weight"][0, :4], [-0.2421875, 0.12109375, 0.06640625, -0.01171875], 0.0)
    total = sum(float(x.astype(np.float64).sum()) for x in tensors.values())
    assert total == 205.580078125


@pytest.mark.parametrize("n", [0, 1])
def test_router(traced, n):
    assert traced[f"experts{n:02}"].tolist() == EXPERTS[n]
    weights, logits = traced[f"expert_weights{n:02}"], traced[f"router_logits{n:02}"]
    assert_close(weights[:, 0], FIRST_WEIGHTS[n], FIXTURE["printed"], name="first weights")
    assert_close(weights.sum(axis=1), np.ones(12), FIXTURE["sum"], name="sums of the weights")
    assert_close(logits[0], GATE_LOGITS[n], FIXTURE["printed"], name="router logits of token 0")
    falling = np.sort(logits, axis=1)[:, ::-1]
    assert_close((falling[:, 1] - falling[:, 2]).min(), SMALLEST_GAP[n], FIXTURE["printed"], name="smallest gap")


def test_logits(traced):
    logits = traced["logits"].astype(np.float64)
    assert_close(logits[0, :8], FIRST_LOGITS, FIXTURE["printed"], name="logits of token 0")
    assert_close(logits[-1, :8], LAST_LOGITS, FIXTURE["printed"], name="logits of the last token")
    assert logits.argmax(axis=1).tolist() == ARGMAX
    assert_close(logits.sum(), 32.074133, FIXTURE["total"], name="sum")
    assert_close(np.sqrt((logits**2).sum()), 23.076427, FIXTURE["norm"], name="L2 norm")
    nll = -log_softmax(traced["logits"])[np.arange(11), IDS[1:]].mean()
    assert_close(nll, 4.618008, FIXTURE["nll"], name="next-token NLL")


def test_load_balancing_loss(traced):
    """E times the sum over experts of (share of tokens, over both ranks) x (mean probability), both layers together."""
    logits = np.concatenate([traced[f"router_logits{n:02}"] for n in range(2)]).astype(np.float64)
    chosen = np.concatenate([traced[f"experts{n:02}"] for n in range(2)])
    probability = np.exp(log_softmax(logits)).mean(axis=0)
    share = np.bincount(chosen.ravel(), minlength=8) / len(chosen)
    assert_close(8 * (share * probability).sum(), 2.0568538, FIXTURE["aux"], name="auxiliary loss")


def test_greedy_continuation(tensors):
    tokens = list(generate(Mixtral(CONFIG, tensors), IDS, max_tokens=8))
    assert [token.id for token in tokens] == GREEDY


def test_bfloat16_flips_four_of_the_router_decisions(tensors):
    trace = {}
    logits = Mixtral(CONFIG, tensors, precision="bfloat16")(IDS, trace=trace)
    for n in range(2):
        wanted = [FLIPPED.get((n, t), EXPERTS[n][t]) for t in range(12)]
        assert [sorted(row) for row in trace[f"experts{n:02}"].tolist()] == [sorted(row) for row in wanted]
    assert logits.argmax(axis=1).tolist() == ARGMAX
    assert_close(logits[-1, :8], LAST_LOGITS_BFLOAT16, FIXTURE["bfloat16"], name="last logits in bfloat16")
    assert_close(logits, logits.astype(ml_dtypes.bfloat16), 0.0, name="logits are bfloat16 values")
