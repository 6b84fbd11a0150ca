"""What was found: a line for each check, JSON, and a picture of how far the server is, position by position."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tiny.system.whole import write_whole
from tiny.tools.plots import write_figure
from tiny.tools.terminal import one_line
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.numbers import Numbers
from tiny.tools.verify.server.probe import Way

STATES = {"healthy": True, "faulty": False, "cannot tell": None}
SMOOTH = 24  # positions of the moving mean in the picture
LEAST = 1e-6  # nats that the picture shows
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


def deviation_by_position(deviations: Sequence[np.ndarray], explained: Sequence[np.ndarray] | None, bound: float,
                          words: str):
    """A figure: the mean over texts, and a moving mean of it; the same with the named fault assumed, and the bound.

    Shapes:  deviations, explained: (T,) nats for each text, NaN where nothing was said
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panel = figure.subplots()
    mean = over_texts(deviations)
    panel.scatter(np.arange(len(mean)), np.maximum(mean, LEAST), 5, "0.7", label="each position")
    panel.plot(np.maximum(smooth(mean), LEAST), color="#00204d", label="from the healthy reference")
    if explained is not None:
        panel.plot(np.maximum(smooth(over_texts(explained)), LEAST), "--", color="#c1272d",
                   label="from the reference with the fault that was named")
    panel.axhline(bound, color="0.4", linewidth=0.9, linestyle=":", label="what rounding explains, on average")
    panel.set(yscale="log", xlabel="position in the text", ylabel="nats", xlim=(0, len(mean) - 1))
    panel.set_title(words, fontsize=9)
    panel.legend(fontsize=8, loc="best")
    return figure


def over_texts(deviations: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of each position over the texts that have it. Shapes:  (T,) each -> (longest,), NaN where none says it.
    """
    longest = max(map(len, deviations))
    rows = np.stack([np.pad(one, (0, longest - len(one)), constant_values=np.nan) for one in deviations])
    said = ~np.isnan(rows)
    return np.divide(np.where(said, rows, 0).sum(0), said.sum(0), out=np.full(longest, np.nan), where=said.any(0))


def smooth(values: np.ndarray) -> np.ndarray:
    """A moving mean of what is there. Shapes:  (T,) -> (T,)."""
    said = ~np.isnan(values)
    window = np.ones(min(SMOOTH, len(values)))
    total, count = (np.convolve(x, window, "same") for x in (np.where(said, values, 0), said.astype(float)))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)
