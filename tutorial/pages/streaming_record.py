"""Streamed weights in little memory, measured: a Mixtral of 3 billion parameters in a control group of 1.5 GB.

    python -m tutorial.pages.streaming_record FOLDER     FOLDER gets 6 GB of random weights, if it has none yet

In each round come the disk's own rate, every kind of weights in a fresh process with the file out of the page cache,
and the disk's rate again. It needs Linux, and the right to make a control group for memory.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from tiny.config import TinyError
from tiny.files.streamed import Streamed, needed_by_all
from tiny.generate import ExpertTrace
from tiny.tools.bench.rounds import middle, run_child
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.session import page_faults
from tiny.tools.terminal import Parser, check_numbers, program
from tutorial.pages.records import keep

NAME = "streaming.json"
SIZES = {"dim": 2048, "hidden_dim": 7168, "n_layers": 8, "n_heads": 32, "n_kv_heads": 8}  # 3.03 billion parameters
LIMIT = 1_500_000_000  # bytes of the control group
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # version 1 and version 2
FILES = (("memory.limit_in_bytes", "memory.max_usage_in_bytes"), ("memory.max", "memory.peak"))
PIECE, THREADS, SAMPLE = 4 << 20, 4, 1_500_000_000  # of a measurement of the disk
WARM, TOKENS = 2, 6
# Weights and the gigabytes that they may take. "most": what this command gives to them by itself.
KINDS = {"mapped": ("mapped", None), "least": ("streamed", 0.27), "kept": ("streamed", 0.5), "most": ("streamed", 1.2)}


def disk_rate(path: Path) -> float:
    """Bytes a second of direct reads from a random place of a file on, without any code of ours."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    start = random.randrange(max(1, os.fstat(file).st_size - SAMPLE) // PIECE) * PIECE

    def work(first: int) -> int:
        buffer = mmap(-1, PIECE)
        return sum(os.preadv(file, [buffer], start + at) for at in range(first, SAMPLE, THREADS * PIECE))
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        count = sum(pool.map(work, range(0, THREADS * PIECE, PIECE)))
    os.close(file)
    return count / (time.perf_counter() - began)


def measure(folder: Path, kind: str) -> dict:
    """Run in a fresh process: some tokens, what was read for them, and a checksum of their logits."""
    mode, memory = KINDS[kind]
    model: Any = tiny.load(folder, weights=mode)
    if isinstance(model.weights, Streamed) and memory:
        model.weights.allow(int(1e9 * memory))
    cache = model.new_cache(64)
    logits, sums, active = model([1, 5, 9], cache=cache, last_only=True), hashlib.sha256(), 0
    for token in range(WARM + TOKENS):
        if token == WARM:
            before, faults, cpu, start = read_so_far(), page_faults(), time.process_time(), time.perf_counter()
        trace = ExpertTrace()
        logits = model([int(logits[-1].argmax())], cache=cache, trace=trace)
        sums.update(logits.tobytes())
        active += active_bytes(model.weights.tensors, trace) * (token >= WARM)
    return {"seconds": (time.perf_counter() - start) / TOKENS, "bytes": (read_so_far() - before) / TOKENS,
            "active": active / TOKENS, "cpu": (time.process_time() - cpu) / TOKENS,
            "faults": (page_faults() - faults) / TOKENS, "cache": cache.keys.nbytes + cache.values.nbytes,
            "kernel": blas_kernel(), "sums": sums.hexdigest()}


def read_so_far() -> int:
    """Bytes that the system has read from disks for this process, direct reads and pages of mapped files alike."""
    return int(Path("/proc/self/io").read_text().split("read_bytes: ")[1].split()[0])


def active_bytes(tensors, trace: ExpertTrace) -> int:
    """Bytes of the weights that one token used."""
    names = [name for name in tensors if needed_by_all(name)]
    names += [f"layers.{layer}.feed_forward.experts.{e}.{matrix}.weight" for layer, ids in enumerate(trace.layers)
              for e in ids[0] for matrix in ("w1", "w2", "w3")]
    return sum(tensors[name].nbytes for name in names)


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[tuple[Path, Path]]:
    """A control group of so much memory: its folder, and the file that says the most that it took.

    Raises:  TinyError where none can be made
    """
    folder, peak = make_group(limit)
    try:
        yield folder, peak
    finally:
        folder.rmdir()


def make_group(limit: int) -> tuple[Path, Path]:
    """Make a control group. Raises TinyError where that is not allowed, or no memory can be limited."""
    for place, (most, peak) in zip(GROUPS, FILES):
        folder = place / f"streaming_{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                (folder / most).write_text(str(limit))
                return folder, folder / peak
            except OSError:
                folder.rmdir()
    raise TinyError("No control group for memory can be made here.", "Run as root, where groups may be made.")


def run_in_group(folder: Path, kind: str) -> dict:
    """Measure one kind of weights in a group of its own, with the file out of the page cache at the start."""
    path = folder / "consolidated.safetensors"
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with control_group(LIMIT) as (group, peak):
        child = [sys.executable, "-m", "tutorial.pages.streaming_record", str(folder), "--child", kind]
        found = run_child(["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *child], 1)
        return found | {"peak": int(peak.read_text())}


def one_round(folder: Path) -> dict[str, dict]:
    """The disk's rate, one kind of weights, the disk's rate, the next kind, and so on."""
    path, found = folder / "consolidated.safetensors", {}
    before = disk_rate(path)
    for kind in KINDS:
        result = run_in_group(folder, kind)
        after = disk_rate(path)
        raw = (before + after) / 2
        found[kind] = result | {"raw": raw, "share": result["bytes"] / result["seconds"] / raw}
        before = after
        print(f"{kind:7} {1 / result['seconds']:.2f} tokens/s, {result['bytes'] / 1e9:.2f} GB a token of "
              f"{result['active'] / 1e9:.2f} GB, {found[kind]['share']:.0%} of {raw / 1e6:,.0f} MB/s, peak "
              f"{result['peak'] / 1e6:,.0f} MB, others used {result['other_cores']:.1f} cores", flush=True)
    return found


def main() -> int:
    """Measure, and keep the record."""
    parser = Parser(prog="python -m tutorial.pages.streaming_record", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3, help="the median of these counts; default: %(default)s")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    check_numbers(args, {"rounds": (1, 100)})
    if args.child:
        print(json.dumps(measure(args.folder, args.child)))
        return 0
    if not args.folder.exists():
        options = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
        subprocess.run([sys.executable, "-m", "tiny.tools.synthetic", str(args.folder), *options], check=True)
    rounds = [one_round(args.folder) for _ in range(args.rounds)]
    runs = {kind: {key: middle([found[kind][key] for found in rounds]) for key in rounds[0][kind]} for kind in KINDS}
    if len({run["sums"] for found in rounds for run in found.values()}) != 1:
        raise TinyError("Streamed weights gave other logits than mapped ones.", "Find out why before anything else.")
    keep(NAME, {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "kernel": runs["kept"]["kernel"],
                "versions": {"python": platform.python_version(), "numpy": np.__version__}, "limit": LIMIT,
                "file": (args.folder / "consolidated.safetensors").stat().st_size, "rounds": args.rounds,
                "memory": {kind: memory for kind, (_, memory) in KINDS.items()}, "runs": runs,
                "shares": {kind: [found[kind]["share"] for found in rounds] for kind in KINDS}})
    return 0


if __name__ == "__main__":
    program(main)
