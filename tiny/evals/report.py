"""What is printed of scores: tables for the eye, Markdown and JSON, each beside the published rows and never mixed with
them.

Read `figures.py` next.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny.evals.intervals import wilson
from tiny.evals.metrics import final_answer
from tiny.evals.run_folder import Run
from tiny.evals.scores import DAGGER, values_of
from tiny.evals.standing import in_words, whole
from tiny.evals.tasks import TASKS
from tiny.tools import markdown
from tiny.tools.terminal import clean, one_line

PUBLISHED = Path(__file__).parent / "published.json"
# The column of each task in the paper's table 2, how many items stand behind it if it is a share of right answers.
COLUMNS = {"mathvista": (0, 1000), "mmmu": (1, 900), "chartqa": (2, 2500), "docvqa": (3, None), "vqav2": (4, None),
           "mm_mt_bench": (5, None)}
OVER = "over the answers that are there, and rated if there is a judge; a request without is neither right nor wrong."
BESIDE = ["blind", "seeing adds", "where blind misses"]
Table = tuple[list[str], list[list[str]]]
Scored = Mapping[str, Any]  # of `scores.score_run` or `judge.score_judged`


def published(table: str) -> dict[str, Any]:
    """A table of the paper: the values of each model, of tables 2 and 7 in the order of COLUMNS."""
    found = json.loads(PUBLISHED.read_text(encoding="utf-8"))[table]
    return found.get("rows", found)


def number(row: Mapping[str, Any], key: str = "value") -> str:
    """One value of a row as it is printed: shares in per cent, ratings as they are; none as a dash."""
    value = row.get(key)
    return "-" if value is None else f"{100 * value:.1f}" if row["most"] == 1 else f"{value:.2f}"


def with_interval(row: Mapping[str, Any]) -> str:
    """A value with its interval, and a dagger if not all requests are in it."""
    if row["value"] is None:
        return "-"
    dagger = DAGGER * (row["n"] < row["of"])
    return f"{number(row)}{dagger} ({number(row, 'low')} to {number(row, 'high')})"


def title(scored: Scored) -> str:
    """What a table is about; of ratings also who judged, when and how."""
    images = "" if TASKS[scored["task"]].choices else f", {scored['images']} images"
    text = f"{scored['task']}: {scored['model']}{images}, asked on {scored['date']}"
    if judge := scored.get("judge"):
        sight = "with" if judge["image"] else "without"
        text += f"; judged by {judge['judge']} on {judge['date']}, {judge['form']} prompt, {sight} the image"
    return one_line(text)


def step_of(row: Mapping[str, Any]) -> str:
    """How many items a level makes right that the one before did not, and how many it loses."""
    if "adds" not in row:
        return ""
    return f"+{row['adds']:,}" + f" -{row['loses']:,}" * bool(row["loses"])


def beside(row: Mapping[str, Any]) -> list[str]:
    """What stands beside a score: the blind one, what seeing adds, and the score where blind misses."""
    if not (other := row.get("blind")):
        return ["", "", ""]
    return [with_interval(other["score"]), with_interval(row | other["adds"] | {"n": 0, "of": 0}),
            f"{with_interval(other['missed'])} of {other['missed']['n']:,}"]


def score_table(scored: Scored) -> Table:
    """A row for each prompt and measure of a run: the score with its interval; blind and what seeing adds, if known."""
    blind = any(row.get("blind") for row in scored["rows"])
    steps = any("adds" in row for row in scored["rows"])
    return (["prompt", "measure", "score, 95 % interval", "items"] + ["items it adds"] * steps + BESIDE * blind,
            [[one_line(row["prompt"], 40), row["measure"], with_interval(row), f"{row['n']:,}"]
             + [step_of(row)] * steps + beside(row) * blind for row in scored["rows"]])


def spread_table(scored: Scored) -> Table:
    """Over several prompts: mean, standard deviation and range of each measure."""
    scale = {row["measure"]: row["most"] for row in scored["rows"]}
    rows = []
    for one in scored["prompts"]:
        cells = [number({"value": one[key], "most": scale[one["measure"]]}) for key in ("mean", "sd", "least", "most")]
        rows.append([one["measure"], str(one["prompts"]), *cells[:2], " to ".join(cells[2:])])
    return ["measure", "prompts", "mean", "sd", "range"], rows


def published_table(tasks: Sequence[str]) -> Table:
    """The paper's rows for some tasks. Where the score is a share of right answers, its interval is Wilson's, from the
    number of items: the paper prints none.
    """
    tasks = [task for task in COLUMNS if task in tasks]
    rows = []
    for name, values in published("pixtral_table2").items():
        cells = []
        for column, items in (COLUMNS[task] for task in tasks):
            value = values[column]
            half = wilson(round(value / 100 * items), items) if items and value is not None else None
            cells.append("-" if value is None else f"{value:g}" if half is None else
                         f"{value:g} ({100 * half.low:.1f} to {100 * half.high:.1f})")
        rows.append([name, *cells])
    return ["published, table 2 of the paper", *tasks], rows


def levels_table(task: str) -> Table:
    """What the paper gives for the four levels of a task."""
    rows = published("pixtral_table5_levels_0_to_3")[task]
    return ([f"published, table 5, {task}", *(f"level {n}" for n in range(4))],
            [[name, *(f"{value:.1f}" for value in values)] for name, values in rows.items()])


def prompts_table(tasks: Sequence[str]) -> Table:
    """What the paper gives for the spread over ten prompts, which are not those of `paraphrases.json`."""
    rows = published("pixtral_table7_ten_prompts_level3_mean_sd").items()
    return (["published, table 7: ten other prompts, level 3", *(f"{task}: mean, sd" for task in tasks)],
            [[name, *("{:.1f}, {:.1f}".format(*values[COLUMNS[task][0]]) for task in tasks)] for name, values in rows])


def difference_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Two runs on the same questions, and whether they are told apart."""
    head = ["prompt", "measure", "items", "first", "second", "second minus first", "better, worse", "verdict"]
    return head, [[one_line(row["prompt"], 40), row["measure"], f"{row['n']:,}", number(row, "first"),
                   number(row, "second"), with_interval({**row, "value": row["difference"]}),
                   f"{row['better']:,}, {row['worse']:,}", "told apart" if row["told_apart"] else "not told apart"]
                  for row in rows]


