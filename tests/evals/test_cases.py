"""The cases of the published metrics, with expected values from mistral-evals d61811fc itself; and planted mistakes,
each of which some case must show.
"""

import json
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
import run_cases

from tiny.evals import metrics, prompts, ratings, rows, scores

FILE = Path(__file__).with_name("metric_cases.json")
CASES = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
# Ours, for what those leave out; expected values from the same code.
MORE = json.loads(Path(__file__).with_name("more_cases.json").read_text(encoding="utf-8"))["cases"]


def test_all_cases_agree():
    assert run_cases.disagreements(CASES) == [] and len(CASES) == 100
    assert run_cases.disagreements(MORE) == []
    assert {case["kind"] for case in CASES} == set(run_cases.KINDS)


def test_the_program_prints_each_case_that_disagrees(tmp_path):
    done = subprocess.run([sys.executable, run_cases.__file__, FILE], capture_output=True, text=True, check=True)
    assert done.stdout == "100 of 100 agree\n"
    wrong = [CASES[0] | {"expected": CASES[0]["expected"] | {"anls": 0.124}}, CASES[1], CASES[95] | {"expected": {}}]
    (tmp_path / "wrong.json").write_text(json.dumps({"cases": wrong}))
    done = subprocess.run([sys.executable, run_cases.__file__, tmp_path / "wrong.json"], capture_output=True, text=True)
    assert done.returncode == 1 and [line.split()[0] for line in done.stdout.splitlines()] == ["T001", "T096", "1"]
    assert "anls: 0.125, expected 0.124" in done.stdout and done.stdout.endswith("1 of 3 agree\n")


@pytest.mark.parametrize("kind", run_cases.KINDS)
def test_each_expected_value_counts(kind):
    """A case of each kind with any one of its values changed disagrees."""
    case = next(case for case in CASES if case["kind"] == kind)
    for key, value in case["expected"].items():
        other = value + 1e-6 if isinstance(value, float) else value + 1 if isinstance(value, int) else [value]
        assert run_cases.disagreements([case | {"expected": case["expected"] | {key: other}}]), key


# ---- planted mistakes: each stands in the place of a right function

def first_label(text):
    place = text.lower().find("answer:")
    lines = [line.strip() for line in text[place + 7:].split("\n") if line.strip()] if place >= 0 else []
    return lines[0].translate(metrics.MARKS) if lines else ""


def with_marks(text):
    """Without dropping Markdown."""
    place = text.lower().rfind("answer:")
    return next((line.strip() for line in text[place + 7:].split("\n") if line.strip()), "") if place >= 0 else ""


def same_line_only(text):
    place = text.lower().rfind("answer:")
    return text[place + 7:].split("\n")[0].strip().translate(metrics.MARKS) if place >= 0 else ""


def capital_label(text):
    """Only Final Answer: as the prompt writes it."""
    label, rest = text.rpartition("Final Answer:")[1:]
    return rest.strip().split("\n")[0].translate(metrics.MARKS) if label else ""


def no_percent(text):
    try:
        return float(text.strip().rstrip("%")), False
    except ValueError:
        return None, False


def percent_is_text(text):
    try:
        return float(text), False
    except ValueError:
        return None, False


def tail_with_percent(text):
    return text.rstrip(string.punctuation + string.whitespace)


def vqa_any_case(answer, references):
    return min(1.0, sum(one.lower() == answer.lower() for one in metrics.listed(references)) / 3)


def vqa_unbounded(answer, references):
    return sum(metrics.unquoted(one) == metrics.unquoted(answer) for one in metrics.listed(references)) / 3


def vqa_of_ten(answer, references):
    return min(1.0, sum(one == answer for one in metrics.listed(references)) / max(1, len(metrics.listed(references))))


def anls_by_reference(answer, references):
    """The distance as a share of the reference's length."""
    return max(1 - metrics.edit_distance(metrics.plain(answer), one) / max(1, len(one))
               for one in map(metrics.plain, metrics.listed(references)))


def anls_first(answer, references):
    return metrics.anls(answer, metrics.listed(references)[0])


def anywhere_always(answer, references):
    """Searching the text although an answer was parsed."""
    return max(metrics.explicit(answer, references), float(any(one in answer for one in metrics.listed(references))))


def last_rating(text):
    found = re.findall(r"\[\[(\d+\.?\d*)\]\]", text)
    return float(found[-1]) if found else None


def clamped_rating(text):
    found = re.search(r"\[\[\s*(\d+\.?\d*)(?:/10)?\s*\]\]", text)
    return float(found[1]) if found else None


def categories_only(run):
    groups = {}
    for request in run.requests:
        groups.setdefault(f"category {request['category']}", []).append(request["id"])
    return groups


def prompt_on_the_same_line(message, prompt):
    return message | {"content": [*message["content"], {"type": "text", "text": prompt}]}


