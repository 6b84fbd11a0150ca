"""What `bench` measures of a language model, each in a fresh process, and the table that it shows."""

import cProfile
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tiny.tools.bench.limits import SHORT, TOGETHER, clock, ids_for
from tiny.tools.bench.rounds import spent


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """The median time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times[1:])


def measure_text(folder: str, mode: str, prefill: int, decode: int, repeats: int) -> dict[str, Any]:
    """Rates of a prompt and of sequences that go on, seconds of a short prompt, the first token, and peak memory.

    Where the time of the prompt goes is measured in a run of its own, under the profiler.
    """
    import tiny
    from tiny.generate import run_finite
    from tiny.tools.session import peak_memory

    model = tiny.load(folder, weights=mode)
    ids = ids_for(model.config.vocab_size, max(prefill, SHORT * max(TOGETHER)))
    run_finite(model, ids[:SHORT], last_only=True)
    found: dict[str, Any] = {"first_token": time.time(), "first_token_memory": peak_memory()}

    def prompt(count: int) -> Callable[[], Any]:
        cache = model.new_cache(count)

        def run() -> None:
            for slot in cache.slots:
                slot.length = 0
            run_finite(model, ids[:count], cache=cache, last_only=True)
        return run

    def together(count: int) -> float:
        cache = model.new_cache([SHORT + (repeats + 1) * decode] * count)
        logits = run_finite(model, ids[: SHORT * count], cache=cache, lengths=[SHORT] * count, last_only=True)

        def run() -> None:
            nonlocal logits
            for _ in range(decode):
                logits = run_finite(model, logits.argmax(axis=1), cache=cache, lengths=[1] * count, last_only=True)
        return count * decode / seconds(run, repeats)

    long = prompt(prefill)
    found |= {"prefill": prefill / seconds(long, repeats), "short": seconds(prompt(SHORT), repeats),
              "parts": parts(long)}
    return found | {f"decode {count}": together(count) for count in TOGETHER} | {"memory": peak_memory()}


def parts(run: Callable[[], Any]) -> dict[str, float]:
    """Shares of the time of a prompt, in percent of the call, by what was computed."""
    profile = cProfile.Profile(clock)
    profile.runcall(run)
    total = Counter(spent(profile))
    found = {"products with weights": total["product"], "scores and values": total["attention"] - total["softmax"],
             "tokens of experts taken and added": total["experts"] - total["feed_forward"],
             "silu": total["silu"], "softmax": total["softmax"], "norms and sums": total["rms_norm"] + total["add"],
             "rope": total["rope"]}
    found["the rest"] = total["run_finite"] - sum(found.values())
    return {name: 100 * value / total["run_finite"] for name, value in found.items()}


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
            if name == "resident" and key == "prefill":
                rows += [(f"- {part}", share, "%", "of its time") for part, share in run["parts"].items()]
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
             ("limit: prefill, experts used alike", limit["alike"], "tokens/s", "the same, each with as many tokens"),
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
