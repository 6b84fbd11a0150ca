"""Run your own kernel on the CPU: python -m kernels.emulator FILE.cu --kernel NAME --grid 2 --block 64 --arg ...

Exit status: 0 without a report, 1 with one, 2 if the kernel could not be run to its end. Reports, tables and
summaries go to standard output; errors, in two lines, and notes to standard error.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kernels.emulator import Module, Parameter, Report, listing, results, values
from kernels.emulator.child import run_in_child
from kernels.emulator.options import build_parser, check_options
from tiny.config import TinyError
from tiny.tools.terminal import guarded, note, program

MEMORY = "Use smaller arrays, or a smaller grid."


def main(argv: list[str] | None = None) -> int:
    """Run one kernel; return the exit status: 0, 1 after a report, 2 if it could not run, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda: run_program(argv), "--debug" in argv, MEMORY)


def run_program(argv: list[str]) -> int:
    """Read the arguments, and run the kernel in its own process."""
    args = build_parser().parse_args(argv)
    check_options(args)
    arrays, unwritten = values.read_values(args.arg, args.seed)

    def work(running: Callable[[bool], None]) -> int:
        return guarded(lambda: run_kernel(args, arrays, unwritten, running), args.debug, MEMORY)

    outcome = run_in_child(work, args.time_limit)
    if outcome.late:
        raise TinyError(f"The kernel {args.kernel} did not end within {args.time_limit:g} s.",
                        "Look for a loop that waits for another thread, or give it longer with --time-limit.")
    if outcome.crash:
        raise TinyError(f"The kernel {args.kernel} crashed ({outcome.crash}).", crash_remedy(args))
    return outcome.status


def crash_remedy(args: argparse.Namespace) -> str:
    if args.check:
        return "The checked mode should have seen this: if the kernel calls nothing unusual, it is a defect here."
    return "Run it with --check: it reports the line before the access happens."


def run_kernel(args: argparse.Namespace, arrays: list, unwritten: list[int], running) -> int:
    """Compile, launch, and print; the exit status."""
    module = Module(args.file, defines=args.defines, check=args.check, profile=args.profile, order=args.order,
                    portable=args.portable, strict=args.strict,
                    instances=[args.kernel] if args.kernel and "<" in args.kernel else [])
    kernel = choose(module, args.kernel, args.file)
    parameters = module.parameters(kernel)
    if len(arrays) == len(parameters):
        arrays = [fit(value, parameter) for value, parameter in zip(arrays, parameters)]
    status, start = 0, time.perf_counter()
    running(True)
    try:
        module.launch(kernel, args.grid, args.block, arrays, shared_bytes=args.smem, unwritten=unwritten)
    except Report as report:
        print(f"{report.file}:{report.line}: {report.what}")
        status = 1
    seconds = time.perf_counter() - start
    running(False)
    if args.save and results.save(args.save, arrays):
        note(f"bfloat16 is stored in {args.save} as two bytes without a type: .view(ml_dtypes.bfloat16) reads them")
    if args.profile and not status:
        show_profile(module, kernel, args.file)
    elif not status:
        checked = ", checked: nothing to report" if args.check else ""
        print(f"{kernel}: grid {axes(args.grid)}, block {axes(args.block)}, order {args.order}, "
              f"{1e3 * seconds:.3g} ms{checked}")
        print(results.summary([parameter.name for parameter in parameters], arrays))
    return status


def show_profile(module: Module, kernel: str, file: Path) -> None:
    """The table of all accesses, and the kernel's source with its figures."""
    rows, source = module.profile(), file.read_text(encoding="utf-8", errors="replace")
    print(listing.access_table(rows, str(file)), listing.listing(source, kernel, rows, str(file)), sep="\n\n")


def fit(value, parameter: Parameter):
    """A value as the kernel's parameter reads it: two bytes as bfloat16 or half, one array as a table of one."""
    if parameter.kind == "table":
        return [fit(part, replace(parameter, stars=1)) for part in (value if isinstance(value, list) else [value])]
    wanted = parameter.dtype.name if parameter.dtype else ""
    if wanted in ("bfloat16", "float16") and isinstance(value, np.ndarray) and value.dtype == np.uint16:
        note(f"the uint16 numbers for {parameter.name} are read as the bits of {wanted}")
        return value.view(values.DTYPES[wanted])
    return value


def choose(module: Module, name: str | None, file: Path) -> str:
    """The kernel that is meant: the one named, or the only one."""
    known = [*module.kernels, *(f"'{template}<...>'" for template in module.built.templates)]
    if name is None and len(known) == len(module.kernels) == 1:
        return known[0]
    if name in module.kernels:
        return name
    cause = f"{file} has {len(known)} kernels." if name is None else f"{file} has no kernel {name}."
    if name in module.built.templates:
        raise TinyError(cause, f"It is a template: name one of its instances, as in --kernel '{name}<float>'.")
    raise TinyError(cause, f"Choose one with --kernel: {', '.join(known) or 'it has none'}.")


def axes(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


if __name__ == "__main__":
    program(main)
