"""Scores of a run: what was answered, what was right, and how far chance alone would move it.

A request that failed counts neither as right nor as wrong. It is missing, is counted, and the score carries a dagger.
Ratings of a judge are scores on a longer scale, and are averaged in every way: the paper does not say how its 6.05 is,
and the released code mixes two kinds of means. Read `report.py` next.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tiny.config import TinyError
from tiny.evals import choices
from tiny.evals.intervals import Interval, interval, macro, paired, told_apart
from tiny.evals.metrics import LEVELS, METRICS, listed
from tiny.evals.ratings import LEAST, MOST, check_judges, judgements_of
from tiny.evals.run_folder import Run, without_address
from tiny.evals.standing import summary
from tiny.evals.tasks import Task
from tiny.system.reading import short

DAGGER = "\u2020"  # at a score that not all requests are in
MISSED = 0.5  # of the scale: a blind answer that scores less has missed
SAME = ("task", "items", "limit")  # what two runs of the same questions share
ASKED_ALIKE = (*SAME, "prompts", "model")  # and what also a blind run shares with the seeing one
RATED = "mean over turns"  # of ratings; and the means of means, over groups whose names begin so
MEANS = {"mean over categories": "category", "mean as released": ""}
Values = dict[str, float]  # by the id of the request
Scale = tuple[float, float]  # the least and the most that a score can be


def measures_of(task: Task) -> dict[str, Callable[[Mapping, Mapping], float]]:
    """What is measured of an answer's line and its request, by name: the task's metrics, and the levels of parsing."""
    if task.choices:
        return {name: lambda line, request, name=name: choices.score(  # type: ignore[misc]
            line["logprobs"], request["endings"], request["references"])[name] for name in task.metrics}
    known = {name: METRICS[name] for name in task.metrics}
    known |= {f"level {n}": level for n, level in enumerate(LEVELS)} if task.levels else {}
    return {name: lambda line, request, metric=metric: metric(line["text"], request["references"])  # type: ignore[misc]
            for name, metric in known.items()}


def values_of(run: Run, prompt: str) -> dict[str, Values]:
    """The scores of the answers to one prompt by each measure, in the order of the requests; of a judged task ratings.

    Raises:  TinyError for references that cannot be scored, and if nobody has judged the run
    """
    if run.task.judge:
        return {RATED: judgements_of(run, prompt)[0]}
    measures = measures_of(run.task)
    found: dict[str, Values] = {name: {} for name in measures}
    for request in run.requests:
        line = run.answers.get((prompt, request["id"]), {"error": ""})
        for name, measure in measures.items() if "error" not in line else ():
            try:
                found[name][request["id"]] = float(measure(line, request))
            except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
                raise TinyError(f"{run.folder / 'requests.jsonl'}, id {request['id']}: its references "
                                f"{short(request.get('references'))} cannot be scored: {error}.",
                                "Correct the references in the folder of items, and run again.") from None
    return found


def scale_of(run: Run, *several: Values) -> Scale:
    """From 0 to 1; of ratings from 1 to 10, and as far beyond as a judge went."""
    every = [value for values in several for value in values.values()]
    return (min([LEAST, *every]), max([MOST, *every])) if run.task.judge else (0.0, 1.0)


def row_of(run: Run, prompt: str, name: str, values: Values, scale: Scale, of: int,
           groups: Sequence[Sequence[str]] | None = None) -> dict[str, Any]:
    """One score with its interval, as reports hold it; with groups the mean of their means. Without any answer there
    is no value.

    of: how many requests there are, with those that have no answer
    """
    found = dict.fromkeys(Interval._fields)
    if values:
        drawn = list(values.values()), run.items(values)
        found = (interval(*drawn, *scale) if groups is None else macro(*drawn, groups, *scale))._asdict()
    return {"prompt": prompt, "measure": name, "n": len(values), "of": of, "most": scale[1]} | found


def groups_of(run: Run) -> dict[str, list[str]]:
    """Of a judged task the requests by category, and by turn, counted from 1."""
    found: dict[str, list[str]] = {}
    for request in run.requests if run.task.judge else ():
        for label in (f"category {request['category']}", f"turn {request['turn'] + 1}"):
            found.setdefault(label, []).append(request["id"])
    return dict(sorted(found.items()))


def chosen(values: Values, ids: Sequence[str]) -> Values:
    """The scores of some requests, those that there are."""
    return {one: values[one] for one in ids if one in values}


def step(before: Values, now: Values) -> dict[str, int]:
    """How many items a level makes right that the level before did not, and how many it loses."""
    gaps = [now[one] - before.get(one, 0.0) for one in now]
    return {"adds": sum(gap > 0 for gap in gaps), "loses": sum(gap < 0 for gap in gaps)}


def rows_of(run: Run, prompt: str, seen: dict[str, Values], guessed: dict[str, Values] | None,
            levels: Sequence[int] = range(4)) -> list[dict[str, Any]]:
    """The rows of one prompt: each measure, and of ratings every way to average them; beside them the blind scores.

    A mean over categories of which one has no rating would be the mean of others, and has no value.
    """
    scale, rows, before = scale_of(run, *seen.values(), *(guessed or {}).values()), [], dict[str, float]()
    groups, every = groups_of(run), [request["id"] for request in run.requests]
    for name, ids in (dict.fromkeys(seen, every) | groups).items():
        values = chosen(seen.get(name, seen.get(RATED, {})), ids)
        row = row_of(run, prompt, name, values, scale, len(ids))
        if name.startswith("level"):
            row, before = row | step(before, values), values
            if int(name[-1]) not in levels:
                continue
        if guessed:
            row["blind"] = beside_blind(run, row, values, chosen(guessed.get(name, guessed.get(RATED, {})), ids), scale)
        rows.append(row)
    for name, kind in MEANS.items() if run.task.judge else ():
        parts = {label: ids for label, ids in groups.items() if label.startswith(kind)}
        whole = seen[RATED] if all(chosen(seen[RATED], ids) for ids in parts.values()) else {}
        labels = [[label for label, ids in parts.items() if one in ids] for one in whole]
        rows.append(row_of(run, prompt, name, whole, scale, len(every), labels))
    return rows


def score_run(run: Run, levels: Sequence[int] = range(4), blind: Run | None = None) -> dict[str, Any]:
    """All scores of a run as one object: a row for each prompt and measure, and over several prompts their spread.

    blind: the same questions about plain colours; each row then also has the blind score, what seeing adds, and the
    score over the items that blind guessing misses
    """
    if blind is not None:
        check_blind(run, blind)
    rows: list[dict[str, Any]] = []
    found = summary(run)
    for prompt in run.prompts:
        seen = values_of(run, prompt)
        rows += rows_of(run, prompt, seen, values_of(blind, prompt) if blind else None, levels)
        found["standing"][prompt] |= {"bare": bare(run, prompt, seen)} if run.task.levels else {}
    return found | {"rows": rows, "prompts": spread(rows)}


def bare(run: Run, prompt: str, seen: Mapping[str, Values]) -> int:
    """How many answers are a reference, and nothing else, and count nowhere: even the rule that looks anywhere wants a
    sentence around a word.
    """
    return sum(run.answers[prompt, request["id"]]["text"].strip() in listed(request["references"])
               for request in run.requests if not any(values.get(request["id"], 1) for values in seen.values()))


def belongs(head: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the other run is the blind one of this run, by their heads."""
    return head["images"] != "blind" == other["images"] and not unlike(head, other, ASKED_ALIKE)


