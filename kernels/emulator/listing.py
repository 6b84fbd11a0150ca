"""What profile mode counted, as a table by source line and as a listing of the kernel with its figures in the margin.

Global memory is served in sectors of 32 bytes, shared memory in cycles of 32 banks. What an access used is the
smallest number that could have served its bytes, in percent of the number that it took.
"""

import re
from collections import defaultdict


def share(ideal: int, work: int) -> str:
    return f"{100 * ideal / work:.0f} %" if work else ""


def access_table(rows: list, path: str) -> str:
    """One line for every access of every source line, as text.

    Shapes:  rows of the profile, in any order -> lines of equal columns
    """
    if not rows:
        return "No access to memory was counted."
    head = ("line", "access", "bytes", "requests", "work", "ideal", "used")
    body = [(str(row.line) if row.file == path else f"{row.file}:{row.line}", f"{row.memory} {row.access}",
             str(row.bytes), f"{row.requests:,}", f"{row.work:,}", f"{row.ideal:,}", share(row.ideal, row.work))
            for row in sorted(rows, key=lambda row: (row.file != path, row))]
    return columns([head, *body], left=(1,)) + (
        f"\n\n{total(rows, 'global', 'sectors')}; {total(rows, 'shared', 'cycles')}.\n"
        "bytes: of one lane; requests: by a warp; work: sectors of 32 bytes (global), cycles (shared);\n"
        "ideal: the least work possible; used: ideal / work.")


def total(rows: list, memory: str, unit: str) -> str:
    work, ideal = (sum(getattr(row, name) for row in rows if row.memory == memory) for name in ("work", "ideal"))
    return f"{memory} memory: {work:,} {unit}" + (f", {share(ideal, work)} used" if work else "")


def columns(rows: list[tuple[str, ...]], left: tuple[int, ...] = ()) -> str:
    """Rows as text with aligned columns, to the right except where `left` says so."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows)


def listing(source: str, kernel: str, rows: list, path: str) -> str:
    """The kernel's source with sectors and cycles in the margin; device functions that were counted follow it."""
    lines = source.splitlines()
    figures: dict[str, dict] = {"global": defaultdict(lambda: [0, 0]), "shared": defaultdict(lambda: [0, 0])}
    for row in rows:
        if row.file == path:
            sums = figures[row.memory][row.line]
            sums[0], sums[1] = sums[0] + row.work, sums[1] + row.ideal
    shown = set(extent(lines, kernel))
    counted = set(figures["global"]) | set(figures["shared"])
    for line in sorted(counted - shown):
        shown |= set(around(lines, line))
    cells = {line: [text for space in ("global", "shared") for work, ideal in [figures[space].get(line, (0, 0))]
                    for text in (f"{work:,}" if work else "", share(ideal, work))] for line in shown}
    widths = [max([minimum, *(len(row[i]) for row in cells.values())]) for i, minimum in enumerate((7, 5, 6, 5))]
    margin = lambda row: "  ".join(cell.rjust(width) for cell, width in zip(row, widths))
    out = [margin(("global", "", "shared", "")), margin(("sectors", "used", "cycles", "used")) + "  line"]
    last = None
    for line in sorted(shown):
        if last is not None and line != last + 1:
            out.append("")
        out.append(f"{margin(cells[line])}  {line:4d}  {lines[line - 1]}".rstrip())
        last = line
    return "\n".join(out)


def extent(lines: list[str], kernel: str) -> range:
    """The line numbers of a kernel, from its qualifiers to its closing brace; all lines if it is not found."""
    name = re.escape(kernel.split("<")[0])
    text = "\n".join(lines)
    found = re.search(rf"^[^\n]*__global__[^;{{]*?\b{name}\s*\(", text, re.M)
    if not found:
        return range(1, len(lines) + 1)
    first = text.count("\n", 0, found.start()) + 1
    return range(first, closing(lines, first) + 1)


def around(lines: list[str], line: int) -> range:
    """The line numbers of the function that holds a line: from the last line that begins at the margin and opens it."""
    first = line
    while first > 1 and not re.match(r"[\w_].*[({]", lines[first - 1]):
        first -= 1
    last = closing(lines, first)
    return range(first, last + 1) if first <= line <= last else range(line, line + 1)


def closing(lines: list[str], first: int) -> int:
    """The line of the brace that closes the first one opened at or after a line. Comments and strings are skipped."""
    depth, opened = 0, False
    for number in range(first, len(lines) + 1):
        code = re.sub(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|//.*', "", lines[number - 1])
        for mark in re.findall(r"[{}]", code):
            depth += 1 if mark == "{" else -1
            opened = True
        if opened and depth <= 0:
            return number
    return len(lines)

