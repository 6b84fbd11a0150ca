"""The command `bench --context`: time and memory of a prompt as it grows, in words and with images.

Two narrow models of random weights and the right structure read prompts of four lengths, each in a fresh process: a
Mixtral words, up to its 32,768 tokens; a Pixtral images of 1024 x 1024 pixels, up to 30 of them in 131,072 tokens. What
they hold is what all models of these architectures hold; how fast they are is not. With `--model` a checkpoint reads
words, up to its own context.
"""

import json
import os
import platform
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import Config, MoeConfig, TinyError, VisionConfig
from tiny.system.whole import write_whole
from tiny.tools.bench.rounds import run_child
from tiny.tools.machine import blas_kernel, machine

RECORD = Path(__file__).parents[3] / "tutorial/pages/records/context.json"
WORDS = Config(dim=512, n_layers=2, head_dim=64, hidden_dim=1792, n_heads=8, n_kv_heads=2, norm_eps=1e-5,
               vocab_size=1000, rope_theta=1e6, max_seq_len=32768, moe=MoeConfig(8, 2))
SEES = Config(dim=64, n_layers=1, head_dim=32, hidden_dim=128, n_heads=2, n_kv_heads=1, norm_eps=1e-5, vocab_size=64,
              rope_theta=1e9, max_seq_len=131072, vision=VisionConfig(
                  hidden_size=64, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4,
                  intermediate_size=128, num_hidden_layers=1, num_attention_heads=1, image_token_id=10,
                  max_image_size=1024))
BREAK, END, SIDE = 12, 13, 64  # of an image, and its rows and columns of patches
KINDS = {"words": WORDS, "images": SEES}
ROOM = 200  # tokens of words beside each image


