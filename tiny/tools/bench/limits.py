"""What NumPy's products reach by themselves: the limits that `bench` shows beside the figures of a language model.

A limit is the time of the same products alone, with as many rows as they have in the model, each in the shape that
suits it best, over more weights than the caches hold. With one thread, processor time counts, which holds when others
use the machine too; with more, time on the clock.
"""

import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tiny.attention import block_size
from tiny.experts import FILL

SHORT, TOGETHER = 16, (1, 2, 8)  # tokens of a short prompt; sequences that decode together
POOL = 64 << 20  # numbers that a limit reads: 256 MB, more than the caches of most machines
# The order of x and of the answer, and the number to whose multiples their rows are filled up.
WAYS: tuple[tuple[Any, int], ...] = (("C", 1), ("F", 1), ("F", FILL))

Product = tuple[tuple[int, int], int]  # of W (out, in), weights or keys or values, with x of so many rows


def clock() -> float:
    """Seconds: of this thread if there is only one, else of the clock."""
    return time.thread_time() if os.environ.get("OPENBLAS_NUM_THREADS") == "1" else time.perf_counter()


def ids_for(vocab_size: int, count: int) -> np.ndarray:
    """The prompt of every measurement: random ids, the same for everyone."""
    return np.random.default_rng(1).integers(3, vocab_size, count)


def fastest(shape: tuple[int, int], T: int, repeats: int, pool: np.ndarray) -> float:
    """Seconds of x W^T with T rows, of the order of the answer that is faster. Shapes:  W as `shape`, (out, in)."""
    rows, width = shape
    count = max(1, min(len(pool) // (rows * width), (1 << 34) // (rows * width * T)))
    matrices = pool[: count * rows * width].reshape(count, rows, width)

    def run(order: Any) -> float:
        x, out, times = np.ones((T, width), np.float32, order), np.empty((T, rows), np.float32, order), []
        for _ in range(repeats + 1):
            start = clock()
            for W in matrices:
                np.matmul(x, W.T, out=out)
            times.append(clock() - start)
        return min(times) / count
    return min(run("C"), run("F")) if T > 1 else run("C")


def alone(products: Iterable[Product], repeats: int, pool: np.ndarray) -> float:
    """Seconds of all these products, each in the fastest of WAYS. Every product reads the next weights of the pool.

    As of the model, the median of the repeats counts.
    """
    counts, start = Counter(products), 0
    times: dict[Product, dict[tuple[Any, int], list[float]]] = {product: {} for product in counts}
    for way, product in itertools.product(WAYS * repeats, counts):
        (rows, width), T = product
        start = start if start + rows * width <= len(pool) else 0
        W = pool[start : start + rows * width].reshape(rows, width)
        start += W.size
        order, m = way[0], T + -T % way[1]
        x, out = np.ones((m, width), np.float32, order), np.ones((m, rows), np.float32, order)  # filled, so in memory
        begin = clock()
        np.matmul(x, W.T, out=out)
        times[product].setdefault(way, []).append(clock() - begin)
    return sum(count * min(map(statistics.median, times[product].values())) for product, count in counts.items())


def routed(model: Any, ids: np.ndarray) -> list[list[int]]:
    """How many tokens of a prompt each expert of each layer has; of a dense model, one expert has them all."""
    from tiny.generate import ExpertTrace

    if model.config.moe is None:
        return [[len(ids)]] * model.config.n_layers
    trace = ExpertTrace()
    model(ids, trace=trace, last_only=True)
    return [np.bincount(layer.ravel()).tolist() for layer in trace.layers]


def attention_products(T: int, config: Any) -> list[Product]:
    """Scores, and the weighted average of values, of a prompt of T tokens in one layer, in the model's own blocks."""
    R, d = config.n_heads // config.n_kv_heads, config.head_dim
    step = min(T, block_size(R, T, causal=True))
    seen = [min(first + step, T) for first in range(0, T, step)]  # keys that a block of queries sees
    blocks = [(min(step, T - first) * R, keys) for first, keys in zip(range(0, T, step), seen)]
    return [(shape, rows) for rows, keys in blocks for shape in ((keys, d), (d, keys))] * config.n_kv_heads


def measure_limits(folder: str, prefill: int, repeats: int) -> dict[str, float]:
    """What the products alone would allow: GFLOP/s, GB/s, and the figures of `measure_text`.

    Of a prompt they are all products, with weights and of attention; each expert has the tokens that the router sends
    it, and "alike" is the same if every expert had as many. Of sequences that go on, the limit is to read each weight
    once that a step needs, at the rate of products of one row; of n tokens, E (1 - (1 - K / E)^n) experts of a layer
    are needed if each is chosen as often as any other.
    """
    import tiny

    model = tiny.load(folder, weights="mapped")
    c = model.config
    E, K = (c.moe.num_experts, c.moe.num_experts_per_tok) if c.moe else (1, 1)
    query, kv = (c.n_heads * c.head_dim, c.dim), (c.n_kv_heads * c.head_dim, c.dim)
    attention, head = [query, kv, kv, query[::-1]], (c.vocab_size, c.dim)
    expert = [(c.hidden_dim, c.dim), (c.hidden_dim, c.dim), (c.dim, c.hidden_dim)]
    pool = np.random.default_rng(0).standard_normal(max(POOL, c.vocab_size * c.dim), np.float32)
    each = max(1, prefill * K // E)  # tokens of an expert

    def prompt(layers: list[list[int]]) -> float:
        products = [(head, 1)] + [(shape, prefill) for shape in attention] * c.n_layers
        products += attention_products(prefill, c) * c.n_layers
        products += [(shape, count) for layer in layers for count in layer if count for shape in expert]
        return alone(products, repeats, pool)

    one = {shape: fastest(shape, 1, repeats, pool) for shape in {head, *attention, *expert}}

    def step(count: int) -> float:
        needed = E * (1 - (1 - K / E) ** count)
        return one[head] + c.n_layers * (sum(one[s] for s in attention) + needed * sum(one[s] for s in expert))

    itemsize = model.weights["output.weight"].dtype.itemsize
    return {"square": 2 * 2048**3 / fastest((2048, 2048), 2048, repeats, pool) / 1e9,
            "expert": 6 * each * c.dim * c.hidden_dim / sum(fastest(s, each, repeats, pool) for s in expert) / 1e9,
            "row": 12 * c.dim * c.hidden_dim / sum(one[s] for s in expert) / 1e9, "stored": itemsize / 4,
            "prefill": prefill / prompt(routed(model, ids_for(c.vocab_size, prefill))),
            "alike": prefill / prompt([[each] * E] * c.n_layers), "short": step(SHORT),
            **{f"decode {count}": count / step(count) for count in TOGETHER}}
