"""What `verify check` prints and draws: inputs, a verdict, a table, and the error by layer."""

import re
from collections.abc import Iterator

import numpy as np

HEAD = ("array", "max error", "mean", "rel. L2", "cosine", "% of tol.", "alone", "% of tol.")
NUMBERS = ("max", "mean", "relative_l2", "percent", "step_error", "step_percent")
LEGEND = ("The first five numbers are of the whole run, from the ids on; of arrays without a first percentage, alone.",
          "alone: relative error of the worst row of this operation on the other's own inputs. More than 100 % of its",
          "tolerance there is where the two part.")


def lines(report: dict, every: bool = False) -> Iterator[str]:
    """The report as text."""
    theirs, ours = report["theirs"], report["ours"]
    yield f"theirs   {described(theirs)}"
    yield f"ours     {described(ours)}"
    marks = theirs.get("fingerprint"), ours.get("fingerprint")
    if all(marks):
        yield "weights  " + ("the same fingerprint" if marks[0] == marks[1] else
                             "other fingerprints: the files do not hold the same numbers")
    for name in ("pixels", "grids", "ids"):
        if name in report["inputs"] and report["inputs"][name] != "none":
            yield f"{name:<8} {report['inputs'][name]}"
    if report.get("unknown"):
        yield f"unknown  arrays that nobody knows, not compared: {', '.join(report['unknown'][:8])}"
    yield ""
    yield from verdict(report)
    if report["inputs"]["fits"]:
        yield ""
        yield from table(report, every)
        yield from choices(report)
        yield from predictions(report)


def described(record: dict) -> str:
    """One side in a line."""
    parts = [record.get("model"), record.get("implementation"), record.get("precision")]
    parts += [f"{key} {record[key]}" for key in ("attention", "experts") if record.get(key)]
    return ", ".join(printable(part) for part in parts if part)


