"""What `bench` measures of a language model, each in a fresh process, and the limits of NumPy's products beside it.

A limit is the time of the same products alone, at the model's own shapes and in the order of the answer that suits
each best, over more weights than the caches hold. With one thread, processor time counts, which holds when others use
the machine too; with more, time on the clock.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SHORT, TOGETHER = 16, (1, 2, 8)  # tokens of a short prompt; sequences that decode together
POOL = 64 << 20  # numbers that a limit reads: 256 MB, more than the caches of most machines


def clock() -> float:
    """Seconds: of this thread if there is only one, else of the clock."""
    return time.thread_time() if os.environ.get("OPENBLAS_NUM_THREADS") == "1" else time.perf_counter()


def ids_for(vocab_size: int, count: int) -> np.ndarray:
    """The prompt of every measurement: random ids, the same for everyone."""
    return np.random.default_rng(1).integers(3, vocab_size, count)


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """The median time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times[1:])


def measure_text(folder: str, mode: str, prefill: int, decode: int, repeats: int) -> dict[str, float]:
    """Rates of a prompt and of sequences that go on, seconds of a short prompt, the first token, and peak memory."""
    import tiny
    from tiny.generate import run_finite
    from tiny.tools.session import peak_memory

    model = tiny.load(folder, weights=mode)
    ids = ids_for(model.config.vocab_size, max(prefill, SHORT * max(TOGETHER)))
    run_finite(model, ids[:SHORT], last_only=True)
    found: dict[str, float] = {"first_token": time.time(), "first_token_memory": peak_memory()}

    def prompt(count: int) -> float:
        cache = model.new_cache(count)

        def run() -> None:
            for slot in cache.slots:
                slot.length = 0
            run_finite(model, ids[:count], cache=cache, last_only=True)
        return seconds(run, repeats)

    def together(count: int) -> float:
        cache = model.new_cache([SHORT + (repeats + 1) * decode] * count)
        logits = run_finite(model, ids[: SHORT * count], cache=cache, lengths=[SHORT] * count, last_only=True)

        def run() -> None:
            nonlocal logits
            for _ in range(decode):
                logits = run_finite(model, logits.argmax(axis=1), cache=cache, lengths=[1] * count, last_only=True)
        return count * decode / seconds(run, repeats)

    found |= {"prefill": prefill / prompt(prefill), "short": prompt(SHORT)}
    return found | {f"decode {count}": together(count) for count in TOGETHER} | {"memory": peak_memory()}


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


