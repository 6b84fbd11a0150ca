"""The generated tables of kernels/README.md: from the sources, from what the emulator measured, from a GPU's results.

    python -m tutorial.pages.kernels            write them
    python -m tutorial.pages.kernels --check    exit with 1 if they are not up to date

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. The table of planted bugs is written by the suite
itself, `python tests/emulator/planted_bugs.py`.
"""

import json
import re
from pathlib import Path

from kernels.cases import Operation, operations
from kernels.ops import SHIPPED
from tiny.tools.markdown import fill, refresh, table
from tiny.tools.terminal import Parser, program
from tutorial.pages.side_by_side import numpy_functions
from tutorial.source import source_of

RECORDS = Path(__file__).parent / "records"
HERE = Path(__file__).parents[2] / "kernels"
PAGE = HERE / "README.md"
EMULATED, MEASURED = RECORDS / "emulator.json", RECORDS / "gpu.json"
# What one H100 was measured to reach: bytes of a copy, read and written, and a cuBLAS product of bfloat16, per second.
COPY, CUBLAS = 3.0e12, 798e12
IDEA = re.compile(r"^// (v\d): (.+)$", re.M)
SOURCES = {"add_rms_norm": "rms_norm", "rope_into_cache": "rope", "group_by_expert": "route"}
FORMS = {"add_rms_norm": "v3, with the residual added first",
         "rope_into_cache": "v3: queries, keys and values in one launch, straight into the cache",
         "group_by_expert": "counts, offsets and the order of tokens by expert, by two kernels"}


def idea(operation: Operation, version: str | None) -> str:
    """The idea of a version in one line, as the source says it."""
    if version is None:
        return FORMS[operation.name]
    text = (HERE / f"{SOURCES.get(operation.name, operation.name)}.cu").read_text(encoding="utf-8")
    return dict(IDEA.findall(text))[version]


def numpy_link(operation: Operation) -> str:
    """A link to the NumPy function that an operation stands for, as its source names it."""
    file = HERE / f"{SOURCES.get(operation.name, operation.name)}.cu"
    path, name = {name: (path, name) for path, name in numpy_functions(file)}.get(
        operation.name, numpy_functions(file)[0])
    source = source_of(f"{path.relative_to(HERE.parent).as_posix()}:{name}")
    return f"[{name}](../{source.path}#L{source.first})"


def in_use(operation: Operation, version: str | None) -> str:
    """Where a version is the one that is used."""
    shipped = SHIPPED.get(operation.name)
    if isinstance(shipped, dict):
        return ", ".join(precision for precision, name in shipped.items() if name == version)
    return "yes" if version is None or version == (shipped or operation.versions[-1]) else ""


def share(value: float | None) -> str:
    """A share in per cent, or nothing."""
    return "" if value is None else f"{100 * value:.0f} %"


def number(value: float | None) -> str:
    """An error in two digits, or that the storage is not one of the version's."""
    return "no" if value is None else "0" if value == 0 else f"{value:.1e}"


def versions_table() -> str:
    """Every version of every operation: idea, error against NumPy, use of memory."""
    record = json.loads(EMULATED.read_text(encoding="utf-8"))
    found = {(row["operation"], row["version"]): row for row in record["rows"]}
    rows = []
    for operation in operations():
        for version in operation.versions:
            row = found[operation.name, version]
            file = f"{SOURCES.get(operation.name, operation.name)}.cu"
            rows.append([f"[{operation.name}]({file})", numpy_link(operation), version or "", idea(operation, version),
                         in_use(operation, version), number(row["errors"].get("float32")),
                         number(row["errors"].get("bfloat16")), share(row["efficiency"].get("global")),
                         share(row["efficiency"].get("shared"))])
    head = ["operation", "in NumPy", "version", "idea", "in use", "error, float32", "error, bfloat16", "sectors used",
            "banks used"]
    return f"{table(head, rows)}\n\nMeasured by the emulator, {record['date']}, {record['machine']}."


def time_text(microseconds: float) -> str:
    """A time with its unit."""
    return f"{microseconds:.1f} us" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"


def measured_times() -> dict[tuple, dict]:
    """What a GPU measured, by operation, version and shape; nothing while none has run."""
    if not MEASURED.exists():
        return {}
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["table"]
    return {(row["operation"], row["version"], row["shape"]): row for row in rows}


def floors_table() -> str:
    """Bytes and FLOP of every operation at published sizes, the least time that an H100 needs, and the time it took."""
    times, rows = measured_times(), []
    for operation in operations():
        last = operation.versions[-1]
        for shape, sizes in operation.published.items():
            moved, flop = operation.floor(**sizes)
            least = 1e6 * max(moved / COPY, flop / CUBLAS)
            bound = "memory" if moved / COPY >= flop / CUBLAS else "arithmetic"
            measured = times.get((operation.name, last, shape))
            rows.append([operation.name, shape, f"{moved / 1e6:,.2f} MB", f"{flop / 1e9:,.2f}", bound, time_text(least),
                         time_text(measured["us"]) if measured else "not yet run"])
    return table(["operation", "shape", "bytes", "GFLOP", "bound by", "least time on an H100", "time on a GPU"], rows)


PARTS = {"versions": versions_table, "floors": floors_table}


def page() -> str:
    """The page with its generated parts as they should be."""
    return fill(PAGE.read_text(encoding="utf-8"), PARTS, "kernels/README.md")


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = Parser(prog="python -m tutorial.pages.kernels", description=__doc__)
    parser.add_argument("--check", action="store_true")
    return refresh(PAGE, page(), parser.parse_args(argv).check, "python -m tutorial.pages.kernels")


if __name__ == "__main__":
    program(main)