MUTANTS = [
    (metrics, "final_answer", [first_label, with_marks, same_line_only, capital_label]),
    (metrics, "near", [lambda value, reference: abs(value - reference) <= 0.05 * abs(value),
                       lambda value, reference: abs(value - reference) <= 0.05 * abs(reference) + 1e-9,
                       lambda value, reference: abs(value - reference) < 0.05 * max(abs(reference), 1e-10) - 1e-12]),
    (metrics, "number_of", [no_percent, percent_is_text]),
    (metrics, "without_tail", [tail_with_percent, lambda text: text]),
    (metrics, "unquoted", [lambda text: text, lambda text: text.strip("\"'")]),
    (metrics, "prepared", [lambda text: metrics.without_tail(text), lambda text: text]),
    (metrics, "distance", [lambda a, b: metrics.edit_distance(a, b) / max(1, min(len(a), len(b)))]),
    (metrics.METRICS, "anls", [metrics.anls_half, anls_by_reference, anls_first]),
    (metrics.METRICS, "vqa_match", [vqa_any_case, vqa_unbounded, vqa_of_ten, metrics.METRICS["vqa_accuracy"]]),
    (metrics, "anywhere", [anywhere_always, metrics.explicit, metrics.anywhere_or_infinity]),
    (metrics, "in_words", [lambda answer, references: any(one in answer for one in metrics.listed(references)),
                           lambda answer, references: False]),
    (metrics.METRICS, "explicit_prompt_relaxed_correctness", [metrics.relaxed, metrics.anywhere, metrics.LEVELS[0]]),
    (ratings, "read_rating", [last_rating, clamped_rating, lambda text: ratings.rating_of(text, "published")]),
    (scores, "groups_of", [categories_only]),
    (prompts, "text_of", [str, lambda content: "\n".join(one["text"] for one in content if one["type"] == "text")]),
    (run_cases, "add_prompt", [prompt_on_the_same_line]),
    (rows, "mmmu_references", [lambda row: [row["answer"]]]),
    (rows, "mathvista_reference", [lambda row: row["answer"], lambda row: chr(65 + len(row["choices"] or [0]) - 1)]),
]


@pytest.mark.parametrize(("place", "name", "mutant"),
                         [(place, name, mutant) for place, name, mutants in MUTANTS for mutant in mutants])
def test_a_planted_mistake_is_seen(monkeypatch, place, name, mutant):
    if isinstance(place, dict):
        monkeypatch.setitem(place, name, mutant)
    else:
        monkeypatch.setattr(place, name, mutant)
    assert run_cases.disagreements(CASES + MORE)


def test_options_with_other_marks_are_seen(monkeypatch):
    right = rows.mmmu_content
    monkeypatch.setattr(rows, "mmmu_content", lambda row: right(row) if row["question_type"] == "open" else
                        right(row | {"options": str([f"({one})" for one in rows.literal(row, "options")])}))
    assert run_cases.disagreements(CASES)


# ---- what the published code does not have

@pytest.mark.parametrize(("answer", "reference", "scores"), [
    ("Final Answer: 4", "4", [1, 1, 1, 1]), ("Answer: 4", "4", [0, 1, 1, 1]),
    ("**Final Answer:** 4", "4", [0, 0, 1, 1]),
    ("The answer: 4", "4", [0, 0, 1, 1]), ("It is 4.", "4", [0, 0, 0, 1]), ("It is 5.", "4", [0, 0, 0, 0]),
    ("Final Answer: 4\nThe answer: 5", "4", [1, 1, 0, 0]), ("Answer: 4\nFinal Answer: 5", "5", [1, 1, 1, 1]),
    ("Final Answer: 5\nAnswer: 4", "4", [0, 1, 1, 1]), ("  Final Answer: 1,000  ", "1000", [1, 1, 1, 1]),
    ("Final Answer: B", "B", [1, 1, 1, 1]), ("Final Answer:\n4", "4", [0, 0, 1, 1]), ("", "4", [0, 0, 0, 0]),
    ("The limit is infinity", "infinity", [0, 0, 0, 1]), ("The limit is 3", "Infinity", [0, 0, 0, 0])])
def test_levels(answer, reference, scores):
    """By hand, from appendix C of the paper."""
    assert [level(answer, [reference]) for level in metrics.LEVELS] == scores


@pytest.mark.parametrize(("answer", "references", "score"), [
    ("red", ["red"], 1.0), ("Red ", ["rEd"], 1.0), ("rad", ["red"], 2 / 3), ("rod", ["redo"], 0.0),
    ("a", ["b"], 0.0), ("", ["red"], 0.0), ("red.", ["red"], 0.75), ("x", [], 0.0), ("abcx", ["abcd", "abcx"], 1.0)])
def test_anls_with_a_threshold(answer, references, score):
    """Half or more to change gives nothing; a dot at the end counts. arXiv:2007.00398, by hand."""
    assert run_cases.same(metrics.anls_half(answer, references), score)


def test_vqa_accuracy():
    """Expected values from vqaEval.py of GT-Vision-Lab/VQA 458a8b2, its print statements made into functions."""
    stored = json.loads(Path(__file__).with_name("vqa_cases.json").read_text(encoding="utf-8"))["cases"]
    wrong = [case for case in stored if not run_cases.same(
        metrics.METRICS["vqa_accuracy"](case["answer"], case["references"]), case["accuracy"])]
    assert wrong == [] and len(stored) == 60
    assert metrics.METRICS["vqa_accuracy"]("yes", "no") == metrics.METRICS["vqa_accuracy"]("yes", []) == 0


@pytest.mark.parametrize("text", ["[[" + "1" * 5000 + "]]", "[[" + "9" * 400 + "]]", "[[07]]", "[[1e9]]", "7", ""])
def test_what_is_no_rating(text):
    assert ratings.rating_of(text, "published") is None


def test_long_texts_take_no_longer_than_their_length():
    """With the square of it, these would take minutes."""
    long = "." * 200_000
    assert metrics.without_tail("a" + long) == "a" and ratings.rating_of("[[" + "1" * 100_000, "published") is None
    assert metrics.explicit("answer" + "*" * 100_000, ["x"]) == 0
