"""The published prompts are theirs, byte for byte; the paraphrases are ours, and say the same."""

import hashlib
import json

import pytest

from tiny.config import TinyError
from tiny.evals.prompts import EXPLICIT, JUDGE_SYSTEM, PARAPHRASES, find_prompt
from tiny.evals.tasks import TASKS, find_task

# Of the texts in mistral-evals d61811fc: length in characters, SHA-256.
PUBLISHED = {
    "reasoning": (775, "4d9af97182017ad2db3e63b626fb8d620bf249cfaeed00faee5c8afe87fe130f"),
    "chart": (803, "a7d40aef32daf796495ab0140378ddc0407204f671eb5ae74bba67c63c2a519c"),
    "short": (378, "b45d5de911fe59cf9e191d4c14fb5e6d71a87e2662ed252502e3e8624f099882"),
    "phrase": (50, "c0525726b5f8551852d97e2e9914c289cf81dc22d8b31a5b1cac0e747b2c34fe"),
    "judge": (612, "7d02a0fe7656157b68269a5915bc56d67c0d04648ed413545cc8b612635c2eb8")}


def test_hashes():
    texts = EXPLICIT | {"judge": JUDGE_SYSTEM}
    assert {name: (len(text), hashlib.sha256(text.encode()).hexdigest()) for name, text in texts.items()} == PUBLISHED


def test_tasks_have_the_published_prompts_and_limits():
    prompts = {name: (task.prompt, task.max_tokens) for name, task in TASKS.items() if not task.choices}
    assert prompts == {"mm_mt_bench": (None, 4096), "mathvista": ("reasoning", 2048), "mmmu": ("reasoning", 2048),
                       "chartqa": ("chart", 2048), "docvqa": ("phrase", 10), "vqav2": ("short", 10)}
    assert all(task.name == name and task.metrics or task.judge for name, task in TASKS.items())


def test_paraphrases_are_ten_and_keep_the_rules():
    texts = json.loads(PARAPHRASES.read_text(encoding="utf-8"))
    assert texts.keys() == EXPLICIT.keys()
    for name, ten in texts.items():
        assert len(ten) == len(set(ten)) == 10 and EXPLICIT[name] not in ten
        needed = {"reasoning": ("\nFinal Answer: <answer>\n", "letter", "unit"), "phrase": ("word", "phrase"),
                  "chart": ("\nFinal Answer: <answer>\n", "0.25|decimal", "%", "Yes", "label|Label"),
                  "short": ("Yes", "No", "unit|what it counts", "word")}[name]
        for text in ten:
            assert text == text.strip()
            assert all(any(one in text for one in words.split("|")) for words in needed), text


def test_find_prompt():
    task = find_task("docvqa")
    assert find_prompt(task, "explicit") == EXPLICIT["phrase"] and find_prompt(task, "naive") == ""
    texts = json.loads(PARAPHRASES.read_text(encoding="utf-8"))["phrase"]
    assert [find_prompt(task, f"paraphrase-{n}") for n in range(1, 11)] == texts
    assert find_prompt(find_task("mm_mt_bench"), "explicit") == ""
    for name in ("paraphrase-0", "paraphrase-11", "", "Explicit"):
        with pytest.raises(TinyError, match="no prompt"):
            find_prompt(task, name)
    for name in ("", "chart", None, ["docvqa"]):
        with pytest.raises(TinyError, match="no task"):
            find_task(name)