def plain(table: Table) -> str:
    """A table for a terminal."""
    head, rows = table
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def in_markdown(table: Table) -> str:
    """A table for a page. Names come from files and servers, and could hold marks of Markdown."""
    head, rows = table
    return markdown.table(head, [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows])


def stands(scored: Scored) -> str:
    """What became of the requests, a line for each prompt."""
    return "\n".join(f"{one_line(name, 40)}: {in_words(stand)}" for name, stand in scored["standing"].items())


def difference_document(found: Sequence[Scored], rows: Sequence[Mapping[str, Any]]) -> str:
    """Two runs side by side: what they are, what became of their requests, and the differences."""
    heads = [f"{name} {title(one)}\n{stands(one)}" for name, one in zip(("first: ", "second:"), found)]
    dagger = [f"{DAGGER} {OVER}"] * any(row["n"] < row["of"] for row in rows)
    return "\n\n".join([*heads, *dagger, plain(difference_table(rows))])


def document(found: Sequence[Scored], shape: str = "plain", pictures: Sequence[str] = (), apart: bool = True) -> str:
    """A whole report, as text or as Markdown: a part for each run, then the published rows if they stand beside."""
    draw, mark = (in_markdown, "## ") if shape == "markdown" else (plain, "")
    parts = ["# Report"] * (shape == "markdown")
    for scored in found:
        parts += [mark + title(scored), stands(scored)]
        if not all(map(whole, scored["standing"].values())):
            parts.append(f"{DAGGER} {OVER}")
        parts.append(draw(score_table(scored)))
        if scored["prompts"]:
            parts.append(draw(spread_table(scored)))
    parts += [f"![{Path(name).stem}]({name})" for name in pictures]
    tasks = [scored["task"] for scored in found if scored["task"] in COLUMNS]
    if tasks and apart:
        parts += [mark + "Published, for comparison. Other data, judges and machines: not the same measurement.",
                  draw(published_table(tasks))]
        parts += [draw(levels_table(task)) for task in dict.fromkeys(tasks) if TASKS[task].levels]
        several = {scored["task"] for scored in found if scored["prompts"] and TASKS[scored["task"]].levels}
        parts += [draw(prompts_table(sorted(several)))] * bool(several)
    return "\n\n".join(parts) + "\n"


def items_table(run: Run) -> str:
    """A table of all requests as CSV, for a spreadsheet. What is missing is an empty cell; answers.jsonl has the texts
    as they came.
    """
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for n, prompt in enumerate(run.prompts):
        values = values_of(run, prompt)
        if not n:
            lines.writerow(["prompt", "id", "category", "accepted", "answer", "parsed", "error", *values])
        for request in run.requests:
            line = run.answers.get((prompt, request["id"]), {"error": "not asked yet"})
            text = line.get("text", str(line.get("logprobs", "")))
            parsed = final_answer(text) if run.task.levels else text.strip()
            cells = prompt, request["id"], request["category"] or "", str(request["references"]), text, parsed
            lines.writerow([*map(safe, cells), safe(line.get("error", "")),
                            *(found.get(request["id"], "") for found in values.values())])
    return out.getvalue()


def safe(text: str) -> str:
    """A text that a spreadsheet shows and does not compute: a model may say anything."""
    return "'" * text.startswith(("=", "+", "-", "@")) + clean(text, "\n\t")
