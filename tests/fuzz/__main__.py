"""Run the fuzzer: inputs for every target in turn, and a record of what became of them.

    python -m tests.fuzz --count 1000000            make fuzz N=1000000: so many inputs of all targets together
    python -m tests.fuzz --seconds 60               as many as fit into a minute
    python -m tests.fuzz picture torch --seed 7     some targets, other inputs
    python -m tests.fuzz picture --input 1234 > x   the bytes of one input, and what became of it

A run goes on where its record ends, if it has the same seed. The exit status is 1 if there were faults.
"""

import argparse
import base64
import dataclasses
import json
import math
import os
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

from tests.fuzz.engine import Tally, Target, input_of, judge, merge, run  # noqa: E402  needs the path above
from tests.fuzz.shrink import shrink  # noqa: E402
from tests.fuzz.targets import TARGETS  # noqa: E402
from tiny.config import TinyError  # noqa: E402
from tiny.system.reading import read_json  # noqa: E402
from tiny.system.whole import write_whole  # noqa: E402
from tiny.tools.terminal import Parser, check_numbers, program  # noqa: E402

SLICE = 20.0  # seconds of a target before the next one has its turn
PACKAGES = ("numpy", "pillow", "sentencepiece", "ml_dtypes", "regex", "safetensors", "torch")


def main() -> int:
    """Parse the arguments, and fuzz."""
    parser = Parser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(TARGETS)}; default: all")
    parser.add_argument("--count", type=int, default=10**9, metavar="N", help="inputs of all targets together")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="how long; default: until all have run")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the inputs; default: 0")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the record here, and go on where it ends")
    parser.add_argument("--input", type=int, metavar="N", help="write this input of one target, and run it here")
    args = parser.parse_args()
    check_numbers(args, {"count": (1, 1e12), "seconds": (0.01, 1e9), "seed": (0, 2**63), "input": (0, 2**63)})
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown or (args.input is not None and len(args.targets) != 1):
        parser.error(f"these are not targets: {', '.join(unknown)}" if unknown else "--input is of one target")
    chosen = [TARGETS[name] for name in args.targets or TARGETS]
    return one(chosen[0], args) if args.input is not None else fuzz(chosen, args)


def one(target: Target, args: argparse.Namespace) -> int:
    """Write the bytes of one input to standard output, and say what becomes of it."""
    data = input_of(target, args.seed, args.input)
    sys.stdout.buffer.write(data)
    with tempfile.TemporaryDirectory() as folder:
        print(judge(target, data, Path(folder)), file=sys.stderr)
    return 0


def fuzz(targets: list[Target], args: argparse.Namespace) -> int:
    """Give each target its share in turns, and write the record after each."""
    tallies = read_record(args.record, args.seed) if args.record else {}
    whole, began = sum(target.share for target in targets), time.monotonic()
    for target in targets:  # what is built once, is built before there are children
        input_of(target, args.seed, 0)
    wanted = {target.name: math.ceil(args.count * target.share / whole) for target in targets}
    each = min(SLICE, args.seconds / len(targets))
    while (left := [target for target in targets if done(tallies, target) < wanted[target.name]]) and \
            time.monotonic() - began < args.seconds:
        for target in left:
            start = done(tallies, target)
            found = run(target, args.seed, start, wanted[target.name] - start, each)
            known = tallies[target.name].faults if target.name in tallies else {}
            for fault in found.faults.keys() - known.keys():
                keep_smallest(target, args.seed, fault, found.faults[fault])
            tallies[target.name] = merge(tallies.get(target.name, Tally()), found)
            if args.record:
                keep(args.record, args.seed, tallies)
    return report(args.seed, tallies)


def keep_smallest(target: Target, seed: int, fault: str, found: dict) -> None:
    """Make the input of a new fault smaller, and keep it with the fault, in base 64."""
    smallest = shrink(target, input_of(target, seed, found["first"]), fault)
    found["smallest"] = base64.b64encode(smallest).decode()


def done(tallies: dict[str, Tally], target: Target) -> int:
    """How many inputs of a target have run."""
    return tallies[target.name].inputs if target.name in tallies else 0


def keep(path: Path, seed: int, tallies: dict[str, Tally]) -> None:
    """Write the record of a run."""
    write_whole(path, json.dumps(record(seed, tallies), indent=1) + "\n")


def record(seed: int, tallies: dict[str, Tally]) -> dict:
    """What is kept of a run: seed, versions, and for each target its inputs, outcomes and faults."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"seed": seed, "date": time.strftime("%Y-%m-%d"), "versions": versions,
            "inputs": sum(tally.inputs for tally in tallies.values()),
            "faults": sum(len(tally.faults) for tally in tallies.values()),
            "targets": {name: dataclasses.asdict(tally) for name, tally in tallies.items()}}


def read_record(path: Path, seed: int) -> dict[str, Tally]:
    """The tallies of a record of the same seed; none if there is no record yet."""
    if not path.exists():
        return {}
    found = read_json(path)
    if not {"seed", "targets"} <= found.keys():
        raise TinyError(f"{path} is not a record of the fuzzer.", "Give another --record.")
    if found["seed"] != seed:
        raise TinyError(f"{path} is of seed {found['seed']}.", f"Give --seed {found['seed']}, or another --record.")
    return {name: Tally(**tally) for name, tally in found["targets"].items()}


def report(seed: int, tallies: dict[str, Tally]) -> int:
    """Print a line for each target and for each fault; return the exit status."""
    for name, tally in tallies.items():
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
        print(f"{name:14} {tally.inputs:>9,} inputs in {tally.seconds:7.0f} s: {outcomes}")
        for fault, found in tally.faults.items():
            print(f"    {found['count']:,} x {fault}   (python -m tests.fuzz {name} --seed {seed} "
                  f"--input {found['first']})")
            if "smallest" in found:
                smallest = base64.b64decode(found["smallest"])
                print(f"        made smaller, {len(smallest):,} bytes: {smallest[:200]!r}")
    faults = sum(len(tally.faults) for tally in tallies.values())
    print(f"{sum(tally.inputs for tally in tallies.values()):,} inputs, {faults} distinct faults")
    return 1 if faults else 0


if __name__ == "__main__":
    program(main)