def limits(folder: str, prefill: int, repeats: int) -> dict[str, float]:
    """What the products alone would allow: GFLOP/s, GB/s, and the figures of `measure_text`.

    Of sequences that go on, the limit is to read each weight once that a step needs, at the rate of products of one
    row; of n tokens, E (1 - (1 - K / E)^n) experts of a layer are needed if each is chosen as often as any other.
    """
    import tiny

    model = tiny.load(folder, weights="mapped")
    c = model.config
    E, K = (c.moe.num_experts, c.moe.num_experts_per_tok) if c.moe else (1, 1)
    query, kv = (c.n_heads * c.head_dim, c.dim), (c.n_kv_heads * c.head_dim, c.dim)
    attention, head = [query, kv, kv, query[::-1]], (c.vocab_size, c.dim)
    expert = [(c.hidden_dim, c.dim), (c.hidden_dim, c.dim), (c.dim, c.hidden_dim)]
    pool = np.random.default_rng(0).standard_normal(max(POOL, c.vocab_size * c.dim), np.float32)
    time_of: dict[tuple, float] = {}

    def total(shapes: list[tuple[int, int]], T: int) -> float:
        for shape in shapes:
            if (shape, T) not in time_of:
                time_of[shape, T] = fastest(shape, T, repeats, pool)
        return sum(time_of[shape, T] for shape in shapes)

    each = max(1, prefill * K // E)  # tokens of an expert
    prompt = total([head], 1) + c.n_layers * (total(attention, prefill) + E * total(expert, each))

    def step(count: int) -> float:
        needed = E * (1 - (1 - K / E) ** count)
        return total([head], 1) + c.n_layers * (total(attention, 1) + needed * total(expert, 1))

    itemsize = model.weights["output.weight"].dtype.itemsize
    return {"square": 2 * 2048**3 / fastest((2048, 2048), 2048, repeats, pool) / 1e9,
            "expert": 6 * each * c.dim * c.hidden_dim / total(expert, each) / 1e9,
            "row": 12 * c.dim * c.hidden_dim / total(expert, 1) / 1e9, "stored": itemsize / 4,
            "prefill": prefill / prompt, "short": step(SHORT),
            **{f"decode {count}": count / step(count) for count in TOGETHER}}


def share_of(limit: dict[str, float], name: str, key: str, value: float) -> str:
    """How much of the limit a figure reaches, for its note. Weights that stay in the file have fewer bytes to read."""
    best = limit[key]
    if name == "mapped" and key != "prefill":
        best = best * limit["stored"] if key == "short" else best / limit["stored"]
    return f"{100 * (best / value if key == 'short' else value / best):.0f} % of the limit"


def table_rows(result: dict[str, dict], prefill: int) -> list[dict]:
    """The rows that are shown: what, value, unit, note."""
    limit, ours, mapped = result["limits"], result["resident"], result["mapped"]
    rows: list[tuple[str, float, str, str]] = []
    for name, run in (("resident", ours), ("mapped", mapped)):
        for what, key, unit in (("prefill", "prefill", "tokens/s"), ("prompt of 16 tokens", "short", "s"),
                                *((f"decode, {count} together", f"decode {count}", "tokens/s") for count in TOGETHER)):
            rows.append((f"{name}: {what.replace(', 1 together', '')}", run[key], unit,
                         share_of(limit, name, key, run[key])))
    rows += [("mapped over resident: prefill", mapped["prefill"] / ours["prefill"], "x", f"{prefill} tokens"),
             ("mapped over resident: decode", mapped["decode 1"] / ours["decode 1"], "x", "one sequence"),
             *((f"{count} sequences over one", ours[f"decode {count}"] / ours["decode 1"], "x", "resident, tokens/s")
               for count in TOGETHER[1:]),
             ("16 tokens: resident over mapped", ours["short"] / mapped["short"], "x", "seconds"),
             ("first token, mapped", mapped["first_token"], "s", "cold process, file in the page cache, 16 tokens"),
             ("memory at first token, mapped", mapped["first_token_memory"] / 1e6, "MB", "peak, file pages included"),
             ("peak memory, mapped", mapped["memory"] / 1e6, "MB", "over the whole run, file pages included"),
             ("limit: products", limit["square"], "GFLOP/s", "NumPy's BLAS, 2048 x 2048 x 2048"),
             ("limit: products of an expert", limit["expert"], "GFLOP/s", "its tokens of the prompt, the faster order"),
             ("limit: products of one row", limit["row"], "GB/s", "float32 weights of an expert, read from memory"),
             ("limit: prefill", limit["prefill"], "tokens/s", "all its products alone"),
             *((f"limit: decode, {count} together", limit[f"decode {count}"], "tokens/s",
                "each needed float32 weight read once") for count in TOGETHER)]
    for name in ("transformers", "transformers, bfloat16", "llama.cpp"):
        if peer := result.get(name):
            rows += [(f"{name}: prefill", peer["prefill"], "tokens/s", peer["note"]),
                     (f"{name}: decode", peer["decode"], "tokens/s", peer["note"]),
                     (f"ours over {name}: prefill", ours["prefill"] / peer["prefill"], "x", "resident"),
                     (f"ours over {name}: decode", ours["decode 1"] / peer["decode"], "x", "resident")]
    others = max(run["other_cores"] for run in result.values())
    rows.append(("other load", others, "cores", "the most that other processes used meanwhile"))
    return [{"what": what, "value": round(value, 3 if unit == "s" else 2), "unit": unit, "note": text}
            for what, value, unit, text in rows]
