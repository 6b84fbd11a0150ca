"""Measure one model over 1, 2 and 4 processes of this machine: the memory of a rank, and the bytes that are sent.

    python -m tutorial.pages.parallel_record        writes records/parallel.json; about 2 minutes and 8 GB

The model is the synthetic Mixtral of the benchmark, resident in float32. Speed is not measured: on one machine, ranks
share its memory and its cores.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tiny import parallel
from tiny.parallel.launch import find_mpiexec
from tiny.parallel.shards import SPLITS
from tiny.tools.bench.rounds import synthetic
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.session import peak_memory
from tiny.tools.terminal import Parser, program
from tutorial.pages.records import keep

RUNS = ((1, "experts"), (2, "experts"), (2, "all"), (4, "experts"), (4, "all"))
PROMPT, WRITTEN = 128, 4


def one_rank(folder: Path, split: str) -> None:
    """Load this rank's part, run the prompt and some tokens, and let rank 0 print what all found."""
    ranks = parallel.Ranks()
    model = parallel.load(folder, ranks, split, weights="resident")
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, PROMPT)
    cache = model.new_cache(PROMPT + WRITTEN)
    logits = model(ids, cache=cache, last_only=True)
    before = sum(ranks.received.values())
    for _ in range(WRITTEN):
        logits = model([int(logits[-1].argmax())], cache=cache)
    sent = sum(ranks.tell((sum(ranks.received.values()) - before) // WRITTEN))
    every = ranks.tell(peak_memory())
    if ranks.rank == 0:
        print(json.dumps({"ranks": ranks.size, "split": split, "peak_memory_bytes": every,
                          "bytes_of_a_token": sent, "kernel": blas_kernel()}))


def measure() -> dict:
    """All runs, one after the other."""
    folder, runs = synthetic("mistral"), []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    for size, split in RUNS:
        done = subprocess.run([find_mpiexec(), "-n", str(size), sys.executable, "-m", "mpi4py", "-m",
                               "tutorial.pages.parallel_record", "--folder", str(folder), "--split", split],
                              env=environment | {"OPENBLAS_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
                              check=True, timeout=600)
        runs.append(json.loads(done.stdout))
        print(done.stdout, end="", file=sys.stderr, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "mpi4py", "mpich")}
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "kernel": runs[0].pop("kernel"),
            "versions": versions, "prompt": PROMPT, "runs": runs}


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
