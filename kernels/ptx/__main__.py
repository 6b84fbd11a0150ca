"""Run every kernel as compiled for a GPU, without one: python -m kernels.ptx

It prints how many of the cases agree with NumPy, with every compiler that is here, and writes the record from which
kernels/README.md is generated. Exit status: 0 if all agree, 1 if not, 2 if there is no compiler.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

from kernels.cases import operations
from kernels.nvrtc import OLDEST, nvrtc
from kernels.ptx.interpreter import compiler_name
from kernels.ptx.oracle import every_case, launchers, run_case, tensor_cores
from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.machine import machine
from tiny.tools.terminal import Parser, note, program

RECORD = Path(__file__).parents[2] / "tutorial/pages/records/ptx.json"
COMPILERS = ("nvrtc", "nvcc")
ARCHS = (OLDEST, 90, 100)


def compilers() -> dict[str, str]:
    """The compilers that are here, with their versions. Raises TinyError if there is none."""
    found, missing = {}, []
    for compiler in COMPILERS:
        try:
            found[compiler] = compiler_name(compiler)
        except TinyError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    return found


def runs() -> list[tuple[str, int, str]]:
    """Each compiler with the GPUs that it compiles for here, and what to call that; nvcc for the oldest only."""
    return [(compiler, arch, f"{version} for compute_{arch}") for compiler, version in compilers().items()
            for arch in (ARCHS if compiler == "nvrtc" else ARCHS[:1])
            if compiler == "nvcc" or arch in nvrtc().archs]


def run_all(names: tuple[str, ...] = ()) -> dict:
    """All cases in each run, or those of some operations; only those of the first stand beside the emulator."""
    emulated = shutil.which("g++") is not None
    results: dict = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "runs": {}, "rows": []}
    for compiler, arch, run in runs():
        with tempfile.TemporaryDirectory() as folder:
            on = launchers(Path(folder), compiler, arch, emulated and not results["rows"])
            rows = [row for case in every_case(names) if (row := run_case(on, *case))]
        for row in (row for row in rows if not row["ok"]):
            print(f"{row['operation']} {row['version'] or ''} {row['precision']} {row['sizes']}: {row['error']:.1e}")
        agree = sum(row["ok"] for row in rows)
        results["runs"][run] = {"cases": len(rows), "agree": agree}
        results["rows"] = results["rows"] or rows
        print(f"{agree} of {len(rows)} cases agree with NumPy, compiled by {run}", flush=True)
    return results


def merged(old: dict, new: dict, names: list[str]) -> dict:
    """A record of all operations in which some have been run again, by the same compilers.

    Raises:  TinyError if they are others
    """
    if old["runs"].keys() != new["runs"].keys():
        raise TinyError(f"The record is of {', '.join(old['runs'])}, and here are {', '.join(new['runs'])}.",
                        "Run all operations.")
    kept = [row for row in old["rows"] if row["operation"] not in names]
    left = len(old["rows"]) - len(kept)
    runs = {run: {what: old["runs"][run][what] - left + count for what, count in found.items()}
            for run, found in new["runs"].items()}
    order = [operation.name for operation in operations()]
    return new | {"runs": runs, "rows": sorted(kept + new["rows"], key=lambda row: order.index(row["operation"]))}


def main(argv: list[str] | None = None) -> int:
    """Run the oracle; return the exit status."""
    parser = Parser(prog="python -m kernels.ptx", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("operations", nargs="*", help="only these; the rows of others stay in the record")
    parser.add_argument("--record", type=Path, default=RECORD, help="where to write what was found")
    args = parser.parse_args(argv)
    if unknown := set(args.operations) - {operation.name for operation in operations()}:
        raise TinyError(f"There is no operation {unknown.pop()}.", "kernels/README.md has their names.")
    results = run_all(tuple(args.operations))
    beside = [row for row in results["rows"] if "equal" in row]
    exact = [row["equal"]["stand-in"] == 1 for row in beside if not tensor_cores(row)]
    if beside:
        print(f"{sum(exact)} of {len(exact)} cases without tensor cores have the emulator's bits, without contraction "
              "and with one exponential")
    else:
        note("the emulator needs g++, which is not on this machine; nothing was compared with it")
    if args.operations:
        record = merged(json.loads(args.record.read_text(encoding="utf-8")), results, args.operations)
    else:
        record = results
    write_whole(args.record, json.dumps(record, indent=1) + "\n")
    return 0 if all(exact) and all(n["agree"] == n["cases"] for n in results["runs"].values()) else 1


if __name__ == "__main__":
    program(main)
