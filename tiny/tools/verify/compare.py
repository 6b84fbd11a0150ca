"""How far two arrays are apart, row by row, and the tolerances of `verify check`: one table for each precision.

The error of a row is the length of the difference, divided by the length of the row. So it does not matter how large
the numbers are, nor that in real models a few tokens are a thousand times as long as the others.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Limits(NamedTuple):
    """How far two arrays may differ: in the worst row and overall; of a sum of two rows, also by the sum's rounding."""

    row: float | np.ndarray
    overall: float
    row_of_sum: float = 0.0
    overall_of_sum: float = 0.0


# An operation on the other implementation's own inputs ("step"), and the whole run from the ids on ("run"). "other" is
# bfloat16 of an implementation that fuses attention or experts, and so rounds at other points.
# Measured, largest share of these in steps and in runs: float32 17 % and 6 %, bfloat16 19 % and 10 %, other 49 % and
# 14 %, over transformers' dumps of tiny-mixtral, tiny-pixtral, mixtral-a, mixtral-b, pixtral-a and a synthetic model
# 1,024 wide with experts of 3,584 (2026-11-23, transformers 5.23.0, torch 2.13.0, NumPy 2.4.6, Xeon with AVX-512).
# Runs have room for the 40 layers of the releases, where those models have 4 at most.
STEPS = {"float32": Limits(5e-6, 5e-6, 2.5e-7, 2.5e-7), "bfloat16": Limits(1e-2, 1e-3, 8e-3, 5e-4),
         "other": Limits(2e-2, 1e-2, 8e-3, 4e-3)}
RUNS = {"float32": Limits(1e-4, 1e-4), "bfloat16": Limits(0.25, 0.1), "other": Limits(0.25, 0.1)}
EXACT = {"embed": Limits(1e-9, 1e-9),  # rows of a table
         "experts": Limits(1e-6, 1e-6)}  # the chosen logits: of two that softmax cannot tell apart either may be chosen
ANGLE = 6e-8  # per position: references form the angles of RoPE in float32, whose product is off by half a unit
PIXELS = 8e-6  # absolute, as in tests/verify/test_pixels.py
# How far a greedy token of theirs may be below our best, and the lead of theirs off ours: nats, or units of a logit.
LEAD = {"float32": 0.01, "bfloat16": 0.5, "other": 0.5}
SHORT = 0.05  # Rows shorter than this part of the middle row are judged as if they had that length.


class Comparison(NamedTuple):
    """One array compared: errors over all numbers, the worst row, and the shares of the tolerances that are used."""

    name: str
    max: float
    mean: float
    relative_l2: float
    cosine: float
    worst: float
    rows: np.ndarray
    overall: float

    @property
    def used(self) -> float:
        """The largest share of the tolerance. Unless it is at most 1, the arrays differ: it can be NaN."""
        return float(np.max([self.rows.max(), self.overall]))


def compare(name: str, ours: np.ndarray, theirs: np.ndarray, limits: Limits,
            scale: np.ndarray | None = None) -> Comparison:
    """Compare two arrays of one shape; the first axis counts rows. NaN and infinity differ from everything.

    scale: the rows by whose length errors are judged, if not theirs. What a layer adds to the residual stream is short
    compared with the stream, and the rounding of the stream is allowed as well.
    """
    a, e = (x.reshape(len(x), -1).astype(np.float64) for x in (ours, theirs))
    odd = ~(np.isfinite(a) & np.isfinite(e))
    a, e = np.where(odd, 0.0, a), np.where(odd, 0.0, e)
    difference = np.where(odd, np.inf, a - e)
    lengths = np.linalg.norm(e, axis=1)
    judged = lengths if scale is None else np.linalg.norm(scale.reshape(len(scale), -1).astype(np.float64), axis=1)
    judged = np.maximum(judged, SHORT * float(np.median(judged)))
    error = np.linalg.norm(difference, axis=1)
    in_sums = 0.0 * lengths if scale is None else lengths
    rows = share(error, limits.row * judged + limits.row_of_sum * in_sums)
    # One wrong number of few weighs more than one of many, so small arrays get a little more.
    part = limits.overall + 2 * np.max(limits.row) / np.sqrt(e.size)
    allowed = part * np.linalg.norm(judged) + limits.overall_of_sum * np.linalg.norm(in_sums)
    overall = float(share(np.linalg.norm(error), allowed))
    both = float(np.linalg.norm(a) * np.linalg.norm(e))
    cosine = float((a * e).sum()) / both if both else 1.0
    size = float(np.linalg.norm(e)) or 1.0
    difference = np.abs(difference)
    return Comparison(name, float(difference.max()), float(difference.mean()), float(np.linalg.norm(error)) / size,
                      cosine, float(share(error, judged).max()), rows, overall)