def printable(text) -> str:
    """A value of a file from anywhere, as a short piece of one line."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:80]


def verdict(report: dict) -> Iterator[str]:
    """The first lines that a reader needs: the same, or where and why not."""
    for finding in report["inputs"]["findings"]:
        yield f"DIFFERS  inputs: {finding}"
    if not report["inputs"]["fits"]:
        yield "         nothing else was compared: give both the same inputs first"
        return
    for n, place in enumerate(report["places"]):
        if n == 0:
            yield f"DIFFERS  first in {place['operation']}; array {place['array']}, relative error {place['error']:.1e}"
            if place.get("rows"):
                yield f"         rows {', '.join(map(str, place['rows']))}{' ...' if len(place['rows']) == 8 else ''}"
            for reason in place["reasons"]:
                yield f"         {reason}"
        elif n < 5:
            yield f"         also {place['operation']}; array {place['array']}, relative error {place['error']:.1e}"
    if len(report["places"]) > 5:
        yield f"         and {len(report['places']) - 5} more"
    if not report["status"]:
        compared = sum("percent" in row or "step_percent" in row for row in report["arrays"])
        yield f"SAME     all {compared} arrays are within their tolerances"
    steps = sum("step_percent" in row for row in report["arrays"])
    if len(report["places"]) > max(5, steps / 2):
        yield "note     most operations differ: these are other weights altogether, or another version of them"
    if "first_unequal" in report:
        yield ("note     two files: whole runs are compared, not single operations; "
               + (f"the first array that is not the same to the bit is {report['first_unequal']}"
                  if report["first_unequal"] else "all arrays are the same to the bit"))
    if report["tie"]:
        yield (f"note     from {report['tie']} on, tokens whose experts were nearly tied may go other ways; the whole "
               "run is not judged after that, each operation alone is")


def table(report: dict, every: bool) -> Iterator[str]:
    """A line for every array, or one with the worst of each layer, and every array of a layer that differs."""
    yield row_of(HEAD)
    broken = {layer_of(place["array"]) for place in report["places"]}
    groups: dict[str, list[dict]] = {}
    for row in report["arrays"]:
        if "percent" in row or "step_percent" in row:
            groups.setdefault(layer_of(row["name"]), []).append(row)
    for layer, rows in groups.items():
        if every or layer in broken or len(rows) == 1:
            yield from map(cells, rows)
        else:
            largest = {key: max(row[key] for row in rows if key in row) for key in NUMBERS
                       if any(key in row for row in rows)}
            yield cells(largest | {"name": f"{layer} ({len(rows)})", "cosine": min(row["cosine"] for row in rows),
                                   "after_tie": any(row.get("after_tie") for row in rows)})
    yield from LEGEND


def layer_of(name: str) -> str:
    """The group of an array: its layer, or itself."""
    number = re.findall(r"\d*$", name)[0]
    return ("vision " * name.startswith("vision_") + f"layer {number}") if number else name


def row_of(values) -> str:
    """One line of the table."""
    return "".join(f"{value:<24}" if n == 0 else f"{value:>11}" for n, value in enumerate(values))


def cells(row: dict) -> str:
    """One array as a line."""
    def number(key, form):
        return format(row[key], form) if key in row else "-"

    mark = "~" * bool(row.get("after_tie"))
    return row_of([row["name"], *(number(key, ".1e") for key in ("max", "mean", "relative_l2")),
                   number("cosine", ".7f"), mark + number("percent", ".0f"), number("step_error", ".1e"),
                   number("step_percent", ".0f")])


def choices(report: dict) -> Iterator[str]:
    """Agreement of the experts, with every disagreement."""
    if not report["experts"]:
        return
    equal, rows = (sum(layer[key] for layer in report["experts"]) for key in ("equal", "rows"))
    yield ""
    yield f"experts  {equal:,} of {rows:,} tokens and layers chose the same, in the same order"
    wrong = [(layer["layer"], one) for layer in report["experts"] for one in layer["differ"]]
    for layer, one in wrong[:12]:
        yield (f"         layer {layer}, row {one['row']}: theirs {one['theirs']}, ours {one['ours']}; their logits "
               f"are {one['gap']:.1e} apart, ours differ from them by {one['error']:.1e}: "
               f"{meaning(one)}")
    if len(wrong) > 12:
        yield f"         and {len(wrong) - 12} more"


def meaning(one: dict) -> str:
    """Why one choice of experts may differ."""
    if one["tie"]:
        return "a tie within rounding"
    return "no tie" if one["gap"] > 2 * one["error"] else "the logits themselves differ"


def predictions(report: dict) -> Iterator[str]:
    """Agreement of the predictions and of the greedy tokens."""
    found = report.get("distribution")
    if found:
        yield (f"next     top-1 equal in {found['top1']} of {found['rows']} rows, top-5 shared "
               f"{100 * found['top5']:.1f} %, KL mean {found['kl_mean']:.1e}, largest {found['kl_max']:.1e} nats")
    greedy = report.get("greedy")
    if greedy:
        gap = "" if greedy.get("gap") is None else f"; at the first that differs theirs led by {greedy['gap']:.1e}"
        yield f"greedy   {greedy['equal']} of {greedy['tokens']} tokens equal{gap}"


EQUAL = 1e-9  # where a picture shows what is equal to the bit


def error_by_layer(report: dict):
    """A picture of the relative error: of the whole run as a line, of each operation alone as marks, on a log scale."""
    from matplotlib.figure import Figure

    rows = [row for row in report["arrays"] if "percent" in row or "step_percent" in row]
    figure = Figure(figsize=(max(6.0, min(14.0, 1.8 + 0.1 * len(rows))), 3.8), layout="constrained")
    panel = figure.subplots()
    run = [(n, shown(row["worst"])) for n, row in enumerate(rows) if "percent" in row]
    if run:
        panel.plot(*zip(*run), color="0.55", linewidth=1.2, label="whole run, from the ids on", zorder=1)
    alone = [(n, shown(row["step_error"]), row["step_percent"] > 100) for n, row in enumerate(rows)
             if "step_percent" in row]
    for over, colour, marker, size, label in ((False, "#00204d", "o", 12, "each operation alone"),
                                              (True, "#c1272d", "X", 44, "alone, over its tolerance")):
        points = np.array([(n, error) for n, error, beyond in alone if beyond == over])
        if len(points):
            panel.scatter(points[:, 0], points[:, 1], size, colour, marker=marker, label=label, zorder=2)
    mark_layers(panel, [layer_of(row["name"]) for row in rows])
    values = [value for _, value in run] + [error for _, error, _ in alone] or [EQUAL]
    panel.set(yscale="log", ylabel="relative error, worst row", ylim=(EQUAL / 3, max(1e-4, 40 * max(values))))
    panel.axhline(EQUAL, color="0.8", linewidth=0.8, linestyle=":", zorder=0)
    panel.text(0.995, EQUAL * 1.3, "equal to the bit", fontsize=7, color="0.4", ha="right", va="bottom",
               transform=panel.get_yaxis_transform())
    for place in report["places"][:1]:
        at = next((n for n, row in enumerate(rows) if row["name"] == place["array"]), 0)
        left = at < 0.55 * len(rows)
        panel.annotate(place["operation"], (at, shown(place["error"])), fontsize=9, color="#c1272d", va="bottom",
                       xytext=(6 if left else -6, 7), textcoords="offset points", ha="left" if left else "right")
    figure.legend(*panel.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3, frameon=False)
    return figure


def shown(error: float) -> float:
    """An error where a logarithmic scale can show it."""
    return min(max(error, EQUAL), 1e6)


def mark_layers(panel, groups: list[str]) -> None:
    """A line and a name where each layer begins; names that would lie on each other are left out."""
    starts = [n for n, group in enumerate(groups) if n == 0 or group != groups[n - 1]]
    for n in starts:
        panel.axvline(n - 0.5, color="0.9", linewidth=0.8, zorder=0)
    room = max(2.0, len(groups) / 45)
    named: list[int] = []
    for n in sorted(starts, key=lambda n: (groups[n] in ("vision_ln_pre", "norm", "embed"), n)):
        if all(abs(n - other) >= room for other in named):
            named.append(n)
    panel.set_xticks(sorted(named), [groups[n] for n in sorted(named)], rotation=60, ha="right", fontsize=7)
