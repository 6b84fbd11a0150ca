"""Classic mistakes of a model over several processes, each of which a comparison with one process must refuse.

A mutant spoils what `tiny.parallel.load` takes its parts from: the operations of a rank, or how weights are cut.
"""

import numpy as np

from tiny.numerics import round_to
from tiny.parallel import ops, shards


def no_sum_after_wo(monkeypatch):
    """Each rank goes on with the part of its own heads."""
    whole = ops.with_parts

    def with_parts(ranks, base):
        changed = whole(ranks, base)

        def linear(x, weight, precision="float32"):
            if isinstance(weight, shards.Columns):
                return base.linear(x, np.asarray(weight), precision)
            return changed["linear"](x, weight, precision)
        return changed | {"linear": linear}
    monkeypatch.setattr(ops, "with_parts", with_parts)


def no_sum_after_the_experts(monkeypatch):
    whole = ops.with_parts
    monkeypatch.setattr(ops, "with_parts", lambda ranks, base: whole(ranks, base) | {
        "experts": base.experts, "feed_forward": base.feed_forward})


def owner_off_by_one(monkeypatch):
    """The next rank is asked for an expert's answer: it does not have it."""
    right = shards.owner_of
    monkeypatch.setattr(ops, "owner_of", lambda e, num_experts, size: (right(e, num_experts, size) + 1) % size)


def owner_by_remainder(monkeypatch):
    """Experts dealt out like cards, while the weights lie in stacks."""
    monkeypatch.setattr(ops, "owner_of", lambda e, num_experts, size: e % size)


def added_in_the_order_of_ranks(monkeypatch):
    """Every rank adds up its own answers, and the sums are added: for two experts right, for three other bits."""
    def with_experts(ranks, base):
        def experts(x, expert_ids, expert_weights, w1, w2, w3, precision="float32"):
            owner = shards.owner_of(expert_ids, len(w1), ranks.size)
            tokens, choice = np.nonzero(owner == ranks.rank)
            out = np.zeros_like(x)
            if len(tokens):
                answers = base.experts(x[tokens], expert_ids[tokens, choice][:, None],
                                       expert_weights[tokens, choice][:, None], w1, w2, w3, precision)
                for n in np.argsort(expert_ids[tokens, choice], kind="stable"):
                    out[tokens[n]] = round_to(out[tokens[n]] + answers[n], precision)
            return round_to(ranks.sum(out), precision)
        return {"experts": experts}
    monkeypatch.setattr(ops, "with_experts", with_experts)


def answers_weighted_after_rounding(monkeypatch):
    """Answers travel without their weights, which are multiplied where they arrive: one rounding too few."""
    whole = ops.with_experts

    def with_experts(ranks, base):
        return whole(ranks, type("Base", (), {"experts": staticmethod(lambda x, ids, weights, *rest: base.experts(
            x, ids, np.ones_like(weights), *rest[:3]) * weights)}))
    monkeypatch.setattr(ops, "with_experts", with_experts)


def w2_cut_by_rows(monkeypatch):
    """The outputs of a network are cut in place of what it reads: rows of zeros stand for the others' outputs."""
    cut = shards.cut

    def wrong(tensors, config, group, split):
        kept, kinds = cut(tensors, config, group, split)
        for name in (name for name in kept if name.endswith(".w2.weight")):
            rows = np.zeros((len(tensors[name]), kept[name].shape[1]), tensors[name].dtype)
            own = shards.part(len(rows), group)
            rows[own] = tensors[name][own, : rows.shape[1]]
            kept[name] = rows
        return kept, kinds
    monkeypatch.setattr("tiny.parallel.cut", wrong)


def heads_dealt_out(monkeypatch):
    """Rows of wq go to ranks head by head in turns, and those of wk in stacks: queries meet the keys of others."""
    cut = shards.cut

    def wrong(tensors, config, group, split):
        kept, kinds = cut(tensors, config, group, split)
        for name in (name for name in kept if name.endswith("attention.wq.weight")):
            heads = np.asarray(tensors[name]).reshape(config.n_heads, -1, tensors[name].shape[-1])
            kept[name] = np.ascontiguousarray(heads[group.rank :: group.size]).reshape(-1, heads.shape[-1])
        return kept, kinds
    monkeypatch.setattr("tiny.parallel.cut", wrong)


def logits_of_ranks_swapped(monkeypatch):
    """The words of the last rank come first."""
    whole = ops.with_parts

    def with_parts(ranks, base):
        changed = whole(ranks, base)

        def linear(x, weight, precision="float32"):
            y = changed["linear"](x, weight, precision)
            return np.roll(y, y.shape[1] // ranks.size, axis=1) if isinstance(weight, shards.Rows) else y
        return changed | {"linear": linear}
    monkeypatch.setattr(ops, "with_parts", with_parts)


# By split: those that a comparison of bits refuses, and those that one within a tolerance refuses.
OF_EXPERTS = [owner_off_by_one, owner_by_remainder, added_in_the_order_of_ranks, answers_weighted_after_rounding]
OF_PARTS = [no_sum_after_wo, no_sum_after_the_experts, w2_cut_by_rows, heads_dealt_out, logits_of_ranks_swapped]