def prompt(kind: str, config: Config, tokens: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ids and pixels of a prompt of so many tokens: random words, or as many images as leave room for some words.

    Shapes:  -> (tokens,), n x (3, 1024, 1024)
    """
    rng = np.random.default_rng(0)
    if kind != "images" or config.vision is None:
        ids = rng.integers(3, config.vocab_size, tokens)
        return np.where(ids == (config.vision.image_token_id if config.vision else -1), 3, ids), []
    image = ([config.vision.image_token_id] * SIDE + [BREAK]) * SIDE
    image[-1] = END
    count = tokens // (len(image) + ROOM)
    pixels = rng.standard_normal((3, config.vision.image_size, config.vision.image_size), np.float32)
    ids = np.full(tokens, 5)
    ids[1 : 1 + count * len(image)] = image * count
    return ids, [pixels] * count


def open_model(kind: str) -> Any:
    """A narrow model by its kind, or a checkpoint by its folder."""
    import tiny
    from tiny.tools.synthetic import RandomTensors

    if kind not in KINDS:
        return tiny.load(kind)
    config = KINDS[kind]
    tensors = {name: tensor.astype(np.float32) for name, tensor in RandomTensors(config, 0).items()}
    return (tiny.Pixtral if config.vision else tiny.Mixtral)(config, tensors)


def measure(kind: str, tokens: int) -> dict:
    """Run in a fresh process: read one prompt; seconds, and the most that was held beyond model and pixels."""
    from tiny.generate import prefill
    from tiny.tools.session import peak_memory

    model = open_model(kind)
    ids, images = prompt(kind, model.config, tokens)
    before, seconds, processor = held(), time.perf_counter(), time.process_time()
    cache = model.new_cache(tokens)
    (logits,), _ = prefill(model, [ids], images, cache)
    found = {"seconds": time.perf_counter() - seconds, "processor": time.process_time() - processor,
             "over": peak_memory() - before, "cache": cache.keys.nbytes + cache.values.nbytes, "images": len(images)}
    if not np.isfinite(logits).all():
        raise TinyError("The logits are not finite.", "Fetch the checkpoint again.")
    return found


def held() -> int:
    """Bytes that this process holds in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def lengths(config: Config) -> list[int]:
    """Four lengths, each twice the one before, up to the whole context."""
    return [config.max_seq_len // part for part in (8, 4, 2, 1)]


def row(kind: str, tokens: int, found: dict) -> dict:
    """What is shown and kept of one measurement."""
    return {"kind": kind, "tokens": tokens, "images": found["images"], "seconds": round(found["seconds"], 2),
            "processor": round(found["processor"], 2), "over": found["over"], "cache": found["cache"],
            "other_cores": round(found["other_cores"], 2)}


def line(row: dict, before: dict | None) -> str:
    """One measurement as a line of the table, with its growth since the one of half the length."""
    growth = ""
    if before and before["kind"] == row["kind"]:
        growth = f"{row['over'] / before['over']:>12.2f} x{row['processor'] / max(0.01, before['processor']):>10.1f} x"
    return (f"  {row['kind']:14}{row['tokens']:>8,}{row['images']:>8}{row['processor']:>12.1f}"
            f"{row['over'] / 1e6:>14.1f}{row['cache'] / 1e6:>11.1f}{growth}")


def draw(rows: Sequence[dict]):
    """Left: processor seconds by tokens. Right: megabytes over the start, and keys and values alone below them."""
    from matplotlib.figure import Figure

    from tiny.tools.plots import DASHES, shade

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for n, kind in enumerate(kinds):
        of_kind = [row for row in rows if row["kind"] == kind]
        tokens = [row["tokens"] for row in of_kind]
        style = {"color": shade(n, 3), "linestyle": DASHES[n], "marker": "os"[n]}
        left.plot(tokens, [row["processor"] for row in of_kind], label=kind, **style)
        right.plot(tokens, [row["over"] / 1e6 for row in of_kind], label=kind, **style)
        right.plot(tokens, [row["cache"] / 1e6 for row in of_kind], label=f"{kind}: keys and values",
                   **style | {"linestyle": ":", "marker": ""})
    every = sorted({row["tokens"] for row in rows})
    for panel, title in ((left, "processor seconds"), (right, "megabytes over the start")):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks(every, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in every])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set(xlabel="tokens of the prompt", title=title, ylim=(None, 4 * panel.get_ylim()[1]))  # above: the legend
        panel.legend(fontsize=8, loc="upper left")
    return figure


def main(args: Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.child:
        print(json.dumps(measure(args.model or args.child, args.prefill)))
        return 0
    if args.figure:
        from tiny.tools.plots import check_figure_name

        check_figure_name(args.figure)
    sizes = {kind: lengths(config) for kind, config in KINDS.items()}
    if args.model:
        sizes = {args.model: lengths(open_model(args.model).config)}
    threads, rows = args.threads[0], []
    print(f"{threads} thread{'s' * (threads > 1)}, {blas_kernel()}, {machine()}, {time.strftime('%Y-%m-%d')}")
    print(f"  {'':14}{'tokens':>8}{'images':>8}{'processor s':>12}{'MB over start':>14}{'MB of KV':>11}"
          f"{'memory grew':>14}{'time grew':>12}")
    for kind, tokens in ((kind, tokens) for kind, of_kind in sizes.items() for tokens in of_kind):
        child = ["--child", "words", "--model", kind] if args.model else ["--child", kind]
        command = [sys.executable, "-m", "tiny", "bench", "--context", *child, f"--prefill={tokens}"]
        rows.append(row(kind, tokens, run_child(command, threads)))
        print(line(rows[-1], rows[-2] if len(rows) > 1 else None), flush=True)
    if args.figure:
        from tiny.tools.plots import write_figure

        write_figure(args.figure, draw(rows))
    if args.save:
        RECORD.parent.mkdir(exist_ok=True)
        record = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "kernel": blas_kernel(), "threads": threads,
                  "versions": {"python": platform.python_version(), "numpy": np.__version__}, "rows": rows}
        write_whole(RECORD, json.dumps(record, indent=1) + "\n")
    return 0
