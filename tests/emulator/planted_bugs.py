"""The planted bugs of planted/: what each file says about its kernels, how they are run, and the table of them.

    python tests/emulator/planted_bugs.py    write the table into kernels/README.md, between its two markers

tests/emulator/planted/global.cu says how the bugs are marked.
"""

import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from kernels.emulator import Module, Report  # noqa: E402
from kernels.emulator.listing import extent  # noqa: E402
from kernels.emulator.options import build_parser  # noqa: E402
from kernels.emulator.values import read_values  # noqa: E402

FOLDER = Path(__file__).parent / "planted"
README = Path(__file__).parents[2] / "kernels/README.md"
BEGIN, END = "<!-- begin planted -->", "<!-- end planted -->"
# What a report of each kind says.
SAYS = {"bounds": r"^out-of-bounds", "uninitialised": r"uninitialised", "race": r"data race", "const": r"is const$",
        "misaligned": r"^misaligned", "division": r"division by zero", "copy": r"cp\.async .* not been waited for",
        "barrier": r"^divergent|barrier", "warp": r"lane|mask|__syncwarp"}
TITLES = {"bounds": "out of bounds", "uninitialised": "read before it is written", "race": "race",
          "const": "write through const", "misaligned": "misaligned address", "division": "division by zero",
          "barrier": "barrier not reached by all", "warp": "lanes that do not meet", "copy": "copy not waited for"}


class Bug(NamedTuple):
    """One planted kernel: its file, its name, the options it runs with, and the kinds at each marked line."""

    file: Path
    kernel: str
    options: str
    marks: dict[int, list[str]]

    @property
    def kind(self) -> str:
        return next(iter(self.marks.values()))[0]


def kernels_of(file: Path) -> list[Bug]:
    """The kernels of a file that are no twins, with the options and marks that stand at them."""
    found, lines, options = [], file.read_text(encoding="utf-8").splitlines(), ""
    for line in lines:
        if line.startswith("// RUN: "):
            options = line.removeprefix("// RUN: ")
        kernel = re.match(r'extern "C" __global__ void (\w+)\(', line)
        if kernel and not kernel[1].endswith("_ok"):
            marks = {n: re.split(r",\s*", mark[1]) for n in extent(lines, kernel[1])
                     if (mark := re.search(r"// BUG: (.+)", lines[n - 1]))}
            found.append(Bug(file, kernel[1], options, marks))
    return found


@cache
def planted() -> list[Bug]:
    """All planted bugs, in the order of the files."""
    return [bug for file in sorted(FOLDER.glob("*.cu")) if file.name != "correct.cu" for bug in kernels_of(file)]


@cache
def correct() -> list[Bug]:
    """The kernels without a bug."""
    return kernels_of(FOLDER / "correct.cu")


@cache
def module(file: Path, check: bool, order: str = "forward") -> Module:
    """A file of kernels, compiled once for each mode."""
    return Module(file, check=check, order=order)


def inputs(bug: Bug) -> tuple:
    """The options of a kernel, parsed; the arrays that it is given; and which of them count as never written."""
    args = build_parser().parse_args([str(bug.file), *bug.options.split()])
    return args, *read_values(args.arg, seed=0)


def run(bug: Bug, kernel: str, check: bool, order: str = "forward") -> list[np.ndarray]:
    """Run a bug or its twin with the bug's options; return the arrays afterwards. Raises Report."""
    args, arrays, unwritten = inputs(bug)
    module(bug.file, check, order).launch(kernel, args.grid, args.block, arrays, shared_bytes=args.smem,
                                          unwritten=unwritten)
    return [part for value in arrays for part in (value if isinstance(value, list) else [value])]


def report_of(bug: Bug) -> Report | None:
    """What the checked mode says about a bug."""
    return caught_in(bug.kernel)


@cache
def caught_in(kernel: str) -> Report | None:
    bug = next(bug for bug in planted() if bug.kernel == kernel)
    try:
        run(bug, kernel, check=True)
    except Report as caught:
        return caught
    return None


def verdict(bug: Bug, caught: Report | None) -> str:
    """Nothing if the report names a marked line and says what is marked there; else what is wrong with it."""
    if caught is None:
        return f"{bug.kernel}: no report"
    said = f"{bug.kernel}: {caught.file}:{caught.line}: {caught.what}"
    if Path(caught.file).name != bug.file.name or caught.line not in bug.marks:
        return f"{said}; expected line {' or '.join(map(str, bug.marks))}"
    kinds = bug.marks[caught.line]
    if not any(re.search(SAYS[kind], caught.what) for kind in kinds):
        return f"{said}; expected {' or '.join(kinds)}"
    return ""


def table() -> str:
    """All planted bugs as a table in Markdown: kind, kernel, and the line and first words of the report."""
    rows, caught = [], 0
    for kind, title in TITLES.items():
        for bug in (bug for bug in planted() if bug.kind == kind):
            said = report_of(bug)
            caught += not verdict(bug, said)
            place = f"{bug.file.name}:{said.line}" if said else "not caught"
            # Addresses and distances to other arrays are of one run only.
            what = re.split(r"[:;]| at 0x|, \d+ bytes (?:past|before)", said.what)[0] if said else ""
            rows.append(f"| {title} | `{bug.kernel}` | {place} | {what} |")
    head = f"{caught} of {len(rows)} planted bugs are caught at the right line; the twin of each is silent.\n\n"
    return head + "\n".join(["| kind | kernel | caught at | report begins |", "| --- | --- | --- | --- |", *rows])


def write_table(path: Path = README) -> None:
    """Put the table between the two markers of a file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{path.name} needs {BEGIN} and {END}, each once.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_table()