def share(error, allowed) -> np.ndarray:
    """error / allowed; nothing of nothing is 0, something of nothing infinite."""
    error, allowed = np.asarray(error, np.float64), np.asarray(allowed, np.float64)
    return np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)


def tolerances_of(record: dict) -> str:
    """The name of the tolerances that a file is judged by."""
    eager = record.get("attention", "eager") == "eager" and record.get("experts", "eager") == "eager"
    return "float32" if record["precision"] == "float32" else "bfloat16" if eager else "other"


@dataclass
class ChoiceOfExperts:
    """One token for which two runs chose other experts.

    gap: how far apart the logits of the two experts are; error: how far our logits are from theirs
    """

    row: int
    theirs: list[int]
    ours: list[int]
    gap: float
    error: float
    tie: bool

    @property
    def beyond_rounding(self) -> bool:
        """Whether the logits agree better than the gap, so that the choice itself is wrong."""
        return self.gap > 2 * self.error


@dataclass
class LayerOfExperts:
    """How the choices of experts agree in one layer."""

    layer: int
    rows: int
    equal: int
    differ: list[ChoiceOfExperts]


@dataclass
class Predictions:
    """How the predictions of the next token agree: rows with the same best token, part of the best five, divergence."""

    rows: int
    top1: int
    top5: float
    kl_mean: float
    kl_max: float


def predictions(ours: np.ndarray, theirs: np.ndarray) -> Predictions:
    """How the predictions of the next token agree. Rows that hold NaN or infinity count as different.

    Shapes:  (R, V) each, R = rows
    """
    rows, finite = len(ours), (np.isfinite(ours) & np.isfinite(theirs)).all(axis=1)
    if not finite.any():
        return Predictions(rows, 0, 0.0, float("inf"), float("inf"))
    ours, theirs = ours[finite], theirs[finite]
    own_best, best = (np.argsort(-x, axis=1, kind="stable")[:, :5] for x in (ours, theirs))
    log_p, log_q = (log_softmax(x.astype(np.float64)) for x in (theirs, ours))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    common = [len(np.intersect1d(a, b)) for a, b in zip(own_best, best)]
    return Predictions(rows, int((own_best[:, 0] == best[:, 0]).sum()), sum(common) / rows / min(5, ours.shape[1]),
                       float(divergence.mean()), float(divergence.max()))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """The logarithm of the softmax of each row."""
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def compare_experts(layer: int, ours: np.ndarray, theirs: np.ndarray, own_logits: np.ndarray, logits: np.ndarray,
                    limits: Limits) -> LayerOfExperts:
    """Find the tokens of one layer for which two runs chose other experts.

    It is a tie if rounding alone explains it: the logits agree within the limits, and not better than the gap.

    Shapes:  ours, theirs (R, K); own_logits, logits (R, E), R = rows
    """
    differ, near = [], compare("router_logits", own_logits, logits, limits).rows <= 1
    for row in np.flatnonzero((ours != theirs).any(axis=1)):
        rank = int(np.argmax(ours[row] != theirs[row]))
        gap = float(abs(logits[row, theirs[row, rank]] - logits[row, ours[row, rank]]))
        error = float(np.abs(logits[row] - own_logits[row]).max())
        differ.append(ChoiceOfExperts(int(row), theirs[row].tolist(), ours[row].tolist(), gap, error,
                                      bool(near[row]) and gap <= 2 * error))
    return LayerOfExperts(layer, len(ours), len(ours) - len(differ), differ)
