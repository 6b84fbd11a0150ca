"""Is a server's answer rounding or a fault, and which? The rule, on log-probabilities; it knows NumPy only.

A fault h predicts a change of every log-probability, s = log p_h - log p. The server shows a change o = log p_server -
log p. Rounding goes in all directions, so it hides s, but does not look like it: how much of s is in o tells.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

TOP = 20  # tokens that a server names at a position
CLIP = 2.0  # nats: one expert that flips by rounding moves a token of a healthy server further than any fault
BLOCKS = 40  # of positions, each left out once for the standard error
# Of what a fault predicts, so much must be there, so many standard errors from nothing, and leave so much at most.
# Set on 18 texts of 400 tokens before the held-out ones were looked at (29 Nov 2026).
BETA, ERRORS, LEFT = 0.5, 5.0, 0.9


class Seen(NamedTuple):
    """What a server said about the token after each of ids. Position t is what follows ids[: t + 1].

    Shapes:  ids (T,), BOS first, as our tokenizer has them; top (T, n) the likeliest first, -1 where nothing was said;
             logprobs (T, n) natural logarithms, NaN where nothing was said; following (T,) that of ids[t + 1], or NaN
    """

    ids: np.ndarray
    top: np.ndarray
    logprobs: np.ndarray
    following: np.ndarray


class Evidence(NamedTuple):
    """How far a server agrees with one fault.

    beta: how much of the predicted change is there, 0 without the fault and 1 with it; error: its standard error
    left: what remains of the deviation if the fault is assumed; change: the mean change that it predicts, in nats
    """

    beta: float
    error: float
    left: float
    change: float


class Verdict(NamedTuple):
    """What to say of a server: state is "healthy", "faulty" or "cannot tell"; fault is its name, or None.

    deviation and bound are means in nats; evidence is that of the fault.
    """

    state: str
    fault: str | None
    words: str
    deviation: float
    bound: float
    evidence: Evidence | None


def seen_of(ids: Sequence[int] | np.ndarray, logprobs: np.ndarray, count: int = TOP) -> Seen:
    """What a server would say whose log-probabilities are these: for tests, and for the reference's own rounding.

    Shapes:  ids (T,), logprobs (T, V) -> a Seen of count tokens a position
    """
    ids = np.asarray(ids)
    rank = np.nan_to_num(-logprobs, nan=np.inf)
    best = np.argpartition(rank, count - 1, axis=1)[:, :count]
    best = np.take_along_axis(best, np.argsort(np.take_along_axis(rank, best, axis=1), axis=1), axis=1)
    values = np.take_along_axis(logprobs, best, axis=1).astype(np.float64)
    following = np.append(logprobs[np.arange(len(ids) - 1), ids[1:]], np.nan).astype(np.float64)
    return Seen(ids, np.where(np.isnan(values), -1, best), values, following)


def told(seen: Seen, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of which a server said something, and what: its top, and the token that follows if that is not in it.

    Shapes:  -> tokens (T, n + 1) int, 0 where nothing was said; values (T, n + 1) float64, NaN there
    Raises:  ValueError for shapes that do not fit, a token outside the vocabulary, or a probability above 1
    """
    ids, top, logprobs, following = (np.asarray(x) for x in seen)
    T = len(ids)
    if ids.ndim != 1 or T < 2 or top.shape != logprobs.shape or top.ndim != 2 or len(top) != T or (
            following.shape != (T,)):
        raise ValueError(f"A Seen has ids (T,), top and logprobs (T, n), following (T,); got {ids.shape}, {top.shape}, "
                         f"{logprobs.shape} and {following.shape}.")
    next_ids = np.append(ids[1:], 0)
    again = (top == next_ids[:, None]).any(axis=1)
    tokens = np.column_stack([top, next_ids]).astype(np.int64)
    values = np.column_stack([logprobs, np.where(again, np.nan, following)]).astype(np.float64)
    values[-1, -1] = np.nan  # nothing follows the last token
    values[tokens < 0] = np.nan
    if tokens.max() >= vocab_size or (values > 0.01).any():
        raise ValueError(f"A Seen names token {tokens.max()} of a vocabulary of {vocab_size}, or a log-probability of "
                         f"{np.nanmax(values, initial=-np.inf):g}.")
    return np.where(np.isnan(values), 0, tokens), values


def deviation(seen: Seen, reference: np.ndarray) -> np.ndarray:
    """How far a server is from a reference at each position: the mean of |log p_server - log p| over its tokens.

    Shapes:  reference (T, V) log-probabilities -> (T,) nats, weighted by the server's probabilities; NaN where one of
             the two said nothing
    Raises:  ValueError as `told`, or for a reference of another length
    """
    sums = position_sums(seen, reference, reference)
    return np.divide(sums[:, 2], sums[:, 4], out=np.full(len(sums), np.nan), where=sums[:, 4] > 0)


