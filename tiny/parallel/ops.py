"""The seam once more: operations whose weights lie on several ranks. Read `cost.py` next.

With whole experts, every rank has all tokens and computes everything but the experts itself. It lets its own experts
answer, the answers are gathered, and every rank adds them in ascending expert: the additions of one process, in their
order, so the same bits.
"""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

import tiny.ops
from tiny.experts import check_experts, used_experts
from tiny.numerics import round_to
from tiny.parallel.ranks import Group
from tiny.parallel.shards import Columns, Rows, owner_of, share_of


def choose(ranks: Group, split: str, base: ModuleType = tiny.ops) -> ModuleType:
    """The operations of a model that is cut for several ranks; base: those of one process, NumPy's or as kernels."""
    chosen = ModuleType("tiny.parallel.chosen", "The operations of one rank.")
    for name in tiny.ops.__all__:
        setattr(chosen, name, getattr(base, name))
    changed = with_experts(ranks, base) if split == "experts" else with_parts(ranks, base)
    for name, function in changed.items():
        setattr(chosen, name, function)
    vars(chosen)["kernels"] = getattr(base, "kernels", [])
    return chosen


def with_experts(ranks: Group, base: ModuleType) -> dict:
    """The operation that differs where each rank has some whole experts."""

    def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
                w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
        check_experts(x, expert_ids, expert_weights, w1, w2, w3, precision)
        used = used_experts(expert_ids, len(w1))
        # (1) who answers what: every rank works this out for itself, so nobody has to say it
        owner = owner_of(expert_ids, len(w1), ranks.size)
        pairs = [np.nonzero(owner == rank) for rank in range(ranks.size)]
        # (2) the answers of this rank's experts, a row for each of its pairs of token and choice
        tokens, choice = pairs[ranks.rank]
        mine = np.empty((0, x.shape[1]), np.float32) if not len(tokens) else base.experts(
            x[tokens], expert_ids[tokens, choice][:, None], expert_weights[tokens, choice][:, None], w1, w2, w3,
            precision)
        # (3) everybody's answers to everybody
        every = ranks.rows(mine, [len(tokens) for tokens, _ in pairs])
        tokens = np.concatenate([tokens for tokens, _ in pairs])
        answered = np.concatenate([expert_ids[pair] for pair in pairs])
        # (4) add them as one process does, in ascending expert
        out = np.zeros_like(x)
        for e in used:
            at = answered == e
            out[tokens[at]] = round_to(out[tokens[at]] + every[at], precision)
        return out

    return {"experts": experts}


def with_parts(ranks: Group, base: ModuleType) -> dict:
    """The operations that differ where each rank has some heads, and some hidden rows of every network."""

    def linear(x: np.ndarray, weight: np.ndarray, precision: str = "float32") -> np.ndarray:
        share, whole = share_of(weight), np.asarray(weight) if isinstance(weight, np.ndarray) else weight
        part = base.linear(x, whole, precision)
        return ranks.sum(part) if share is Columns else ranks.columns(part) if share is Rows else part

    def feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                     precision: str = "float32") -> np.ndarray:
        return ranks.sum(base.feed_forward(x, w1, w2, w3, precision))

    def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
                w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
        return ranks.sum(base.experts(x, expert_ids, expert_weights, w1, w2, w3, precision))

    return {"linear": linear, "feed_forward": feed_forward, "experts": experts}
