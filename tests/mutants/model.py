"""Classic wrong answers, each a few lines, that the comparison with the oracle must refuse.

A mutant spoils one part of a `Subject`: the operations, the configuration, the weights, or the cache.
"""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

import tiny.ops
from tiny.files.weights import pairs_to_halves
from tiny.kv_cache import KVCache
from tiny.numerics import linear, silu, softmax


@dataclass
class Subject:
    """What a model is built from, and what it remembers with."""

    config: object
    weights: dict
    ops: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(
        **{name: getattr(tiny.ops, name) for name in tiny.ops.__all__}))
    cache: type = KVCache


def half_split_rope_on_interleaved_weights(s):
    def rope(x, cos, sin, precision):
        half = x.shape[2] // 2
        a, b, cos, sin = x[..., :half], x[..., half:], cos[:, None], sin[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)
    s.ops.rope = rope


def rope_turns_backwards_for_keys(s):
    rope, heads = s.ops.rope, s.config.n_kv_heads
    s.ops.rope = lambda x, cos, sin, p: rope(x, cos, -sin if x.shape[1] == heads else sin, p)


def keys_not_rotated(s):
    rope, heads = s.ops.rope, s.config.n_kv_heads
    s.ops.rope = lambda x, cos, sin, p: x if x.shape[1] == heads else rope(x, cos, sin, p)


def wrong_theta(s):
    s.config = replace(s.config, rope_theta=1e4)


def head_dim_is_dim_over_heads(s):
    """For the scale of the scores and the frequencies; the shapes of the weights refuse the rest."""
    wrong, table, attention = s.config.dim // s.config.n_heads, s.ops.rope_table, s.ops.attention
    exponent = s.config.head_dim / wrong
    s.ops.rope_table = lambda positions, d, theta: table(positions, d, theta**exponent)
    s.ops.attention = lambda q, *a, **k: attention(q * np.float32((s.config.head_dim / wrong) ** 0.5), *a, **k)


def epsilon_outside_the_root(s):
    s.ops.rms_norm = lambda x, w, eps, p: (
        x / (np.sqrt((x * x).mean(axis=1, keepdims=True)) + np.float32(eps)) * w.astype(np.float32))


def epsilon_1e_6(s):
    s.config = replace(s.config, norm_eps=1e-6)


def norm_weight_is_1_plus_w(s):
    norm = s.ops.rms_norm
    s.ops.rms_norm = lambda x, w, eps, p: norm(x, 1 + w.astype(np.float32), eps, p)


def norm_subtracts_the_mean(s):
    norm = s.ops.rms_norm
    s.ops.rms_norm = lambda x, w, eps, p: norm(x - x.mean(axis=1, keepdims=True), w, eps, p)


def reroute(s, rule):
    """Replace the choice of experts: rule(logits, K) -> experts, weights."""
    def route(x, gate, K, precision):
        logits = linear(x, gate)
        return logits, *rule(logits, K)
    s.ops.route = route


def largest(logits, K):
    return np.argsort(-logits, axis=1, kind="stable")[:, :K]


def chosen(logits, experts):
    return np.take_along_axis(logits, experts, axis=1)


def expert_weights_not_renormalised(s):
    reroute(s, lambda logits, K: (largest(logits, K), chosen(softmax(logits), largest(logits, K))))


def top_k_ascending(s):
    reroute(s, lambda logits, K: (largest(-logits, K), softmax(chosen(logits, largest(-logits, K)))))


def expert_weights_by_the_wrong_rank(s):
    reroute(s, lambda logits, K: (largest(logits, K), softmax(chosen(logits, largest(logits, K)))[:, ::-1]))


def experts_counted_equally(s):
    reroute(s, lambda logits, K: (largest(logits, K), np.full((len(logits), K), 1 / K, np.float32)))


def only_the_first_expert(s):
    reroute(s, lambda logits, K: (largest(logits, 1), np.ones((len(logits), 1), np.float32)))


def w1_and_w3_swapped(s):
    experts = s.ops.experts
    s.ops.experts = lambda x, c, w, w1, w2, w3, p: experts(x, c, w, w3, w2, w1, p)


def gelu_for_silu(s):
    def experts(x, picked, weights, w1, w2, w3, precision):
        def one(row, e):
            gate, up = linear(row, w1[e]), linear(row, w3[e])
            return linear(silu(np.float32(1.702) * gate) / np.float32(1.702) * up, w2[e])
        rows = range(len(x))
        return np.concatenate([sum(w * one(x[t : t + 1], e) for e, w in zip(picked[t], weights[t])) for t in rows])
    s.ops.experts = experts


def kv_heads_tiled_instead_of_repeated(s):
    attention, order = s.ops.attention, np.arange(s.config.n_heads) % s.config.n_kv_heads
    s.ops.attention = lambda q, k, v, *a, **key: attention(q, k[:, order], v[:, order], *a, **key)


def causal_mask_dropped(s):
    attention = s.ops.attention
    s.ops.attention = lambda *a, **k: attention(*a, **k | {"causal": False})


def scale_by_d_instead_of_its_root(s):
    attention, d = s.ops.attention, s.config.head_dim
    s.ops.attention = lambda q, *a, **k: attention(q * np.float32(d**-0.5), *a, **k)


def sequences_of_a_pack_see_each_other(s):
    attention = s.ops.attention
    s.ops.attention = lambda q, k, v, lengths, spans, **key: attention(
        q, k, v, [len(q)], [(spans[0][0], spans[-1][1])], **key)


def sliding_window_of_16(s):
    attention = s.ops.attention

    def windowed(q, k, v, lengths, spans, **key):
        rows, first = [], 0
        for length, (start, stop) in zip(lengths, spans):
            for n in range(length):
                end = stop - length + n + 1
                rows.append(attention(q[first + n : first + n + 1], k, v, [1], [(max(start, end - 16), end)], **key))
            first += length
        return np.concatenate(rows)
    s.ops.attention = windowed


def hf_rows_not_undone(s):
    s.weights = {name: pairs_to_halves(x, s.config.head_dim) if name.endswith((".wq.weight", ".wk.weight")) else x
                 for name, x in s.weights.items()}


def output_tied_to_the_embeddings(s):
    s.weights = s.weights | {"output.weight": s.weights["tok_embeddings.weight"]}


class LateCache(KVCache):
    """Reports one token too many, once it holds any."""

    @property
    def lengths(self):
        return [slot.length + (slot.length > 0) for slot in self.slots]


class RestartingCache(KVCache):
    """Reports that it is empty."""

    @property
    def lengths(self):
        return [0] * len(self.slots)


def cache_position_off_by_one(s):
    s.cache = LateCache


def positions_restarted_per_chunk(s):
    s.cache = RestartingCache


MUTANTS = {f.__name__: f for f in (
    half_split_rope_on_interleaved_weights, rope_turns_backwards_for_keys, keys_not_rotated, wrong_theta,
    head_dim_is_dim_over_heads, epsilon_outside_the_root, epsilon_1e_6, norm_weight_is_1_plus_w,
    norm_subtracts_the_mean,
    expert_weights_not_renormalised, top_k_ascending, expert_weights_by_the_wrong_rank, experts_counted_equally,
    only_the_first_expert, w1_and_w3_swapped, gelu_for_silu, kv_heads_tiled_instead_of_repeated, causal_mask_dropped,
    scale_by_d_instead_of_its_root, sequences_of_a_pack_see_each_other, sliding_window_of_16, hf_rows_not_undone,
    output_tied_to_the_embeddings, cache_position_off_by_one, positions_restarted_per_chunk)}
