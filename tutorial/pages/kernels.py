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
from tutorial.pages import predictions, ptx
from tutorial.pages.side_by_side import numpy_functions
from tutorial.source import source_of

RECORDS = Path(__file__).parent / "records"
HERE = Path(__file__).parents[2] / "kernels"
PAGE = HERE / "README.md"
EMULATED = RECORDS / "emulator.json"
IDEA = re.compile(r"^// (v\d): (.+)$", re.M)
SOURCES = {"add_rms_norm": "rms_norm", "rope_into_cache": "rope", "group_by_expert": "route",
           "linear_int8": "linear", "linear_epilogue": "linear", "linear_prompt": "linear",
           "linear_prompt_int8": "linear", "linear_prompt_epilogue": "linear", "experts_int8": "experts",
           "feed_forward": "experts", "grouped_int8": "grouped", "grouped_dense": "grouped",
           **dict.fromkeys(("rope_table", "rope_2d_table", "advance", "place", "place_tiles"), "positions"),
           "adapter": "linear"}
# Where a form has a function of its own, and where later versions have a file of their own.
NUMPY = {"linear_int8": "kernels/int8.py:linear_int8", "linear_prompt_int8": "kernels/int8.py:linear_int8",
         "embed": "tiny/numerics.py:embed", "rope_2d_table": "tiny/rope_2d.py:rope_2d_table",
         "advance": "tiny/kv_cache.py:KVCache.advance", "grouped": "tiny/experts.py:experts",
         "grouped_int8": "tiny/experts.py:experts", "place": "tiny/mixtral.py:positions_of",
         "place_tiles": "kernels/attention.py:tiles", "adapter": "tiny/adapter.py:adapter"}
FILES = dict.fromkeys(["linear_prompt", "linear_prompt_int8", "linear_prompt_epilogue"], "linear_prompt")
USED = {name: {"float32": "v4", "bfloat16": "v5"} for name in FILES} | dict.fromkeys(
    ("grouped", "grouped_int8", "grouped_dense"), {"float32": "v2", "bfloat16": "v3"})
FORMS = {"add_rms_norm": "v3, with the residual added first",
         "rope_into_cache": "v3: queries, keys and values in one launch, straight into the cache",
         "group_by_expert": "counts, offsets and the order of tokens by expert, by two kernels",
         "rope_2d_table": "v1, for the row and the column of each patch of an image",
         "advance": "a thread for each sequence, at the end of a step",
         "place": "positions, or rows of the cache, from sizes that the launch carries",
         "place_tiles": "the table of attention, from sizes that the launch carries",
         "adapter": "two products, with bias and GELU behind the first and a bias behind the second"}


def file_of(operation: Operation) -> str:
    """The `.cu` file of an operation."""
    return f"{FILES.get(operation.name) or SOURCES.get(operation.name, operation.name)}.cu"


def idea(operation: Operation, version: str | None) -> str:
    """The idea of a version in one line, as the source says it."""
    if version is None:
        return FORMS[operation.name]
    text = (HERE / file_of(operation)).read_text(encoding="utf-8")
    return dict(IDEA.findall(text))[version]


def numpy_link(operation: Operation) -> str:
    """A link to the NumPy function that an operation stands for, as its source names it."""
    place = NUMPY.get(operation.name)
    if place is None:
        file = HERE / f"{SOURCES.get(operation.name, operation.name)}.cu"
        path, name = {name: (path, name) for path, name in numpy_functions(file)}.get(
            operation.name, numpy_functions(file)[0])
        place = f"{path.relative_to(HERE.parent).as_posix()}:{name}"
    source = source_of(place)
    return f"[{re.split('[:.]', place)[-1]}](../{source.path}#L{source.first})"


def in_use(operation: Operation, version: str | None) -> str:
    """Where a version is the one that is used."""
    shipped = SHIPPED.get(operation.name) or USED.get(operation.name)
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
            rows.append([f"[{operation.name}]({file_of(operation)})", numpy_link(operation), version or "",
                         idea(operation, version), in_use(operation, version),
                         number(row["errors"].get("float32")), number(row["errors"].get("bfloat16")),
                         share(row["efficiency"].get("global")), share(row["efficiency"].get("shared"))])
    head = ["operation", "in NumPy", "version", "idea", "in use", "error, float32", "error, bfloat16", "sectors used",
            "banks used"]
    return f"{table(head, rows)}\n\nMeasured by the emulator, {record['date']}, {record['machine']}."


PARTS = {"versions": versions_table, "floors": predictions.floors_table, "anchors": predictions.anchors_list,
         "evidence": predictions.evidence_table, "executed": ptx.executed_table, "counted": ptx.counted_table}


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
