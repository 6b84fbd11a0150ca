"""What a judge has said, as the file of judgements of a run keeps it, and the ratings that this means.

Read `standing.py` next.
"""

import ast
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from tiny.config import TinyError
from tiny.evals.lines import Wrong, at, check, read_lines
from tiny.evals.run_folder import Run
from tiny.system.reading import short

FORMS = ("repaired", "published")  # of the prompt; the first is the default
FILE = "judgements.jsonl"
LEAST, MOST = 1.0, 10.0
LARGEST = 1e9  # a "rating" beyond is none, because averages of it would not be numbers
# The first line of a file of judgements, and the others.
HEAD = {"judge": str, "date": str, "form": FORMS, "image": bool, "tries": int}
LINE = {"id": str, "prompt": str, "answer": str, "rating": (float, int, NoneType),
        "replies": [({"text": str, "model": (str, NoneType), ...: object}, {"error": str, ...: object})]}


def read_rating(text: str) -> float | None:
    """The first [[number]] as the released code reads it, of any size; None where that gives -1.

    Raises:  SyntaxError for a number such as 07, which Python does not allow
    Source:  mistral-evals d61811fc, eval/tasks/mm_mt_bench.py
    """
    found = re.search(r"\[\[(\d+(?:\.\d*)?)\]\]", text)
    return ast.literal_eval(found[1]) if found else None


def rating_of(text: str, form: str) -> float | None:
    """The rating that a judge gives, or None.

    published: the first [[number]], as the released code reads it; where that ends in an error, there is none
    repaired:  the one rating from 1 to 10 that the text names; two different ones are none
    """
    if form == "published":
        try:
            rating = read_rating(text)
        except SyntaxError:
            return None
        return None if rating is None or rating > LARGEST else rating
    named = {float(one) for one in re.findall(r"\[\[\s*(\d{1,4}(?:\.\d{1,4})?)\s*(?:/\s*10\s*)?\]\]", text)}
    return named.pop() if len(named) == 1 and LEAST <= min(named) <= MOST else None


def read_judgements(file: Path) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """The head of a file of judgements, and the judgements by prompt and request; ratings are read again out of the
    replies, so that a number which no judge has said counts nowhere. Raises TinyError for all else, and for a second
    judgement of one answer; after an outage there may be one.
    """
    if not file.is_file():
        raise TinyError(f"{file.parent} has no ratings yet: there is no {file.name} in it.",
                        "Run: python -m tiny evals judge RUN --judge URL")
    lines, found, final = read_lines(file), {}, set[tuple[str, ...]]()
    _, head = next(lines, (1, {}))
    with at(file, 1):
        check(head, HEAD | {...: object})
    for row, line in lines:
        with at(file, row):
            check(line, LINE | {...: object})
            if (key := (line["prompt"], line["id"], line["answer"])) in final:
                raise Wrong("id", f"the answer to {line['id']!r} was judged in an earlier row")
        texts = [reply["text"] for reply in line["replies"] if "text" in reply]
        found[key[:2]] = line | {"rating": rating_of(texts[-1], head["form"]) if texts else None}
        final |= {key} if settled(found[key[:2]], line["answer"]) else set()
    return head, found


def digest(answer: str) -> str:
    """A short name of an answer: a judgement is of this one, and of no other."""
    return hashlib.sha256(answer.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def judgements_of(run: Run, prompt: str) -> tuple[dict[str, float], list[str], list[str]]:
    """The ratings of the answers to one prompt, in the order of the requests; why each other answer has none; and which
    model gave each rating that is not of the judge who was asked.

    Raises:  TinyError if nobody has judged the run
    """
    known, found = read_judgements(run.folder / FILE)[1], dict[str, float]()
    lacking, others = list[str](), list[str]()
    for request in run.requests:
        answer, line = (lines.get((prompt, request["id"]), {}) for lines in (run.answers, known))
        if "text" not in answer:
            continue
        if line.get("answer") != digest(answer["text"]):
            lacking.append("not judged yet")
        elif line["rating"] is not None:
            found[request["id"]] = float(line["rating"])
            others += filter(None, [line["replies"][-1].get("model")])
        else:
            last = line["replies"][-1]
            lacking.append(last.get("error") or f"the judge said {short(last['text'])}, which names no one rating")
    return found, lacking, others


def settled(line: Mapping[str, Any], answer: str) -> bool:
    """Whether a judgement is of this answer, by its digest, and final: with a rating, or without one after nothing but
    replies. An error is an outage, and says nothing of the answer.
    """
    return line.get("answer") == answer and (
        line["rating"] is not None or all("text" in reply for reply in line["replies"]))


def check_judges(first: Run, second: Run) -> None:
    """Raise TinyError unless two runs were judged by the same judge in the same way."""
    one, other = (read_judgements(run.folder / FILE)[0] for run in (first, second))
    if differs := [key for key in ("judge", "form", "image") if one[key] != other[key]]:
        raise TinyError(f"{first.folder} and {second.folder} were judged with another {' and '.join(differs)}.",
                        "Compare ratings of one judge, with one prompt.")
