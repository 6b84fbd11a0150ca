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

def tokens_of_words(merge: Callable) -> Table:
    """Six words over the places of their bytes: at each byte the length of the token that it came into."""
    tokens = [b"in", b"er", b"th", b"we", b"ing", b"ther", b"gh", b"igh", b"eigh", b" w", b" weigh", b"aa", b"aaaa"]
    words = ["weather", " weighing", " wing", "thinner", "aaaaaaa", "ether"]
    ids = {token: 1000 + n for n, token in enumerate([*(bytes([byte]) for byte in range(256)), *tokens])}
    spelt = {id: token for token, id in ids.items()}
    values = np.full((len(words), max(map(len, words))), np.nan)
    for row, word in zip(values, words):
        lengths = [len(spelt.get(id, b"")) for id in merge(word.encode(), ids)]
        each = np.repeat(lengths, lengths)[: len(row)]
        row[: len(each)] = each
    return Table(values, [f"\u201c{word}\u201d" for word in words], [f"byte {n}" for n in range(values.shape[1])],
                 "bytes in the token that each byte came into", "{:.0f}")


def bytes_one_by_one(read_bytes: Callable) -> Table:
    """Bytes come one by one, the last one with `final`: what they give, and what waits then."""
    came = [*"a\u00e9\U0001f989".encode(), 0xE2, 0x82, 0x41, 0xFF, 0xC0, 0xE2, 0x82]
    held, rows = b"", []
    for n, byte in enumerate(came):
        text, held = read_bytes(held + bytes([byte]), n == len(came) - 1)
        marks = text.count("\ufffd")
        rows.append([len(text) - marks, marks, len(held)])
    return Table(np.array(rows, float), [f"{byte:02X} comes" for byte in came],
                 ["characters", "marks U+FFFD", "bytes that wait"], "bytes one by one, the last one with final",
                 "{:.0f}")


# ---- chapter 2

def normed_rows(rms_norm: Callable) -> Table:
    """Five tokens: one again a hundred times as large, and a thousandth of it, where eps counts; one of zeros."""
    x = np.array([[1, -1, 1, 1], [2, 4, 6, 8], [200, 400, 600, 800], [0.002, 0.004, 0.006, 0.008], [0, 0, 0, 0]])
    with np.errstate(all="ignore"):
        y = rms_norm(x.astype(np.float32), np.array([1, 1, 1, 2], np.float32), 1e-5)
    return Table(y, ["(1, -1, 1, 1)", "(2, 4, 6, 8)", "a hundred times that", "a thousandth of (2, 4, 6, 8)", "zeros"],
                 [f"column {n}, weight {w}" for n, w in enumerate((1, 1, 1, 2))], "tokens after rms_norm, eps 0.00001")


def gates(feed_forward: Callable) -> Table:
    """What comes out of a network with one hidden number, for numbers of the gate and of the other branch."""
    gate, other = [-100, -4, -1, 0, 1, 4, 100], [-2, -1, 0, 1, 2]
    x = np.array([[g, u] for g in gate for u in other], np.float32)
    w1, w3, w2 = (np.array(rows, np.float32) for rows in ([[1, 0]], [[0, 1]], [[1], [0]]))
    with np.errstate(all="ignore"):
        y = feed_forward(x, w1, w2, w3)
    return Table(np.reshape(y, (len(gate), len(other), 2))[..., 0], [f"w1 x is {g}" for g in gate],
                 [f"w3 x is {u}" for u in other], "the gate times the other branch")


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
    cos, sin = (of(angle).astype(np.float32) for of in (np.cos, np.sin))
    turned = rope(np.tile(np.array([1, 0], np.float32), (6, 1, 4)), cos, sin, "float32")
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

def stream_of_a_layer(decoder_layer: Callable) -> Table:
    """What leaves a layer, if one of its parts answers 0 and if both work; three tokens of four numbers."""
    import tiny.ops
    from tiny.config import Config, MoeConfig
    from tiny.decoder import ForwardPass
    from tiny.files.weights import expected_shapes
    from tiny.rope import rope_table

    config = Config(dim=4, n_layers=1, head_dim=2, hidden_dim=6, n_heads=2, n_kv_heads=1, norm_eps=1e-5, vocab_size=5,
                    rope_theta=1e4, max_seq_len=8, moe=MoeConfig(3, 2))
    rng = np.random.default_rng(61)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(config).items()}
    x = np.round(4 * rng.standard_normal((3, 4))).astype(np.float32)
    run = ForwardPass([3], *rope_table(np.arange(3), 2, 1e4), None, None, tiny.ops, "float32")
    cases = {"x itself: both silent": (".wo.", ".w2."), "experts silent": (".w2.",), "attention silent": (".wo.",),
             "both": ()}
    values = []
    for silent in cases.values():
        part = {name: 0 * w if any(s in name for s in silent) else w for name, w in weights.items()}
        values.append(np.reshape(decoder_layer(x.copy(), 0, part, config, run), (3, 4)))
    return Table(np.concatenate(values), [f"{case}, token {t}" for case in cases for t in range(3)],
                 [f"number {n}" for n in range(4)], "the stream after a layer", "{:.1f}")


