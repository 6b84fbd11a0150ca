"""Runs of part A, chapters 1 to 6; and how one is written.

RUNS has one function for each exercise that can be drawn. It is given a function to run (the student's, or the book's;
of a kernel, `emulated.run`), and returns a Table: numbers in rows and columns, which are drawn as cells. A cell of the
student's that differs from the right one gets a frame. Choose a case that shows the idea, not one that a test uses.
Look at the picture of a wrong answer, too: the mistake must be seen at once.
"""

from collections.abc import Callable

import numpy as np

from tutorial.own_run.table import Table

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

def table_of_angles(rope_table: Callable) -> Table:
    """The angles of five pairs at six positions, in degrees."""
    positions = np.array([0, 1, 2, 3, 10, 100])
    cos, sin = rope_table(positions, 10, 1e4)
    return Table(np.degrees(np.arctan2(sin, cos)), [f"position {m}" for m in positions],
                 [f"pair {i}" for i in range(5)], "angles of rope_table, in degrees", "{:.0f}", arrows=True)


def angles(rope: Callable) -> Table:
    """The pair (1, 0), at six positions, turned at four speeds."""
    positions = np.arange(6)
    angle = np.outer(positions, [1, 0.5, 0.2, 0.05])
    turned = rope(np.tile(np.array([1, 0], np.float32), (6, 1, 4)), np.cos(angle).astype(np.float32),
                  np.sin(angle).astype(np.float32), "float32")
    pairs = np.reshape(turned, (6, 4, 2))
    return Table(np.degrees(np.arctan2(pairs[..., 1], pairs[..., 0])), [f"position {m}" for m in positions],
                 [f"pair {i}" for i in range(4)], "angles of the pair (1, 0), in degrees", "{:.0f}", arrows=True)


def order_of_rows(halves_to_pairs: Callable) -> Table:
    """Where the twelve rows of two heads of six go; each row holds its own number."""
    weight = np.arange(12, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    return Table(np.reshape(halves_to_pairs(weight, 6), (12, 3)), [f"head {r // 6}, row {r % 6}" for r in range(12)],
                 [f"column {c}" for c in range(3)], "rows of halves_to_pairs, by their numbers before", "{:.0f}")


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


def loads(load_balancing: Callable) -> Table:
    """Shares and loss of four routers with five experts: even, drifting, all to one, and unsure."""
    even = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]])
    one = np.tile(np.array([[1, 0]]), (5, 1))
    sure = np.zeros((5, 5), np.float32)
    sure[:, 1] = 6
    cases = {"even": (np.zeros((5, 5), np.float32), even), "drifting": (sure / 3, np.where(even == 4, 1, even)),
             "all to 0 and 1, sure": (sure, one), "all to 0 and 1, unsure": (np.zeros((5, 5), np.float32), one)}
    rows = []
    for logits, ids in cases.values():
        loss, shares = load_balancing(logits, ids)
        rows.append([*(100 * np.asarray(shares)), loss])
    return Table(np.array(rows), list(cases), [*(f"% expert {e}" for e in range(5)), "loss"],
                 "shares of five experts, and the loss, for K = 2")


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


RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 1
    # ---- chapter 2
    # ---- chapter 3
    "3.1": attention_weights,
    "3.2": groups_of_texts,
    # ---- chapter 4
    "4.1": table_of_angles,
    "4.2": angles,
    "4.3": order_of_rows,
    # ---- chapter 5
    "5.1": choices,
    "5.2": dispatch,
    "5.3": loads,
    # ---- chapter 6
    "6.2": rows_of_a_cache,
}
