"""How far two arrays are apart, row by row, and the tolerances of `verify check`: one table for each precision.

The error of a row is the length of the difference, divided by the length of the row. So it does not matter how large
the numbers are, nor that in real models a few tokens are a thousand times as long as the others.
"""

from typing import NamedTuple

import numpy as np


class Limits(NamedTuple):
    """What an array may differ by: the worst row, all rows together; for a sum of two rows also the sum's rounding."""

    row: float | np.ndarray
    whole: float
    row_of_sum: float = 0.0
    whole_of_sum: float = 0.0


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
SHORT = 0.05  # Rows shorter than this part of the middle row count as so long.


class Comparison(NamedTuple):
    """What is said of one array: errors over all numbers, the worst row, and the shares of the tolerances."""

    name: str
    max: float
    mean: float
    relative_l2: float
    cosine: float
    worst: float
    rows: np.ndarray
    whole: float

    @property
    def used(self) -> float:
        """The largest share of the tolerance; above 1 the arrays differ."""
        return max(float(self.rows.max()), self.whole)


def compare(name: str, ours: np.ndarray, theirs: np.ndarray, limits: Limits,
            scale: np.ndarray | None = None) -> Comparison:
    """Compare two arrays of one shape; the first axis counts rows.

    scale: the rows by whose length errors are judged, if not theirs: what a layer adds to the residual stream is short
    beside the stream, whose own rounding is allowed too. One number of few weighs more than one of many.
    """
    a, e = (x.reshape(len(x), -1).astype(np.float64) for x in (ours, theirs))
    odd = ~(np.isfinite(a) & np.isfinite(e))
    wrong = odd & ~((a == e) | np.isnan(a) & np.isnan(e))
    a, e = np.where(odd, 0.0, a), np.where(odd, 0.0, e)
    difference = np.where(wrong, np.inf, a - e)
    lengths = np.linalg.norm(e, axis=1)
    judged = lengths if scale is None else np.linalg.norm(scale.reshape(len(scale), -1).astype(np.float64), axis=1)
    judged = np.maximum(judged, SHORT * float(np.median(judged)))
    error = np.linalg.norm(difference, axis=1)
    in_sums = 0.0 * lengths if scale is None else lengths
    rows = share(error, limits.row * judged + limits.row_of_sum * in_sums)
    whole = limits.whole + 2 * np.max(limits.row) / np.sqrt(e.size)
    whole = share(np.linalg.norm(error), whole * np.linalg.norm(judged) + limits.whole_of_sum * np.linalg.norm(in_sums))
    both = float(np.linalg.norm(a) * np.linalg.norm(e))
    cosine = float((a * e).sum()) / both if both else 1.0
    size = float(np.linalg.norm(e)) or 1.0
    difference = np.abs(difference)
    return Comparison(name, float(difference.max()), float(difference.mean()), float(np.linalg.norm(error)) / size,
                      cosine, float(share(error, judged).max()), rows, float(whole))


def share(error, allowed) -> np.ndarray:
    """error / allowed; nothing of nothing is 0, something of nothing infinite."""
    error, allowed = np.asarray(error, np.float64), np.asarray(allowed, np.float64)
    return np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)


def column(record: dict) -> str:
    """Which column of the tolerances a file is judged by."""
    eager = record.get("attention", "eager") == "eager" and record.get("experts", "eager") == "eager"
    return "float32" if record["precision"] == "float32" else "bfloat16" if eager else "other"


def distribution(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """How the predictions of the next token agree; rows with numbers that are none agree in nothing.

    Shapes:  (R, V) each, R = rows
    """
    rows, finite = len(ours), (np.isfinite(ours) & np.isfinite(theirs)).all(axis=1)
    if not finite.any():
        return {"rows": rows, "top1": 0, "top5": 0.0, "kl_mean": float("inf"), "kl_max": float("inf")}
    ours, theirs = ours[finite], theirs[finite]
    best, second = (np.argsort(-x, axis=1, kind="stable")[:, :5] for x in (ours, theirs))
    log_p, log_q = (x - x.max(axis=1, keepdims=True) for x in (theirs.astype(np.float64), ours.astype(np.float64)))
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (log_p, log_q))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    common = [len(np.intersect1d(a, b)) for a, b in zip(best, second)]
    return {"rows": rows, "top1": int((best[:, 0] == second[:, 0]).sum()),
            "top5": float(sum(common)) / rows / min(5, ours.shape[1]), "kl_mean": float(divergence.mean()),
            "kl_max": float(divergence.max())}


def choices(layer: int, ours: np.ndarray, theirs: np.ndarray, logits: np.ndarray, own: np.ndarray,
            limits: Limits) -> dict:
    """Where two runs chose other experts, by how much their logits told the two apart, and how far ours are from them.

    It is a tie if rounding alone explains it: the logits agree within the limits, and not better than the gap.

    Shapes:  ours (R, K), theirs (R, K), logits (R, E) of theirs, own (R, E) of ours, R = rows
    """
    wrong, near = [], compare("router_logits", own, logits, limits).rows <= 1
    for row in np.flatnonzero((ours != theirs).any(axis=1)):
        rank = int(np.argmax(ours[row] != theirs[row]))
        gap = float(abs(logits[row, theirs[row, rank]] - logits[row, ours[row, rank]]))
        error = float(np.abs(logits[row] - own[row]).max())
        wrong.append({"row": int(row), "theirs": theirs[row].tolist(), "ours": ours[row].tolist(), "gap": gap,
                      "error": error, "tie": bool(near[row]) and gap <= 2 * error})
    return {"layer": layer, "rows": len(ours), "equal": len(ours) - len(wrong), "differ": wrong}