def position_sums(seen: Seen, plain: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Sums over its tokens of p s o, p s s, p |o|, p |o - s|, p and p |s|. Shapes:  (T, V) each -> (T, 6)."""
    if plain.ndim != 2 or plain.shape != changed.shape or len(plain) != len(seen.ids):
        raise ValueError(f"Both references are (T, V) with T = {len(seen.ids)}; got {plain.shape} and {changed.shape}.")
    tokens, values = told(seen, plain.shape[1])
    base, other = (np.take_along_axis(x, tokens, axis=1).astype(np.float64) for x in (plain, changed))
    said = ~(np.isnan(values) | np.isnan(base) | np.isnan(other))
    p = np.where(said, np.exp(np.where(said, values, 0)), 0)
    with np.errstate(invalid="ignore"):  # minus infinity from minus infinity: both say never, and agree
        s, o, rest = (np.where(said, np.clip(np.nan_to_num(x, nan=0.0), -CLIP, CLIP), 0)
                      for x in (other - base, values - base, values - other))
    return np.stack([p * s * o, p * s * s, p * abs(o), p * abs(rest), p, p * abs(s)]).sum(axis=2).T


def weigh(seens: Sequence[Seen], plain: Sequence[np.ndarray], changed: Sequence[np.ndarray]) -> Evidence:
    """How far a server agrees with one fault, over several texts.

    plain, changed: log-probabilities (T, V) of the reference for each text, without and with the fault

    Raises:  ValueError as `deviation`, or if there is not one of each for every text
    """
    if not len(seens) == len(plain) == len(changed) or not seens:
        raise ValueError(f"weigh expects the same texts; got {len(seens)}, {len(plain)} and {len(changed)}.")
    sums = np.concatenate([position_sums(*text) for text in zip(seens, plain, changed)])
    sums = sums[sums[:, 4] > 0]
    blocks = np.stack([block.sum(axis=0) for block in np.array_split(sums, BLOCKS)])
    total = blocks.sum(axis=0)
    if not total[1] > 0:
        return Evidence(0.0, np.inf, 1.0, 0.0)
    # (1) the slope of o on s, (2) the same without each block in turn
    beta = total[0] / total[1]
    rest = total - blocks
    without = rest[:, 0] / np.maximum(rest[:, 1], 1e-12 * total[1])
    error = np.sqrt((BLOCKS - 1) / BLOCKS * ((without - without.mean()) ** 2).sum())
    return Evidence(float(beta), float(max(error, 1e-12)), float(total[3] / max(total[2], 1e-12)),
                    float(total[5] / total[4]))


def name_of(evidence: Mapping[str, Evidence], rounding: float) -> str | None:
    """The fault that explains the server best, if one passes the rule.

    rounding: the reference's own mean deviation in bfloat16; a fault that changes less is not asked about
    """
    passed = {name: one for name, one in evidence.items() if one.change > rounding and one.beta > BETA
              and one.beta > ERRORS * one.error and one.left < LEFT}
    return min(passed, key=lambda name: passed[name].left, default=None)


def judge(mean: float, evidence: Mapping[str, Evidence], rounding: Mapping[str, float],
          served_as: str | None = None) -> Verdict:
    """What a server is, from its mean deviation and what was weighed.

    rounding: the reference's own mean deviation in each precision that the server may have ("bfloat16", "q8_0",
    "q4_0" ...), of which bfloat16 is one; the bound is twice that. served_as: the one that it has, if that is known:
    then what exceeds its bound is a fault without a name
    """
    name, precision = name_of(evidence, rounding["bfloat16"]), served_as or "bfloat16"
    bound = 2 * rounding[precision]
    if name is not None:
        one = evidence[name]
        words = (f"as {name}: {1 - one.left:.0%} explained, beta {one.beta:.2f} ± {one.error:.2f}".replace("%", " %"))
        return Verdict("faulty", name, words, mean, bound, one)
    if mean <= bound:
        words = f"{mean:.4f} nats from the reference, within {precision} rounding ({bound:.4f})"
        return Verdict("healthy", None, words, mean, bound, None)
    if np.isnan(mean):
        return Verdict("cannot tell", None, "nothing that the server said could be compared", mean, bound, None)
    if served_as is None:
        kind = min((kind for kind in rounding if mean <= 2 * rounding[kind]), key=rounding.__getitem__, default=None)
        what = (f"{kind} rounding ({2 * rounding[kind]:.4f})" if kind else "the rounding of 2 or 3 bits, "
                f"which is more than can be measured here ({2 * max(rounding.values()):.4f})")
        words = (f"{mean:.4f} nats from the reference: cannot be told from {what}; give the served GGUF as --model, or "
                 "--served-as")
        return Verdict("cannot tell", None, words, mean, bound, None)
    words = f"{mean:.4f} nats from the reference, above {precision} rounding ({bound:.4f}); no known fault explains it"
    return Verdict("faulty", None, words, mean, bound, None)
