"""Pictures of a student's own run: what their function makes of a small case, beside what is right.

RUNS has one function for each exercise that can be drawn. It is given a function to run (the student's, or the book's;
of a kernel, `emulated.run`), and returns a Table: numbers in rows and columns, which are drawn as cells. A cell of the
student's that differs from the right one gets a frame. Choose a case that shows the idea, not one that a test uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LIGHT = "#fafafa"


@dataclass(frozen=True)
class Table:
    """A run in numbers: values (rows, columns), NaN where there is nothing; names of rows and columns, and what it is.

    `digits` is how a number is written; with `arrows` a number is an angle in degrees and drawn as one, too.
    """

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    digits: str = "{:.2f}"
    arrows: bool = False


# ---- chapter 1

# ---- chapter 2

# ---- chapter 3

def attention_weights(attend: Callable) -> Table:
    """Weights of three queries of two heads over five keys: of five positions, the queries are the last three."""
    rng = np.random.default_rng(3)
    q, keys = rng.standard_normal((3, 2, 5), np.float32), rng.standard_normal((5, 5), np.float32)
    weights = attend(q, keys, np.eye(5, dtype=np.float32), np.empty(30, np.float32), True, "float32")
    return Table(np.reshape(weights, (6, 5)), [f"query {i}, head {r}" for i in range(3) for r in range(2)],
                 [f"key {j}" for j in range(5)], "weights of attend: the queries are at positions 2, 3 and 4")


def groups_of_texts(attention: Callable) -> Table:
    """What each query of two texts gets of nine keys, in four heads that share two KV heads."""
    lengths, spans = [2, 3], [(0, 4), (5, 8)]
    keys = np.zeros((9, 2, 9), np.float32)
    values = np.stack([np.eye(9, dtype=np.float32), -np.eye(9, dtype=np.float32)], axis=1)
    answer = attention(np.zeros((5, 4, 9), np.float32), keys, values, lengths, spans, True, "float32")
    shown = np.reshape(answer, (5, 4, 9))[:, [0, 1, 2]].reshape(15, 9)
    return Table(np.where(shown == 0, np.nan, shown),
                 [f"text {0 if i < 2 else 1}, query {i}, head {h}" for i in range(5) for h in range(3)],
                 [f"key {j}" for j in range(9)], "weights of attention: a minus marks those of KV head 1")


# ---- chapter 4

def angles(rope: Callable) -> Table:
    """The pair (1, 0), at six positions, turned at four speeds."""
    positions = np.arange(6)
    angle = np.outer(positions, [1, 0.5, 0.2, 0.05])
    turned = rope(np.tile(np.array([1, 0], np.float32), (6, 1, 4)), np.cos(angle).astype(np.float32),
                  np.sin(angle).astype(np.float32), "float32")
    pairs = np.reshape(turned, (6, 4, 2))
    return Table(np.degrees(np.arctan2(pairs[..., 1], pairs[..., 0])), [f"position {m}" for m in positions],
                 [f"pair {i}" for i in range(4)], "angles of the pair (1, 0), in degrees", "{:.0f}", arrows=True)


# ---- chapter 5

def choices(route: Callable) -> Table:
    """Which two of six experts five tokens choose, and with which weights; the last token has ties."""
    logits = np.array([[0, 2, 1, 0, 0, 0], [-1, -2, -3, -4, -5, -6], [0, 0, 0, 1, 0, 3], [2, 1, 0, 1.5, 0, 0],
                       [1, 0, 1, 0, 1, 0]], np.float32)
    _, ids, weights = route(np.eye(5, dtype=np.float32), np.ascontiguousarray(logits.T), 2)
    return Table(spread(ids, weights, 6), [f"token {t}" for t in range(5)], [f"expert {e}" for e in range(6)],
                 "weights of the chosen experts")


def spread(ids: np.ndarray, weights: np.ndarray, experts: int) -> np.ndarray:
    """A table of tokens and experts with the weights of those that were chosen, NaN elsewhere."""
    values = np.full((len(ids), experts), np.nan)
    np.put_along_axis(values, ids, weights, axis=1)
    return values


def dispatch(experts: Callable) -> Table:
    """How much of each expert's answer each token gets: expert e answers 1 in column e, and 0 elsewhere."""
    E, one = 5, np.ones((1, 5), np.float32)
    gate = np.full((1, E), 20, np.float32)  # silu(20) is 20
    ids = np.array([[0, 1], [1, 0], [3, 1], [4, 3], [3, 4], [0, 4]])
    first = np.array([0.9, 0.6, 0.7, 0.5, 0.8, 0.75], np.float32)
    columns = [np.eye(E, dtype=np.float32)[:, e : e + 1] / 20 for e in range(E)]
    x = np.eye(E, dtype=np.float32)[[0, 1, 2, 3, 4, 0]]
    answer = experts(x, ids, np.stack([first, 1 - first], axis=1), [gate] * E, columns, [one] * E, "float32")
    return Table(answer, [f"token {t} ({a}, {b})" for t, (a, b) in enumerate(ids)], [f"expert {e}" for e in range(E)],
                 "how much of each expert's answer a token gets (its choices)")


