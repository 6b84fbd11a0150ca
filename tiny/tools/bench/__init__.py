"""The command `bench`: prefill and decode speed of one checkpoint, beside the limits of the machine and its peers.

Every measurement runs in a fresh process, in turns, with the same number of threads, so that ratios come from the same
minutes. Without `--model` a synthetic Mixtral of 0.8 billion parameters is written once to runs/bench.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.bench.limits import measure_limits
from tiny.tools.bench.rounds import rounds, show, synthetic
from tiny.tools.bench.text import measure_text, table_rows
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.terminal import Parser, check_numbers

RECORD = Path(__file__).parents[3] / "tutorial/pages/records/bench.json"


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = Parser(prog="python -m tiny bench", description=__doc__)
    parser.add_argument("--vision", action="store_true", help="measure a vision encoder of the real width instead")
    parser.add_argument("--context", action="store_true",
                        help="measure time and memory of prompts as they grow, with the first of --threads")
    parser.add_argument("--figure", metavar="FILE", help="with --context: draw them, as .png, .pdf or .svg")
    parser.add_argument("--model", help="a checkpoint; without it, a synthetic one of 0.8 billion parameters")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--decode", type=int, default=16, help="tokens generated at a time")
    parser.add_argument("--repeats", type=int, default=3, help="measurements in a process; the median counts")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, in turns")
    parser.add_argument("--peer", metavar="PYTHON",
                        help="a Python with torch and transformers, perhaps with llama-cpp-python: measure them too")
    parser.add_argument("--save", action="store_true", help="keep the figures for tutorial/reference/speed.md")
    parser.add_argument("--child", choices=("resident", "mapped", "two", "limits", "words", "images"),
                        help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    check_numbers(args, dict.fromkeys(("threads", "prefill", "decode", "repeats", "rounds"), (1, 2**20)))
    if args.peer and shutil.which(args.peer) is None:
        raise TinyError(f"{args.peer} is not a program.", "Give --peer a Python: its path, or python3.")
    return args


def peers(python: str, folders: dict[str, Any], sizes: list[str]) -> dict[str, list[str]]:
    """The commands that measure others: transformers in two dtypes, and llama.cpp if that Python has its package.

    llama.cpp needs a file of its own, which is written beside the synthetic checkpoint, never in somebody's folder.
    """
    here = Path(__file__).parent
    text = [python, "-I", str(here / "peer_text.py"), str(folders["hf"]), *sizes]
    found = {"transformers": [*text, "--dtype=float32"], "transformers, bfloat16": [*text, "--dtype=bfloat16"]}
    needs = "from importlib.util import find_spec; raise SystemExit(None in map(find_spec, ('llama_cpp', 'gguf')))"
    if folders["mistral"] == folders["hf"]:
        print("llama.cpp is not measured: it gets the synthetic checkpoint only.", file=sys.stderr, flush=True)
    elif subprocess.run([python, "-I", "-c", needs]).returncode == 0:
        found["llama.cpp"] = [python, "-I", str(here / "peer_llama.py"), str(folders["mistral"]), *sizes]
    else:
        print("llama.cpp is not measured: that Python has no llama-cpp-python and gguf.", file=sys.stderr, flush=True)
    return found


def main(argv: list[str]) -> int:
    """Run the command; returns the exit status."""
    args = parse(argv)
    if args.vision:
        from tiny.tools.bench import vision

        return vision.main(args)
    if args.context:
        from tiny.tools.bench import context

        return context.main(args)
    if args.child:
        print(json.dumps(measure_limits(args.model, args.prefill, args.repeats) if args.child == "limits" else
                         measure_text(args.model, args.child, args.prefill, args.decode, args.repeats)))
        return 0
    folders = {layout: args.model or synthetic(layout) for layout in (("mistral", "hf") if args.peer else ("mistral",))}
    sizes = [f"--{name}={getattr(args, name)}" for name in ("prefill", "decode", "repeats")]
    ours = [sys.executable, "-m", "tiny", "bench", "--model", str(folders["mistral"]), *sizes, "--child"]
    commands = {name: [*ours, name] for name in ("resident", "mapped", "limits")}
    if args.peer:
        commands |= peers(args.peer, folders, sizes)
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "kernel": blas_kernel(),
              "versions": {"python": platform.python_version(), "numpy": np.__version__}, "threads": {}}
    for threads in args.threads:
        result = rounds(commands, threads, args.rounds)
        for run in result.values():
            record["versions"] |= run.pop("versions", {})
        record["threads"][str(threads)] = {"rows": table_rows(result, args.prefill), "raw": result}
        show(record, threads)
    if args.save:
        RECORD.parent.mkdir(exist_ok=True)
        write_whole(RECORD, json.dumps(record, indent=1) + "\n")
    return 0
