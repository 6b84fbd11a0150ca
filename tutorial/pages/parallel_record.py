"""Measure one model over 1, 2 and 4 processes of this machine: memory of a rank, bytes that are sent, and speed.

    python -m tutorial.pages.parallel_record        writes records/parallel.json; about 3 minutes and 4 GB

The model is the synthetic Mixtral of the benchmark, resident in float32. Ranks have the threads that the command gives
them, and share the cores of the machine. Where each thread has a core, and the system allows it, they run before all
other programs (chrt).
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tiny import parallel
from tiny.config import Ids
from tiny.kv_cache import KVCache
from tiny.mixtral import Mixtral
from tiny.parallel.launch import find_mpiexec
from tiny.parallel.shards import SPLITS
from tiny.tools.bench.rounds import busy_seconds, synthetic
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.session import peak_memory
from tiny.tools.terminal import Parser, program
from tutorial.pages.records import keep

CORES = os.cpu_count() or 1
# Ranks, threads of each, and how the model is split; one process also with one thread, beside which two ranks stand.
RUNS = ((1, 1, "experts"), (1, CORES, "experts"), *((ranks, max(1, CORES // ranks), split) for ranks in (2, 4)
                                                    for split in SPLITS))
PROMPT, WRITTEN, ROUNDS = 128, 16, 3


def one_rank(folder: Path, split: str) -> None:
    """Load this rank's part, run the prompt and some tokens, and let rank 0 print what all found."""
    ranks = parallel.Ranks()
    model = parallel.load(folder, ranks, split, weights="resident")
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, PROMPT)
    model(ids, last_only=True)  # converts all weights
    reading, writing, sent = [], [], 0
    busy, own, started = busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(ROUNDS):
        cache = model.new_cache(PROMPT + WRITTEN)
        seconds, logits = timed(model, ids, cache)
        reading.append(seconds)
        before = sum(ranks.received.values())
        for _ in range(WRITTEN):
            seconds, logits = timed(model, [int(logits[-1].argmax())], cache)
            writing.append(seconds)
        sent = sum(ranks.tell((sum(ranks.received.values()) - before) // WRITTEN))
    wall, used = time.perf_counter() - started, sum(ranks.tell(time.process_time() - own))
    every = ranks.tell(peak_memory())
    if ranks.rank == 0:
        print(json.dumps({"ranks": ranks.size, "split": split, "peak_memory_bytes": every, "bytes_of_a_token": sent,
                          "prompt_tokens_per_second": PROMPT / statistics.median(reading),
                          "tokens_per_second": 1 / statistics.median(writing),
                          "other_cores": (busy_seconds() - busy - used) / wall, "kernel": blas_kernel()}))


def timed(model: Mixtral, ids: Ids, cache: KVCache) -> tuple[float, np.ndarray]:
    """Seconds of one pass, and its last logits. Shapes:  ids (T,) -> (1, V)."""
    start = time.perf_counter()
    logits = model(ids, cache=cache, last_only=True)
    return time.perf_counter() - start, logits


def may_go_first() -> bool:
    """Whether a program may ask to run before all others."""
    return shutil.which("chrt") is not None and not subprocess.run(["chrt", "-r", "1", "true"],
                                                                   stderr=subprocess.DEVNULL).returncode


def measure() -> dict:
    """All runs, one after the other."""
    folder, runs = synthetic("mistral"), []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    for size, threads, split in RUNS:
        first = ["chrt", "-r", "1"] if size * threads <= CORES and may_go_first() else []
        done = subprocess.run([*first, find_mpiexec(), "-n", str(size), sys.executable, "-m", "mpi4py", "-m",
                               "tutorial.pages.parallel_record", "--folder", str(folder), "--split", split],
                              env=environment | {"OPENBLAS_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE,
                              text=True, check=True, timeout=600)
        runs.append(json.loads(done.stdout) | {"threads": threads, "first": bool(first)})
        print(done.stdout, end="", file=sys.stderr, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "mpi4py", "mpich")}
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "kernel": runs[0]["kernel"],
            "versions": versions, "prompt": PROMPT, "written": WRITTEN, "rounds": ROUNDS, "runs": runs}


def main() -> None:
    """Measure and keep the record; or be one rank of a measurement."""
    parser = Parser(prog="python -m tutorial.pages.parallel_record", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--split", choices=SPLITS, default="experts", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        one_rank(options.folder, options.split)
    else:
        keep("parallel.json", measure())


if __name__ == "__main__":
    program(main)