def unlike(head: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """In which of some keys two heads differ; the address of a server is none."""
    one, two = without_address(head), without_address(other)
    return [key for key in keys if one.get(key) != two.get(key)]


def check_blind(run: Run, blind: Run) -> None:
    """Raise TinyError unless the second run is the blind one of the first, and was judged as that was."""
    if not belongs(run.head, blind.head):
        differs = unlike(run.head, blind.head, ASKED_ALIKE)
        what = f"it differs in {', '.join(differs)}" if differs else f"its images are {blind.head['images']}"
        raise TinyError(f"{blind.folder} is not the blind run of {run.folder}: {what}.",
                        "Run the same task, items and prompts with the same model and --images blind.")
    if run.task.judge:
        check_judges(run, blind)


def beside_blind(run: Run, row: Mapping[str, Any], seen: Values, guessed: Values, scale: Scale) -> dict[str, Any]:
    """The blind score of one row, what seeing adds to it, and the score where guessing misses."""
    both = [one for one in seen if one in guessed]
    if not both:
        return {}
    gap = paired([guessed[one] for one in both], [seen[one] for one in both], run.items(both), *scale)
    missed = {one: seen[one] for one in both if guessed[one] < scale[0] + MISSED * (scale[1] - scale[0])}
    named = row["prompt"], row["measure"]
    return {"score": row_of(run, *named, guessed, scale, row["of"]), "adds": gap._asdict(),
            "missed": row_of(run, *named, missed, scale, len(missed))}


def spread(rows: Sequence[Mapping]) -> list[dict[str, Any]]:
    """Over several prompts, for each measure: mean, standard deviation and range, as the paper's study of prompts."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["value"] is not None:
            found.setdefault(row["measure"], []).append(row["value"])
    return [{"measure": name, "prompts": len(values), "mean": statistics.fmean(values), "sd": statistics.stdev(values),
             "least": min(values), "most": max(values)} for name, values in found.items() if len(values) > 1]


def difference(first: Run, second: Run) -> list[dict[str, Any]]:
    """The second run minus the first on the same questions, paired, for each prompt and measure that both have.

    Raises:  TinyError if they did not ask the same questions, or were not judged by the same judge in the same way
    """
    differs = unlike(first.head, second.head, SAME)
    prompts = [prompt for prompt in first.prompts if prompt in second.prompts]
    if differs or not prompts:
        raise TinyError(f"{first.folder} and {second.folder} cannot be compared: they differ in "
                        f"{' and '.join(differs) or 'all prompts'}.",
                        "Compare runs of the same task and items, with a prompt in common.")
    if first.task.judge:
        check_judges(first, second)
    rows = []
    for prompt in prompts:
        mine, other = values_of(first, prompt), values_of(second, prompt)
        for name, values in mine.items():
            both = [one for one in values if one in other[name]]
            a, b = ([found[name][one] for one in both] for found in (mine, other))
            if both:
                scale = scale_of(first, values, other[name])
                gap = paired(a, b, first.items(both), *scale)
                rows.append({"prompt": prompt, "measure": name, "n": len(both), "of": len(first.requests),
                             "first": statistics.fmean(a), "second": statistics.fmean(b), "difference": gap.value,
                             "low": gap.low, "high": gap.high, "told_apart": told_apart(gap),
                             "better": sum(y > x for x, y in zip(a, b)), "worse": sum(y < x for x, y in zip(a, b)),
                             "most": scale[1]})
    return rows
