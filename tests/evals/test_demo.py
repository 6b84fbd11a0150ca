"""The demonstration runs, and what it shows is true: seeing scores more than guessing, in all six formats."""

import re

from tiny.evals import demo
from tiny.evals.clients import Reply
from tiny.evals.items import Request
from tiny.evals.tasks import TASKS
from tutorial.pages.demo_record import EVALS_RECORD, evals_text


def test_the_demonstration():
    said = evals_text()
    assert said == EVALS_RECORD.read_text(encoding="utf-8"), "run python -m tutorial.pages.demo_record"
    rows = re.findall(r"^(\w+) +(?:\w+ )*\w+ +(\d+\.\d+) \(.*?\) +(\d+\.\d+) \(", said, re.M)
    assert [task for task, _, _ in rows] == list(demo.SKILLS) and set(demo.SKILLS) <= set(TASKS)
    assert all(float(seen) > float(blind) for _, seen, blind in rows), said
    assert "by a rule" in said and "where blind misses" in said and said.isascii()


def test_the_items_are_the_same_for_everyone_and_give_nothing_away():
    for task in demo.SKILLS:
        (item, files), (again, _) = demo.make_item(task, 3), demo.make_item(task, 3)
        assert item == again and files and all(data.startswith(b"\x89PNG") for data in files.values())
        assert len(item.references) == sum(message["role"] == "user" for message in item.messages)


def test_the_rule_and_the_label():
    request = {"references": "a red star"}
    said = [demo.rule(request, "", text, 0).text for text in ("a red star", "a blue star", "no")]
    assert said == ["[[10]]", "[[5]]", "[[1]]"]
    client = demo.labelled(lambda asked: Reply("red", "stop"))
    assert client(Request("a", [], 1, [])).text == "Final Answer: red"