# ---- chapter 6

def rows_of_a_cache(append: Callable) -> Table:
    """A cache of 4 and 3 rows after two calls: texts of 2 and 1 tokens, then one token each."""
    from tiny.kv_cache import KVCache

    cache = KVCache(2, 1, 1, [4, 3])
    cache.keys[:] = cache.values[:] = np.nan
    number = 1.0
    for lengths in ([2, 1], [1, 1]):
        new = np.arange(number, number + sum(lengths), dtype=np.float32).reshape(-1, 1, 1)
        for layer in range(2):
            spans = append(cache, layer, (1 - 2 * layer) * new, 10 * new, lengths)
        cache.advance(lengths)
        number += sum(lengths)
    seen = np.full(7, np.nan)
    for n, (start, stop) in enumerate(spans):
        seen[start:stop] = n
    columns = [cache.keys[0, :, 0, 0], cache.values[0, :, 0, 0], cache.keys[1, :, 0, 0], cache.values[1, :, 0, 0], seen]
    return Table(np.stack(columns, axis=1), [f"row {n}" for n in range(7)],
                 ["keys, layer 0", "values", "keys, layer 1", "values", "seen by text"],
                 "rows of a cache: tokens 1 to 5; in layer 1 their keys are -1 to -5", "{:.0f}")


# ---- chapter 7

# ---- chapter 8

# ---- chapter 9

# ---- chapter 10

# ---- chapter 11

# ---- chapter 12

RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 1
    # ---- chapter 2
    # ---- chapter 3
    "3.1": attention_weights,
    "3.2": groups_of_texts,
    # ---- chapter 4
    "4.2": angles,
    # ---- chapter 5
    "5.1": choices,
    "5.2": dispatch,
    # ---- chapter 6
    "6.2": rows_of_a_cache,
    # ---- chapter 7
    # ---- chapter 8
    # ---- chapter 9
    # ---- chapter 10
    # ---- chapter 11
    # ---- chapter 12
}


def differ(mine: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which cells are not the same, to three digits; a NaN is the same as a NaN."""
    return ~np.isclose(mine, right, rtol=1e-3, atol=1e-3, equal_nan=True)


def draw(mine: Table | str, right: Table) -> Any:
    """Two panels: the student's run, or in words why there is none, and the right one."""
    from matplotlib.figure import Figure

    rows, columns = right.values.shape
    size = 2.6 + 2 * 0.95 * max(columns, 4), 1.5 + 0.45 * rows
    figure = Figure(figsize=size, facecolor=LIGHT, layout="constrained")
    ours, theirs = figure.subplots(1, 2)
    wrong = None
    if isinstance(mine, Table) and np.shape(mine.values) == right.values.shape:
        wrong = differ(mine.values, right.values)
        cells(ours, mine, wrong)
        count = int(wrong.sum())
        ours.set_title("yours: no cell differs" if not count else f"yours: {count} of {wrong.size} differ (framed)",
                       fontsize=10)
    else:
        words = mine if isinstance(mine, str) else f"it has the shape {np.shape(mine.values)}"
        ours.set_title("yours", fontsize=10)
        ours.axis("off")
        ours.text(0.5, 0.5, words, ha="center", va="center", wrap=True, transform=ours.transAxes)
    cells(theirs, right, None)
    theirs.set_title("right", fontsize=10)
    figure.suptitle(right.title, fontsize=11)
    return figure


def cells(panel: Any, table: Table, wrong: np.ndarray | None) -> None:
    """Draw the cells of a table: darker is larger, the number is written, empty cells are hatched."""
    values = np.asarray(table.values, np.float64)
    size = np.where(np.isfinite(values), np.abs(values), 0)
    shade = 1 - 0.55 * size / (size.max() or 1)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        panel.add_patch(rectangle(column, row, facecolor=LIGHT if np.isnan(value) else str(shade[row, column]),
                                  edgecolor="0.75", hatch="///" if np.isnan(value) else None, linewidth=0.5))
        if not np.isnan(value):
            panel.text(column, row - 0.22 * table.arrows, table.digits.format(value), ha="center", va="center",
                       fontsize=9)
        if table.arrows and np.isfinite(value):
            angle = np.radians(value)
            panel.annotate("", xy=(column + 0.32 * np.cos(angle), row + 0.18 - 0.25 * np.sin(angle)),
                           xytext=(column, row + 0.18), arrowprops={"arrowstyle": "->"})
        if wrong is not None and wrong[row, column]:
            panel.add_patch(rectangle(column, row, 0.44, fill=False, edgecolor="#b00020", linewidth=2))
    panel.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    panel.set_xticks(range(values.shape[1]), table.columns, rotation=30, ha="right", fontsize=8)
    panel.set_yticks(range(values.shape[0]), table.rows, fontsize=8)
    for side in panel.spines.values():
        side.set_visible(False)


def rectangle(column: float, row: float, half: float = 0.5, **style: Any) -> Any:
    """A square around a cell's middle."""
    from matplotlib.patches import Rectangle

    return Rectangle((column - half, row - half), 2 * half, 2 * half, **style)
