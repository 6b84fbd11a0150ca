"""One decoder layer: its parts in order, what it keeps in the trace, and that it asks only for what it needs."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference
from compare import assert_close
from small import random_tensors, sizes
from tolerances import MODEL

import tiny.ops
from tiny.decoder import ExpertMatrices, ForwardPass, decoder_layer
from tiny.kv_cache import KVCache
from tiny.rope import rope_table


def new_pass(config, lengths, pasts=None, **fields):
    positions = np.concatenate([np.arange(p, p + n) for p, n in zip(pasts or [0] * len(lengths), lengths)])
    cos, sin = rope_table(positions, config.head_dim, config.rope_theta)
    standard = {"cache": None, "trace": {}, "ops": tiny.ops, "precision": "float32"}
    return ForwardPass(lengths, cos, sin, **(standard | fields))


def inputs(config, T, seed=0):
    return np.random.default_rng(seed).standard_normal((T, config.dim)).astype(np.float32)


@pytest.mark.parametrize("moe", [None, (4, 2), (3, 3), (2, 1)])
@pytest.mark.parametrize("T", [1, 2, 31])
def test_against_the_loops(moe, T):
    config = sizes(moe)
    tensors = random_tensors(config)
    x = inputs(config, T)
    run = new_pass(config, [T])
    y = decoder_layer(x, 1, tensors, config, run)
    wide = {name: w.astype(np.float64) for name, w in tensors.items()}
    assert y.dtype == np.float32
    assert_close(y, reference.layer(list(x.astype(np.float64)), 1, wide, config), MODEL["layer"], name="layer")
    assert run.trace["layer01"] is y
    noted = {"q01", "k01", "v01", "attn01", "layer01"}
    assert set(run.trace) == (noted | {"router_logits01", "experts01", "expert_weights01"} if moe else noted)


def test_the_order_of_the_operations():
    config, calls = sizes(), []

    def spy(name):
        def call(*arguments, **keywords):
            calls.append(name)
            return getattr(tiny.ops, name)(*arguments, **keywords)
        return call

    ops = SimpleNamespace(**{name: spy(name) for name in tiny.ops.__all__})
    decoder_layer(inputs(config, 3), 0, random_tensors(config), config, new_pass(config, [3], ops=ops))
    assert calls == ["rms_norm", "linear", "linear", "linear", "rope", "rope", "attention", "linear",
                     "add_norm", "route", "experts", "add"]


def test_with_a_cache_the_layer_goes_on_where_it_was():
    config = sizes()
    tensors, x = random_tensors(config), inputs(config, 9)
    whole = decoder_layer(x, 0, tensors, config, new_pass(config, [9]))
    cache, parts = KVCache(2, config.n_kv_heads, config.head_dim, [9]), []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        run = new_pass(config, [stop - start], [start], cache=cache)
        parts.append(decoder_layer(x[start:stop], 0, tensors, config, run))
        cache.advance([stop - start])
    assert_close(np.concatenate(parts), whole, MODEL["layer"], name="in three calls")


def test_without_a_trace_nothing_is_kept_and_the_input_is_left_alone():
    config = sizes()
    x = inputs(config, 3)
    before, run = x.copy(), new_pass(config, [3], trace=None)
    decoder_layer(x, 0, random_tensors(config), config, run)
    assert run.trace is None
    assert_close(x, before, 0.0)


def test_expert_matrices_are_looked_up_when_asked_for():
    asked = []

    class Recorded(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    matrices = ExpertMatrices(Recorded({"layers.3.feed_forward.experts.5.w2.weight": "here"}), 3, "w2", 8)
    assert len(matrices) == 8 and asked == []
    assert matrices[5] == "here" and asked == ["layers.3.feed_forward.experts.5.w2.weight"]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_damage_to_an_expert_without_tokens_does_not_matter(poison):
    config = sizes((4, 1))
    tensors, x, run = random_tensors(config), inputs(config, 1), new_pass(sizes((4, 1)), [1])
    clean = decoder_layer(x, 0, tensors, config, run)
    used = int(run.trace["experts00"][0, 0])
    for e in set(range(4)) - {used}:
        for m in ("w1", "w2", "w3"):
            tensors[f"layers.0.feed_forward.experts.{e}.{m}.weight"].fill(poison)
    assert_close(decoder_layer(x, 0, tensors, config, run), clean, 0.0)