def rows_of_a_cache(append: Callable) -> Table:
    """A cache of 4 and 3 rows after two calls: texts of 2 and 1 tokens, then one token each."""
    from tiny.kv_cache import KVCache

    cache = KVCache(2, 1, 1, [4, 3])
    cache.keys[:] = cache.values[:] = np.nan
    number = 1.0
    for lengths in ([2, 1], [1, 1]):
        new = np.arange(number, number + sum(lengths), dtype=np.float32).reshape(-1, 1, 1)
        for layer in range(2):
            spans = append(cache, layer, (1 - 2 * layer) * new, (10 - 20 * layer) * new, lengths)
        cache.advance(lengths)
        number += sum(lengths)
    seen = np.full(7, np.nan)
    for n, (start, stop) in enumerate(spans):
        seen[start:stop] = n
    columns = [cache.keys[0, :, 0, 0], cache.values[0, :, 0, 0], cache.keys[1, :, 0, 0], cache.values[1, :, 0, 0], seen]
    return Table(np.stack(columns, axis=1), [f"row {n}" for n in range(7)],
                 ["keys, layer 0", "values", "keys, layer 1", "values", "seen by text"],
                 "rows of a cache: tokens 1 to 5; in layer 1 keys are -1 to -5, values -10 to -50", "{:.0f}")


def places(positions_of: Callable) -> Table:
    """Positions of three texts in three calls: prompts of 4, 1 and 2 tokens, then chunks, then one token each."""
    calls = ([0, 0, 0], [4, 1, 2]), ([4, 1, 2], [2, 3, 1]), ([6, 4, 3], [1, 1, 1])
    values = np.full((9, 4), np.nan)
    for n, (past, lengths) in enumerate(calls):
        rest = np.reshape(positions_of(past, lengths), sum(lengths))
        for text, length in enumerate(lengths):
            values[3 * n + text, :length], rest = rest[:length], rest[length:]
    return Table(values, [f"call {n}, text {text}: {past[text]} in the cache" for n, (past, _) in enumerate(calls)
                          for text in range(3)], [f"new token {n}" for n in range(4)], "positions", "{:.0f}")


def nucleus(sample: Callable) -> Table:
    """Which of five tokens are ever drawn, 150 draws each, at three temperatures and three top-p."""
    shares = [0.15, 0.4, 0.05, 0.3, 0.1]
    logits = np.log(shares).astype(np.float32)
    cases = [(temperature, top_p) for temperature in (1.0, 2.0, 0.5) for top_p in (0.3, 0.6, 0.9)]
    values = np.full((len(cases), len(shares)), np.nan)
    for row, (temperature, top_p) in enumerate(cases):
        for seed in range(150):
            values[row, sample(logits.copy(), temperature, top_p, np.random.default_rng(seed))] = 1
    return Table(values, [f"temperature {temperature:g}, top-p {top_p:g}" for temperature, top_p in cases],
                 [f"share {share:g}" for share in shares], "which tokens are drawn (1: it is, at times)", "{:.0f}")


def costs(token_cost: Callable) -> Table:
    """Gigabytes and billions of operations of one token, of two models, at the beginning of a text and far behind."""
    from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

    models = {"Mixtral 8x7B": MIXTRAL_8X7B, "Pixtral 12B": PIXTRAL_12B}
    places = 0, 4095, 32767
    values = [[number / 1e9 for past in places for number in token_cost(config, past, 2)] for config in models.values()]
    columns = [f"{what}, {past:,} before" for past in places for what in ("GB", "G ops")]
    return Table(np.array(values), list(models), columns,
                 "gigabytes and billions of operations of one token, numbers of 2 bytes")


RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 1
    "1.1": tokens_of_words,
    "1.2": bytes_one_by_one,
    # ---- chapter 2
    "2.1": normed_rows,
    "2.2": gates,
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
    "6.1": stream_of_a_layer,
    "6.2": rows_of_a_cache,
    "6.3": places,
    "6.4": nucleus,
    "6.5": costs,
}
