"""Runs of part C, chapters 10 to 12."""

from collections.abc import Callable

import numpy as np

from tutorial.own_run.table import Table

# ---- chapter 10

def norm_gradients(rms_norm_backward: Callable) -> Table:
    """The gradients of two short tokens and a long one, and that of the weight."""
    x = np.array([[1, 2, 2, 1], [1, -1, 1, -1], [10, 20, 0, 10]], np.float64)
    dout = np.array([[1, 0, 0, 0], [1, -1, 1, -1], [5, 5, 5, 5]], np.float64)
    dw = np.full(4, np.nan)
    dx = rms_norm_backward(dout, x, np.array([1, 2, 1, 0.5]), 0.1, dw)
    return Table(np.vstack([np.reshape(dx, (3, 4)), dw]), [*(f"dx, token {t}" for t in range(3)), "dw"],
                 [f"number {i}" for i in range(4)], "gradients of x and of the weight (hatched: not a number)")


# ---- chapter 11

def sums_of_threads(run: Callable) -> Table:
    """The sum that some threads of four warps have, where thread n brings n + 1: 1 + 2 + ... + 128 = 8,256."""
    x = np.repeat(np.sqrt(np.arange(1, 129, dtype=np.float32) / 4), 4)[None]
    arguments = [x, np.ones(512, np.float32), np.full_like(x, np.nan), np.int32(512), np.float32(0)]
    out = run("kernels/rms_norm.cu", "rms_norm_v2", (1,), (128,), arguments, ("STORE=float", "WEIGHT=float"))[2]
    with np.errstate(all="ignore"):
        sums = 512 / (out[0, ::4] / x[0, ::4]).astype(np.float64) ** 2
    lanes = [0, 1, 2, 15, 16, 30, 31]
    return Table(sums.round().reshape(4, 32)[:, lanes], [f"warp {n}" for n in range(4)], [f"lane {n}" for n in lanes],
                 "sums that threads get: thread n brings n + 1", "{:.0f}")


def turned_corners(run: Callable) -> Table:
    """Some numbers of a turned matrix of 34 x 40 numbers, tiles and edges: x counts 0, 1, 2 and so on, row by row."""
    x = np.arange(34 * 40, dtype=np.float32).reshape(34, 40)
    out = run("tutorial/drawings/turn.cu", "turn_matrix", (2, 2), (256,),
              [x, np.full((40, 34), np.nan, np.float32), np.int32(34), np.int32(40)])[1]
    rows, columns = [0, 1, 31, 32, 39], [0, 1, 2, 31, 32, 33]
    return Table(out[np.ix_(rows, columns)].astype(np.float64), [f"y[{r}]" for r in rows], [f"[{c}]" for c in columns],
                 "numbers of y: x has 0 to 39 in its first row (hatched: not written)", "{:.0f}")


def running_softmax(run: Callable) -> Table:
    """Averages of values, and the logarithms of the sums of weights: two heads, two rounds of 256 keys."""
    cases = {"equal": (0.0, 0.0), "rising": (0.0, 2.0), "falling": (2.0, 0.0), "high": (500.0, 500.0)}
    found, D = [], 8
    for first, second in cases.values():
        keys, values = np.zeros((512, 1, D), np.float32), np.zeros((512, 1, D), np.float32)
        keys[:256, 0, :2], keys[256:, 0, :2] = first, second
        keys[:, 0, 1] /= 2
        values[:256, 0, 0], values[256:, 0, 0] = 1, 2
        q = np.sqrt(np.float32(D)) * np.eye(2, D, dtype=np.float32)[None]
        *_, partial, peaks = run(
            "kernels/attention_decode.cu", "attention_decode_v2", (1, 1, 1), (128,),
            [q, keys, values, np.array([[0, 512]], np.int32), np.full((1, 1, 2, D), np.nan, np.float32),
             np.full((1, 1, 2, 2), np.nan, np.float32), np.int32(1)], ("STORE=float", f"HEAD_DIM={D}", "GROUP=2"))
        with np.errstate(all="ignore"):
            averages, sums = partial[0, 0, :, 0] / peaks[0, 0, :, 1], peaks[0, 0, :, 0] + np.log(peaks[0, 0, :, 1])
        found.append(np.stack([averages, sums], axis=1).reshape(-1).astype(np.float64))
    return Table(np.array(found), [f"{name} scores" for name in cases],
                 [f"head {h}, {what}" for h in (0, 1) for what in ("average", "log of sum")],
                 "values are 1, then 2: their averages (hatched: not a number)")


# ---- chapter 12

def quarter_steps(nearest_bfloat16: Callable) -> Table:
    """Where numbers between two neighbours go: 0 to 2 steps away from where a column begins, in quarters."""
    starts = np.array([1, -1, 2 - 2.0**-7, 2.0**-133])
    steps = np.array([2.0**-7, -(2.0**-7), 2.0**-7, 2.0**-133])
    away = np.arange(9)[:, None] / 4
    x = np.vstack([starts + away * steps, np.full(4, np.nan)]).astype(np.float32)
    x.view(np.uint32)[-1] = 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001  # NaN has many patterns
    with np.errstate(all="ignore"):
        found = np.asarray(nearest_bfloat16(x), np.float64)
        steps_away = np.vstack([(found[:-1] - starts) / steps, found[-1]]) + 0.0  # no minus zero
    return Table(steps_away, [*(f"{n:.2f} steps away" for n in away[:, 0]), "NaN"],
                 ["from 1", "from -1", "from a step below 2", "from the least"],
                 "where the nearest bfloat16 is, in steps (hatched: not a number)")


RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 10
    "10.1": norm_gradients,
    # ---- chapter 11
    "11.1": sums_of_threads,
    "11.2": turned_corners,
    "11.3": running_softmax,
    # ---- chapter 12
    "12.1": quarter_steps,
}
