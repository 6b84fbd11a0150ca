"""Three pictures of a report: bars with intervals, a radar, and the stairs of the levels. What the paper gives for
Pixtral has a panel of its own. Read `commands.py` next.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tiny.evals.report import COLUMNS, OVER, Scored, published
from tiny.evals.scores import DAGGER
from tiny.tools.plots import DASHES, shade
from tiny.tools.terminal import one_line

PIXTRAL = "Pixtral 12B"
TURNED = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}


def label_of(scored: Scored) -> str:
    """What a run is called in a picture."""
    return one_line(f"{scored['model']}, {scored['images']}", 40)


def judges(found: Sequence[Scored]) -> str:
    """Who rated, and when: a part of every title in which ratings are."""
    said = {f"{scored['task']}: rated by {scored['judge']['judge']} on {scored['judge']['date']}"
            for scored in found if "judge" in scored}
    return "\n".join(one_line(one, 110) for one in sorted(said))


def height_of(row: Mapping[str, Any], key: str = "value") -> float:
    """A value on a scale from 0 to 100, a rating too."""
    return 100 * row[key] / row["most"]


def ends(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """How far intervals reach below and above their values, as Matplotlib wants error bars."""
    return [[height_of(row) - height_of(row, "low") for row in rows],
            [height_of(row, "high") - height_of(row) for row in rows]]


def grouped(found: Sequence[Scored]) -> tuple[list[str], dict[str, dict[str, Mapping[str, Any]]], dict[str, float]]:
    """The tasks; of each run, by label and task, the row that stands for it, of the first prompt and measure that has a
    value; and what is published.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for scored in found:
        row = next((row for row in scored["rows"] if row["value"] is not None), None)
        if row is not None:
            groups.setdefault(label_of(scored), {})[scored["task"]] = row
            if row.get("blind"):
                label = one_line(f"{scored['model']}, blind", 40)
                groups.setdefault(label, {})[scored["task"]] = row["blind"]["score"]
    tasks = list(dict.fromkeys(task for rows in groups.values() for task in rows))
    values = {task: published("pixtral_table2")[PIXTRAL][COLUMNS[task][0]] for task in tasks if task in COLUMNS}
    return tasks, groups, {task: 10 * value if task == "mm_mt_bench" else value for task, value in values.items()}


def bars(found: Sequence[Scored]) -> Any:
    """Left: each score of the report as a bar with its interval. Right, apart: what the paper gives for Pixtral."""
    from matplotlib.figure import Figure

    tasks, groups, known = grouped(found)
    figure = Figure(figsize=(5.2 + 1.5 * len(tasks), 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    width = 0.8 / max(1, len(groups))
    for n, (label, rows) in enumerate(groups.items()):
        places = [tasks.index(task) + (n - (len(groups) - 1) / 2) * width for task in rows]
        left.bar(places, list(map(height_of, rows.values())), width, yerr=ends(list(rows.values())), capsize=3,
                 label=label, color=shade(n + 1, len(groups) + 1), edgecolor="black", linewidth=0.5, ecolor="black")
        for place, row in zip(places, rows.values()):
            left.text(place, 101, DAGGER * (row["n"] < row["of"]), ha="center")
    left.set_xticks(range(len(tasks)), tasks, **TURNED)
    left.set(ylim=(0, 108), ylabel="per cent; ratings of 10 as tenths")
    left.set_title("this report, with intervals of 95 %", fontsize=10)
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    right.bar(range(len(known)), known.values(), 0.6, color="white", edgecolor="black", hatch="///", linewidth=0.8)
    right.set_xticks(range(len(known)), list(known), **TURNED)
    right.set_title(f"published: {PIXTRAL}", fontsize=10)
    lacking = any(row["n"] < row["of"] for rows in groups.values() for row in rows.values())
    figure.suptitle((judges(found) + f"\n{DAGGER} {OVER}" * lacking).strip(), fontsize=8)
    return figure


def radar(found: Sequence[Scored]) -> Any | None:
    """A corner for each task, a line for each model. None for fewer than three tasks, which have no corners."""
    from matplotlib.figure import Figure

    tasks, groups, known = grouped(found)
    if len(tasks) < 3:
        return None
    figure = Figure(figsize=(9.0, 5.0))
    figure.subplots_adjust(top=0.82, bottom=0.16, wspace=0.45)
    panels = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    lines = {label: {task: height_of(row) for task, row in rows.items()} for label, rows in groups.items()}
    for panel, drawn, name in zip(panels, (lines, {PIXTRAL: known}), ("this report", f"published: {PIXTRAL}")):
        for n, (label, values) in enumerate(drawn.items()):
            corners = [tasks.index(task) * 2 * math.pi / len(tasks) for task in values]
            heights = list(values.values())
            panel.plot([*corners, *corners[:1]], [*heights, *heights[:1]], color=shade(n, len(drawn)), marker="o",
                       markersize=3, linestyle=DASHES[n % len(DASHES)], label=label)
        panel.set_xticks([n * 2 * math.pi / len(tasks) for n in range(len(tasks))], tasks, fontsize=9)
        panel.set(ylim=(0, 100), theta_offset=math.pi / 2)
        panel.set_yticks((25, 50, 75, 100), ("25", "50", "75", ""), fontsize=7)
        panel.tick_params(axis="x", pad=8)
        panel.set_title(name, fontsize=10, pad=32)
    figure.suptitle(judges(found), fontsize=8)
    panels[0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    return figure


def stairs(found: Sequence[Scored]) -> Any | None:
    """How the score rises as the parser forgives more, a panel for each run that has levels; None without any."""
    from matplotlib.figure import Figure

    kept = [(scored, [row for row in scored["rows"] if row["measure"].startswith("level") and row["value"] is not None
                      and row["prompt"] == scored["rows"][0]["prompt"]]) for scored in found]
    kept = [(scored, rows) for scored, rows in kept if len(rows) > 1]
    if not kept:
        return None
    figure = Figure(figsize=(1.2 + 2.9 * len(kept), 3.5), layout="constrained")
    for panel, (scored, rows) in zip(figure.subplots(1, len(kept), sharey=True, squeeze=False)[0], kept):
        values, middles = list(map(height_of, rows)), [n + 0.5 for n in range(len(rows))]
        panel.stairs(values, range(len(values) + 1), color=shade(0, 2), linewidth=2, baseline=None)
        panel.errorbar(middles, values, fmt="none", capsize=4, ecolor="0.35", yerr=ends(rows))
        for n, (value, row) in enumerate(zip(values, rows)):
            panel.text(n + 0.08, value + 2, f"+{row['adds']}" if n else str(row["adds"]), fontsize=8)
        panel.set_xticks(middles, [row["measure"] for row in rows], fontsize=8)
        panel.set(ylim=(0, 112))
        panel.set_title(f"{scored['task']}: {label_of(scored)}", fontsize=9)
    figure.supylabel("per cent right", fontsize=9)
    return figure
