"""How a run stands: what became of its requests, in numbers and as a sentence. Read `judge.py` next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tiny.evals.clients import ABSENT
from tiny.evals.ratings import FILE, judgements_of, read_judgements
from tiny.evals.run_folder import Run
from tiny.tools.terminal import one_line


def standing(run: Run, prompt: str) -> dict[str, Any]:
    """What became of the requests with one prompt: how many were answered, failed and are still to be asked; how many
    answers are empty, were cut at the limit of tokens or refused by a filter; and why requests failed.
    """
    lines = [run.answers[prompt, request["id"]] for request in run.requests if (prompt, request["id"]) in run.answers]
    answered = [line for line in lines if "error" not in line]
    filtered = [line for line in answered if line.get("finish_reason") == "content_filter"]
    causes = [line["error"] for line in lines if "error" in line]
    absent = sum(cause.startswith(ABSENT) for cause in causes)
    found = {"of": len(run.requests), "answered": len(answered), "failed": len(causes) - absent, "absent": absent,
             "unasked": len(run.requests) - len(lines), "filtered": len(filtered),
             "empty": sum(not line.get("text", "-").strip() for line in answered if line not in filtered),
             "cut": sum(line.get("finish_reason") == "length" for line in answered)}
    others = [line["model"] for line in answered if line.get("model")]
    return found | ({"why": most_frequent(causes)} if causes else {}) | (
        {"other": most_frequent(others)} if others else {})


def counted(number: int, what: str) -> str:
    """How many there are of something: 1 item, 2 items."""
    return f"{number:,} {what}" + "s" * (number != 1)


def most_frequent(causes: Sequence[str]) -> str:
    """The cause that most have, and how many that are."""
    cause, count = Counter(causes).most_common(1)[0]
    return f"{count:,} of {len(causes):,}: {one_line(cause, 200).rstrip('.')}"


def in_words(stand: Mapping[str, Any]) -> str:
    """The same as a sentence: answered 897 of 900; 3 failed, 12 empty (failed, 2 of 3: cause)."""
    words = {"unasked": "not asked yet", "filtered": "refused by a filter", "absent": "not in the file",
             "bare": "equal a reference and count nowhere"}
    rest = [f"{stand[key]:,} {words.get(key, key)}"
            for key in ("failed", "absent", "unasked", "empty", "cut", "filtered", "bare") if stand.get(key)]
    text = f"answered {stand['answered']:,} of {stand['of']:,}" + f"; {', '.join(rest)}" * bool(rest)
    text += f" (failed, {stand['why']})" if stand["failed"] else ""
    text += f" (by another model, {stand['other']})" if "other" in stand else ""
    text += f"; rated {stand['rated']:,} of {stand['answered']:,}" if "rated" in stand else ""
    text += f" (by another judge, {stand['rater']})" if "rater" in stand else ""
    return text + (f" (without a rating, {stand['unrated']})" if "unrated" in stand else "")


def whole(stand: Mapping[str, Any]) -> bool:
    """Whether everything was answered, and rated if there is a judge."""
    return stand["of"] == stand["answered"] == stand.get("rated", stand["of"])


def summary(run: Run) -> dict[str, Any]:
    """What a report says of a run before its scores: what it is, who judged, and what became of the requests."""
    judge = {"judge": read_judgements(run.folder / FILE)[0]} if run.task.judge else {}
    stand = {prompt: standing(run, prompt) for prompt in run.prompts}
    for prompt in run.prompts if judge else ():
        ratings, lacking, others = judgements_of(run, prompt)
        stand[prompt] |= {"rated": len(ratings)} | ({"unrated": most_frequent(lacking)} if lacking else {})
        stand[prompt] |= {"rater": most_frequent(others)} if others else {}
    return {"task": run.task.name, "model": run.head["model"]["name"], "images": run.head["images"],
            "date": run.head["date"]} | judge | {"standing": stand}
