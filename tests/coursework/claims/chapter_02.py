"""The numbers of chapter 2, each from where it comes: the release of Mixtral, and the formulas."""

import math
from itertools import pairwise

import numpy as np

import tiny
from tiny.numerics import silu
from tiny.tools.releases import MIXTRAL_8X7B as MIXTRAL
from tutorial.drawings.chapter_02 import LAYER, SHOWN, normed, size, streams

D, F = MIXTRAL.dim, MIXTRAL.hidden_dim
model = tiny.load("tiny-mixtral")
_, rows, pieces = streams(model)
sizes, read = (np.stack([size(x) for x in found]) for found in (rows, normed(model, rows)))
lowest = np.linspace(-2, -1, 10_001, dtype=np.float32)
assert pieces[0] == "<s>" and MIXTRAL.n_layers == 32 and round(2**32 / 1e9) == 4
assert round(sizes[2, 0] / np.median(sizes[2, 1:])) == 7 and round(sizes[-1].max() - 0.5) == 10
assert [f"{x:.1f}" for x in (sizes[0].min(), sizes[0].max(), *sizes[[2, 4], 0])] == ["0.1", "0.1", "1.7", "4.1"]
assert 0.2 < read[0].min() < read[0].max() < 0.35 and 2.8 < read[-1].min() and [
    round(x) for x in (np.median(read[-1]), np.median(10 * read[0]))] == [3, 3]

with np.errstate(over="ignore"):
    assert np.isinf(np.exp(np.float32([100, 200]))).all()
NUMBERS = {"100", "200", "0.001", "0.00001", "0.000001", "1.00001", "1.000005", f"{D:,}", f"{F:,}", f"{3 * D * F:,}",
           f"{2 * D:,}",
           f"{math.exp(-1):.3f}", f"{1 / (1 + math.exp(-1)):.3f}", f"{3 / (1 + math.exp(-1)):.3f}", f"{65**0.5:.2f}",
           f"{0.001 / 0.00101:.3f}", f"{math.sqrt(1e-6 + 1e-5):.5f}", f"{0.001 / math.sqrt(1e-6 + 1e-5):.3f}",
           "0.1", "0.3", f"{sizes[2, 0]:.1f}", f"{sizes[-1].min():.1f}", f"{-silu(lowest).min():.3f}",
           f"{-lowest[np.argmin(silu(lowest))]:.2f}",
           *(f"{x[SHOWN]:.2f}" for x in (*sizes[2 * LAYER : 2 * LAYER + 3], *read[2 * LAYER : 2 * LAYER + 2])),
           *(f"{size(b - a)[SHOWN]:.2f}" for a, b in pairwise(rows[2 * LAYER : 2 * LAYER + 3]))}
