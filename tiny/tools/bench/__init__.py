"""The command `bench`: prefill and decode speed of one checkpoint, beside the limits of the machine and a peer.

Every measurement runs in a fresh process, in turns, with the same number of threads, so that ratios come from the same
minutes. Without `--model` a synthetic Mixtral of 0.8 billion parameters is written once to runs/bench.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.bench.rounds import rounds, show, synthetic
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.terminal import Parser, check_numbers
from tiny.tools.token_cost import token_cost

RECORD = Path(__file__).parents[3] / "tutorial/pages/records/bench.json"


def ids_for(vocab_size: int, count: int) -> np.ndarray:
    """The prompt of every measurement: random ids, the same for everyone."""
    return np.random.default_rng(1).integers(3, vocab_size, count)


def measure_text(folder: str, mode: str, prefill: int, decode: int, repeats: int) -> dict:
    """Run in a fresh process: seconds to the first token, then tokens/s of prefill and of decode, and peak memory."""
    import tiny
    from tiny.generate import run_finite
    from tiny.tools.session import peak_memory

    model = tiny.load(folder, weights=mode)
    ids = ids_for(model.config.vocab_size, prefill)
    cache = model.new_cache(prefill + (repeats + 1) * decode)
    run_finite(model, ids[:16], last_only=True)
    first, memory = time.time(), peak_memory()
    prefills, decodes = [], []
    for _ in range(repeats + 1):
        for slot in cache.slots:
            slot.length = 0
        start = time.perf_counter()
        logits = run_finite(model, ids, cache=cache, last_only=True)
        prefills.append(prefill / (time.perf_counter() - start))
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(decode):
            logits = run_finite(model, [int(logits[-1].argmax())], cache=cache, last_only=True)
        decodes.append(decode / (time.perf_counter() - start))
    return {"first_token": first, "first_token_memory": memory, "prefill": statistics.median(prefills[1:]),
            "decode": statistics.median(decodes[1:]), "memory": peak_memory()}


def limits(folder: str, repeats: int) -> dict:
    """What NumPy's BLAS reaches here: GFLOP/s of products, GB/s of products with one row, at the model's own shapes."""
    import tiny

    config = tiny.load(folder, weights="mapped").config
    read = token_cost(config, past=0, itemsize=1)[0]  # weights that one token multiplies with, and its row of the cache
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 2048, 2048), np.float32)
    count = max(2, (256 << 20) // (4 * config.hidden_dim * config.dim))  # more weights than the caches hold
    matrices = [rng.standard_normal((config.hidden_dim, config.dim), np.float32) for _ in range(count)]
    rows = rng.standard_normal((128, config.dim), np.float32)  # the tokens of one of 8 experts, of 512

    def rate(run, work):
        times = []
        for _ in range(repeats + 2):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return work / min(times) / 1e9

    return {"square": rate(lambda: left @ right.T, 2 * 2048**3),
            "expert": rate(lambda: [rows @ w.T for w in matrices], 2 * 128 * count * matrices[0].size),
            "row": rate(lambda: [rows[:1] @ w.T for w in matrices], count * matrices[0].nbytes),
            "read": read, "read_by_prompt": read - config.vocab_size * config.dim}


def table_rows(result: dict[str, dict], prefill: int) -> list[dict]:
    """The rows that are shown: what, value, unit, note."""
    limit, ours, mapped = result["limits"], result["resident"], result["mapped"]
    rows = [("prefill", ours["prefill"], "tokens/s", f"{prefill} tokens, weights resident in float32"),
            ("decode", ours["decode"], "tokens/s", "batch 1, weights resident in float32"),
            ("prefill, mapped", mapped["prefill"], "tokens/s", "weights stay bfloat16 in the file"),
            ("decode, mapped", mapped["decode"], "tokens/s", "weights stay bfloat16 in the file"),
            ("first token, mapped", mapped["first_token"], "s", "cold process, file in the page cache, 16 tokens"),
            ("memory at first token, mapped", mapped["first_token_memory"] / 1e6, "MB", "peak, file pages included"),
            ("peak memory, mapped", mapped["memory"] / 1e6, "MB", "over the whole run, file pages included"),
            ("limit: products", limit["square"], "GFLOP/s", "NumPy's BLAS, 2048 x 2048 x 2048"),
            ("limit: products of an expert", limit["expert"], "GFLOP/s", "128 tokens"),
            ("limit: products of one row", limit["row"], "GB/s", "float32 weights read from memory"),
            ("limit: prefill", 1e9 * limit["square"] / 2 / limit["read_by_prompt"], "tokens/s",
             "all products at the first limit"),
            ("limit: decode", 1e9 * limit["row"] / 4 / limit["read"], "tokens/s", "all weights at the limit of a row")]
    if peer := result.get("transformers"):
        rows += [("transformers: prefill", peer["prefill"], "tokens/s", "float32, sdpa, its default experts"),
                 ("transformers: decode", peer["decode"], "tokens/s", "float32, sdpa, its default experts"),
                 ("ratio of prefill", ours["prefill"] / peer["prefill"], "x", "ours over transformers"),
                 ("ratio of decode", ours["decode"] / peer["decode"], "x", "ours over transformers")]
    others = max(run["other_cores"] for run in result.values())
    rows.append(("other load", others, "cores", "the most that other processes used meanwhile"))
    return [{"what": what, "value": round(value, 2), "unit": unit, "note": text} for what, value, unit, text in rows]


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = Parser(prog="python -m tiny bench", description=__doc__)
    parser.add_argument("--vision", action="store_true", help="measure a vision encoder of the real width instead")
    parser.add_argument("--model", help="a checkpoint; without it, a synthetic one of 0.8 billion parameters")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--decode", type=int, default=16, help="tokens generated at a time")
    parser.add_argument("--repeats", type=int, default=3, help="measurements in a process; the median counts")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, in turns")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has torch and transformers: measure them too")
    parser.add_argument("--save", action="store_true", help="keep the figures for tutorial/reference/speed.md")
    parser.add_argument("--child", choices=("resident", "mapped", "two", "limits"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    check_numbers(args, dict.fromkeys(("threads", "prefill", "decode", "repeats", "rounds"), (1, 2**20)))
    if args.peer and shutil.which(args.peer) is None:
        raise TinyError(f"{args.peer} is not a program.", "Give --peer a Python: its path, or python3.")
    return args


def main(argv: list[str]) -> int:
    """Run the command; returns the exit status."""
    args = parse(argv)
    if args.vision:
        from tiny.tools.bench import vision

        return vision.main(args)
    if args.child:
        result = limits(args.model, args.repeats) if args.child == "limits" else measure_text(
            args.model, args.child, args.prefill, args.decode, args.repeats)
        print(json.dumps(result))
        return 0
    folders = {layout: args.model or synthetic(layout) for layout in (("mistral", "hf") if args.peer else ("mistral",))}
    sizes = [f"--{name}={getattr(args, name)}" for name in ("prefill", "decode", "repeats")]
    ours = [sys.executable, "-m", "tiny", "bench", "--model", str(folders["mistral"]), *sizes, "--child"]
    commands = {name: [*ours, name] for name in ("resident", "mapped", "limits")}
    if args.peer:
        script = str(Path(__file__).parent / "peer_text.py")
        commands["transformers"] = [args.peer, "-I", script, str(folders["hf"]), *sizes]
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "kernel": blas_kernel(),
              "versions": {"python": platform.python_version(), "numpy": np.__version__}, "threads": {}}
    for threads in args.threads:
        result = rounds(commands, threads, args.rounds)
        record["versions"] |= result.get("transformers", {}).pop("versions", {})
        record["threads"][str(threads)] = {"rows": table_rows(result, args.prefill), "raw": result}
        show(record, threads)
    if args.save:
        RECORD.parent.mkdir(exist_ok=True)
        write_whole(RECORD, json.dumps(record, indent=1) + "\n")
    return 0
