"""What was found, a line for each check, and as JSON."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tiny.system.whole import write_whole
from tiny.tools.plots import write_figure
from tiny.tools.terminal import one_line
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.numbers import Numbers
from tiny.tools.verify.server.plot import deviation_by_position
from tiny.tools.verify.server.probe import Way

STATES = {"healthy": True, "faulty": False, "cannot tell": None}
MARKS = {True: "ok", False: "FAULT", None: "note"}


class Line(NamedTuple):
    """The result of one check. good: whether it speaks for the server; None says nothing of that

    repair: what would mend it; data: its numbers, for JSON
    """

    check: str
    good: bool | None
    words: str
    repair: str = ""
    data: Mapping[str, Any] | None = None

    def shown(self) -> list[str]:
        """The check as lines of the report."""
        first = f"{self.check:<8} {MARKS[self.good]:<6} {one_line(self.words)}"
        return [first] + ([f"{'':<15} to mend: {one_line(self.repair)}"] if self.repair else [])


def status_of(lines: Sequence[Line], state: str) -> int:
    """The exit status: 1 if anything is faulty; 2 if the numbers tell nothing; 0 for a healthy server."""
    if state == "faulty" or any(line.good is False for line in lines):
        return 1
    return 0 if state == "healthy" else 2


def as_json(values: Mapping[str, Any]) -> str:
    """What was found as JSON; a number that is none becomes null."""
    return json.dumps(plain(values), indent=1, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tell(args: argparse.Namespace, server: Server, way: Way, lines: list[Line], found: Numbers | None) -> int:
    """Print the report, and write JSON and the picture; return the exit status."""
    state = "faulty" if found is None else found.verdict.state
    status = status_of(lines, state)
    shown = [text for line in lines for text in line.shown()]
    shown.append(f"{server.where.text}: {('healthy', 'faulty', 'nothing can be told')[status]}")
    print("\n".join(shown), file=sys.stderr if args.json == "-" else sys.stdout)
    if args.json:
        values = {"format": 1, "server": server.where.text, "status": status, "way": way, "lines": lines,
                  "requests": server.requests} | ({} if found is None else found.facts())
        write_whole("/dev/stdout" if args.json == "-" else args.json, as_json(values))
    if args.plot and found is not None:
        write_figure(args.plot, deviation_by_position(found.deviations, found.explained, found.verdict.bound,
                                                      found.verdict.words), dpi=150)
    return status
