"""Contexts, endings and scores of tasks with choices are those of lm_eval 0.4.13 itself; `choice_cases.json` says how
they were made.
"""

import json
from pathlib import Path

import pytest

from tiny.evals import choices
from tiny.evals.items import Item
from tiny.evals.lines import Wrong
from tiny.evals.rows import fields_of
from tiny.evals.tasks import TASKS

STORED = json.loads(Path(__file__).with_name("choice_cases.json").read_text(encoding="utf-8"))
CASES = STORED["cases"]


def item_of(case):
    examples = STORED["dev"][: case["shots"]]
    fields = fields_of(TASKS[case["task"]], case["row"], examples)
    return Item("x", [], [], **fields)


def differences():
    """The cases where something differs: what is asked, or the scores."""
    found = []
    for case in CASES:
        item = item_of(case)
        scores = choices.score(case["log_likelihoods"], item.endings, item.answer)
        wanted = {name: case["scores"].get(name) for name in TASKS[case["task"]].metrics}
        if choices.pairs(item) != [tuple(pair) for pair in case["pairs"]] or {
                name: scores[name] for name in wanted} != wanted:
            found.append((case["task"], case["shots"], case["row"]))
    return found


def test_pairs_and_scores():
    assert differences() == [] and len(CASES) == 19
    assert {case["task"] for case in CASES} == {name for name, task in TASKS.items() if task.choices}


def twice_cleaned(text):
    return " ".join(choices.re.sub(r"\[.*?\]", "", text.replace(" [title]", ". ")).split())


@pytest.mark.parametrize(("name", "mutant"), [
    ("cleaned", str.strip), ("cleaned", twice_cleaned),
    ("pairs", lambda item: [(item.context + " ", ending) for ending in item.endings]),
    ("pairs", lambda item: [(item.context, ending) for ending in item.endings]),
    ("score", lambda likelihoods, endings, answer: dict.fromkeys(("acc", "acc_norm"), float(
        likelihoods.index(max(likelihoods)) == answer)))])
def test_a_planted_mistake_is_seen(monkeypatch, name, mutant):
    monkeypatch.setattr(choices, name, mutant)
    assert differences()


def test_of_equal_endings_the_first_counts_and_the_blank_is_no_character():
    ends = ["ab", "abcd"]
    assert choices.score([-1.0, -1.0], ends, 0) == {"acc": 1.0, "acc_norm": 0.0}
    # -0.5, -0.45; with blanks -0.33, -0.36
    assert choices.score([-1.0, -1.8], ends, 0) == {"acc": 1.0, "acc_norm": 0.0}
    # -1, -0.83; by bytes -0.5, -0.83
    assert choices.score([-2.0, -2.5], ["\u00e9\u00e9", "abc"], 0) == {"acc": 1.0, "acc_norm": 0.0}
    with pytest.raises(ValueError):
        choices.score([-1.0], ends, 0)


def test_a_token_may_reach_over_the_border():
    """As SentencePiece, which joins the blank to the word behind it; here each two characters are one token."""
    def encode(text):
        return [ord(text[n]) for n in range(0, len(text), 2)]
    assert choices.split_ids(encode, "abc", " de") == ([ord("a"), ord("c")], [ord("d")])


@pytest.mark.parametrize(("task", "change", "column"), [
    ("hellaswag", {"label": ""}, "label"), ("hellaswag", {"label": "4"}, "label"),
    ("hellaswag", {"label": -1}, "label"),
    ("hellaswag", {"endings": []}, "endings"), ("hellaswag", {"endings": ["a", None]}, "endings"),
    ("hellaswag", {"ctx_b": None}, "ctx_b"), ("arc_easy", {"answerKey": "Z"}, "answerKey"),
    ("arc_easy", {"choices": ["a"]}, "choices"), ("arc_easy", {"choices": {"text": ["a"]}}, "choices"),
    ("mmlu", {"choices": ["a", "b", "c"]}, "choices"), ("mmlu", {"answer": 4}, "answer"),
    ("mmlu", {"answer": 1.0}, "answer"), ("mmlu", {"subject": 3}, "subject")])
def test_bad_rows_name_their_column(task, change, column):
    row = next(case["row"] for case in CASES if case["task"] == task)
    with pytest.raises(Wrong) as caught:
        fields_of(TASKS[task], row | change)
    assert caught.value.column == column
