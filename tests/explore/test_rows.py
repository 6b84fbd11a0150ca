"""The numbers of a click are those of the trace: attention, router, parts, next token; text, one picture and two."""

import numpy as np
import pytest
from compare import assert_close
from small import image_tokens, random_images, random_tensors, sizes, vision_sizes

from tests.explore.cases import model_of, pixels_of, run_of, whole_trace
from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.pixtral import Pixtral
from tiny.tools.explore import rows, runs

KINDS = ("text", "picture", "pictures")
# Row by row and in two passes against one whole pass; measured 4.8e-6 of numbers up to 11 (2026-11-30, AMD EPYC).
PASSES = 3e-5


def answers(weights, values, wo):
    """What attention gives out: (H, S) weights, (S, G, d) values -> (D,)."""
    many = np.repeat(values[: weights.shape[1]], len(weights) // values.shape[1], axis=1)
    return np.einsum("hs,shd->hd", weights, many).reshape(-1) @ np.asarray(wo, np.float32).T


@pytest.mark.parametrize("kind", KINDS)
def test_attention_rows_sum_to_1_and_give_what_attention_gave(kind):
    run = run_of(kind)
    trace = whole_trace(run, pixels_of(kind))
    for row in (0, 1, run.prompt // 2, run.prompt - 1, run.prompt, len(run.ids) - 1):
        found = rows.attention(run, row)
        assert_close(found.sum(axis=2), np.ones(found.shape[:2]), 1e-6, name="sums")
        assert found.shape[2] == row + 1
        for layer, weights in enumerate(found):
            wo = run.model.weights[f"layers.{layer}.attention.wo.weight"]
            assert_close(answers(weights, trace[f"v{layer:02}"], wo), trace[f"attn{layer:02}"][row], 4e-6,
                         rtol=4e-6, name=f"row {row}, layer {layer}")


@pytest.mark.parametrize("kind", ["picture", "pictures"])
def test_attention_of_a_patch_gives_what_the_encoder_gave(kind):
    run = run_of(kind)
    trace, patches = whole_trace(run, pixels_of(kind)), sum(c * r for c, r in run.grids)
    for patch in (0, 17, 47, patches - 1):
        found = rows.patch_attention(run, patch)
        assert_close(found.sum(axis=2), np.ones(found.shape[:2]), 1e-6, name="sums")
        assert found.shape[2] == patches and np.count_nonzero(found[0, 0]) <= 48, "a patch reads its own picture"
        for layer, weights in enumerate(found):
            wo = run.model.weights[f"vision_encoder.transformer.layers.{layer}.attention.wo.weight"]
            assert_close(answers(weights, trace[f"vision_v{layer:02}"], wo), trace[f"vision_attn{layer:02}"][patch],
                         4e-6, rtol=4e-6, name=f"patch {patch}, layer {layer}")


@pytest.mark.parametrize("kind", KINDS)
def test_router_and_next_token_are_those_of_the_trace(kind):
    run = run_of(kind)
    trace = whole_trace(run, pixels_of(kind))
    for row in range(0, len(run.ids), 7):
        assert_close(rows.logits(run, row), trace["logits"][row], PASSES, name="logits")
        scores, chosen, weights = rows.routing(run, row)
        for layer in range(len(scores) if kind == "text" else 0):
            assert_close(scores[layer], trace[f"router_logits{layer:02}"][row], PASSES, name="router_logits")
            assert_close(chosen[layer], trace[f"experts{layer:02}"][row], 0, name="experts")
            assert_close(weights[layer], trace[f"expert_weights{layer:02}"][row], PASSES, name="expert_weights")
        assert kind == "text" or scores.size == chosen.size == weights.size == 0


def test_parts_of_the_experts_add_up_to_what_the_layer_adds():
    """Their vectors do; so one expert alone, with the others silent, is as long as the answer of its layer."""
    run = run_of("text")
    for row in (5, 40):
        found = rows.parts(run, row)
        assert found.shape == (4, 4)
        for layer in range(4):
            x = run.trace[f"layer{layer - 1:02}" if layer else "embed"][row]
            added = run.trace[f"layer{layer:02}"][row] - x - run.trace[f"attn{layer:02}"][row]
            first, second = found[layer, 2:]
            assert abs(first - second) - 1e-3 <= np.linalg.norm(added) <= first + second + 1e-3
            assert_close(found[layer, :2], [np.linalg.norm(x), np.linalg.norm(run.trace[f"attn{layer:02}"][row])], 1e-4)
    alone = run_of("text", switch="experts_a_token", value=1)
    added = alone.trace["layer03"][9] - alone.trace["layer02"][9] - alone.trace["attn03"][9]
    assert_close(rows.parts(alone, 9)[3, 2], np.linalg.norm(added), 1e-4)


def test_parts_of_a_dense_model():
    run = run_of("picture")
    found = rows.parts(run, 3)
    added = run.trace["layer01"][3] - run.trace["layer00"][3] - run.trace["attn01"][3]
    assert found.shape == (4, 3)
    assert_close(found[1, 2], np.linalg.norm(added), 1e-4)


def test_one_click_is_packed_as_the_page_unpacks_it():
    run = run_of("text")
    found = np.frombuffer(rows.packed(run, 30), "<f4")
    L, H, S, E, K, V = 4, 4, 31, 8, 2, 2048
    assert len(found) == L * H * S + L * E + 2 * L * K + V
    assert_close(found[: L * H * S].reshape(L, H, S), rows.attention(run, 30), 0)
    assert_close(found[-V:], rows.logits(run, 30), 0)
    assert_close(found[L * H * S + L * E :][: L * K].reshape(L, K), rows.routing(run, 30)[1], 0)


def test_a_click_is_small_at_512_tokens():
    long = runs.write(model_of("text"), runs.Ask("the bell " * 235, tokens=20))
    assert len(long.ids) > 480 and len(rows.packed(long, len(long.ids) - 1)) < 50_000


@pytest.mark.parametrize("row", [-1, 68, 10**9])
def test_rows_out_of_range_are_refused(row):
    for show in (rows.attention, rows.routing, rows.logits, rows.parts, rows.packed):
        with pytest.raises(TinyError, match="and the run has 68"):
            show(run_of("text"), row)
    with pytest.raises(TinyError, match="Patch .* is asked for, and the run has 48"):
        rows.patch_attention(run_of("picture"), row)


class Plain:
    """A tokenizer of numbers: each word is an id."""

    bos_id, eos_id, vocab_size = 1, 2, 40

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def stream(self):
        return self

    def push(self, id):
        return f" {id}"

    def finish(self):
        return ""

    def pieces(self, ids):
        return [str(id) for id in ids]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("moe", [(4, 2), None])
def test_any_sizes_and_both_precisions(moe, precision):
    """Three query heads for each KV head, a dense model, and numbers that are rounded where the model rounds them."""
    config = sizes(moe)
    model = Mixtral(config, random_tensors(config), Plain(), precision=precision)
    run, trace = runs.write(model, runs.Ask("5 9 17 3 8", tokens=6)), {}
    model(run.ids, trace=trace)
    row, tolerance = 7, 0.03 if precision == "bfloat16" else 1e-5
    assert_close(rows.logits(run, row), trace["logits"][row], 4 * tolerance, name="logits")
    assert rows.parts(run, row).shape == (2, 4 if moe else 3)
    for layer, weights in enumerate(rows.attention(run, row)):
        wo = model.weights[f"layers.{layer}.attention.wo.weight"]
        found = answers(weights, trace[f"v{layer:02}"], wo)
        assert_close(found, trace[f"attn{layer:02}"][row], tolerance, rtol=tolerance)


def test_several_pictures_of_another_encoder():
    config = sizes(None, vision=vision_sizes())
    model = Pixtral(config, random_tensors(config), Plain())
    ids, pixels = [1, *image_tokens(3, 2), *image_tokens(2, 2), 5], random_images((3, 2), (2, 2))
    watched = runs.Watched(model, runs.wanted_of(config, 40), lambda: None)
    list(runs.generate(watched, ids, pixels, max_tokens=3))
    trace = {}
    model(ids, images=pixels, trace=trace)
    assert_close(watched.passes[0]["vision_q01"], trace["vision_q01"], 1e-5)
