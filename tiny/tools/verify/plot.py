"""The picture of `verify check --plot`: the relative error of every array, layer by layer, on a logarithmic scale."""

import numpy as np

from tiny.tools.verify.printed import group_of
from tiny.tools.verify.report import ArrayRow, Report

EQUAL = 1e-9  # where the picture shows what is equal to the bit


def error_by_layer(report: Report):
    """A figure with the whole run as a line and each operation alone as marks."""
    from matplotlib.figure import Figure

    rows = [row for row in report.arrays if row.compared]
    figure = Figure(figsize=(max(6.0, min(14.0, 1.8 + 0.1 * len(rows))), 3.8), layout="constrained")
    panel = figure.subplots()
    values = draw_errors(panel, rows)
    mark_layers(panel, [group_of(row.name) for row in rows])
    panel.set(yscale="log", ylabel="relative error, worst row", ylim=(EQUAL / 3, max(1e-4, 40 * max(values))))
    panel.axhline(EQUAL, color="0.8", linewidth=0.8, linestyle=":", zorder=0)
    panel.text(0.995, EQUAL * 1.3, "equal to the bit", fontsize=7, color="0.4", ha="right", va="bottom",
               transform=panel.get_yaxis_transform())
    name_first_place(panel, report, rows)
    figure.legend(*panel.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_errors(panel, rows: list[ArrayRow]) -> list[float]:
    """Draw the line and the marks; return the values that are shown."""
    run = [(n, drawn(row.worst)) for n, row in enumerate(rows) if row.percent is not None]
    if run:
        panel.plot(*zip(*run), color="0.55", linewidth=1.2, label="whole run, from the ids on", zorder=1)
    alone = [(n, drawn(row.step_error), not row.step_percent <= 100) for n, row in enumerate(rows)
             if row.step_percent is not None]
    for over, colour, marker, size, label in ((False, "#00204d", "o", 12, "each operation alone"),
                                              (True, "#c1272d", "X", 44, "alone, over its tolerance")):
        points = np.array([(n, error) for n, error, beyond in alone if beyond == over])
        if len(points):
            panel.scatter(points[:, 0], points[:, 1], size, colour, marker=marker, label=label, zorder=2)
    return [value for _, value in run] + [error for _, error, _ in alone] or [EQUAL]


def name_first_place(panel, report: Report, rows: list[ArrayRow]) -> None:
    """Write the operation that differs first beside its mark."""
    for place in report.places[:1]:
        at = next((n for n, row in enumerate(rows) if row.name == place.array), 0)
        left = at < 0.55 * len(rows)
        panel.annotate(place.operation, (at, drawn(place.error)), fontsize=9, color="#c1272d", va="bottom",
                       xytext=(6 if left else -6, 7), textcoords="offset points", ha="left" if left else "right")


def drawn(error: float | None) -> float:
    """An error where a logarithmic scale can show it."""
    return min(max(error or 0.0, EQUAL), 1e6)


def mark_layers(panel, groups: list[str]) -> None:
    """A line and a name where each layer begins; names that would overlap are left out."""
    starts = [n for n, group in enumerate(groups) if n == 0 or group != groups[n - 1]]
    for n in starts:
        panel.axvline(n - 0.5, color="0.9", linewidth=0.8, zorder=0)
    room = max(2.0, len(groups) / 45)
    named: list[int] = []
    for n in sorted(starts, key=lambda n: (groups[n] in ("vision_ln_pre", "norm", "embed"), n)):
        if all(abs(n - other) >= room for other in named):
            named.append(n)
    panel.set_xticks(sorted(named), [groups[n] for n in sorted(named)], rotation=60, ha="right", fontsize=7)
