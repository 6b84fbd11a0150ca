"""Measure every change that was tried to make the products and the layers faster.

    python -m tutorial.pages.tried       adds this machine to records/tried.json; about a minute and 3 GB

On x86 it measures twice: with the kernel that OpenBLAS chooses, and with the one for AVX2. What was measured on other
machines stays, with its date.
"""

import argparse
import json
import platform
import sys
import time

import numpy as np

from tiny.tools.bench.rounds import run_child
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.terminal import Parser, check_numbers, program
from tutorial.pages.records import keep, record
from tutorial.pages.tried import EXPERT, Case, Change, layers, products

NAME = "tried.json"
CHANGES: list[Change] = products.CHANGES + layers.CHANGES


def gain(case: Case, rounds: int) -> float:
    """How many times as fast a case is after the change: the shortest processor time of each way, which take turns."""
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for run, found in zip((case.before, case.after), times):
            start = time.thread_time()
            run()
            found.append(time.thread_time() - start)
    return min(times[0]) / min(times[1])


def measure(rounds: int) -> dict:
    """Every change in this process, with the kernel of BLAS that it has."""
    return {"kernel": blas_kernel(), "gains": {
        change.what: {case.label: round(gain(case, rounds), 3) for case in change.cases(EXPERT)}
        for change in CHANGES}}


def kept_with(columns: list[dict], new: list[dict]) -> list[dict]:
    """The columns of a record, with new ones in the place of those of the same machine and kernel."""
    told = {(column["machine"], column["kernel"]) for column in new}
    return [*new, *(column for column in columns if (column["machine"], column["kernel"]) not in told)]


def main() -> None:
    """Measure with each kernel, each in a fresh process with one thread, and keep what was found."""
    parser = Parser(prog="python -m tutorial.pages.tried", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement; the shortest time counts")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_numbers(options, {"rounds": (1, 1000)})
    if options.child:
        print(json.dumps(measure(options.rounds)))
        return
    command, columns = [sys.executable, "-m", "tutorial.pages.tried", "--child", f"--rounds={options.rounds}"], []
    for kernel in ([], ["env", "OPENBLAS_CORETYPE=Haswell"]) if platform.machine() == "x86_64" else ([],):
        found = run_child([*kernel, *command], 1)
        columns.append({"date": time.strftime("%Y-%m-%d"), "machine": machine(), "kernel": found["kernel"],
                        "versions": {"numpy": np.__version__}, "other_cores": round(found["other_cores"], 2),
                        "gains": found["gains"]})
        print(columns[-1], flush=True)
    keep(NAME, {"columns": kept_with(record(NAME).get("columns", []), columns)})


if __name__ == "__main__":
    program(main)
