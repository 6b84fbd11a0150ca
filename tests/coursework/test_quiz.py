"""The quiz: five questions for each of twelve chapters, an answer to each, and no number that is not computed."""

import doctest
import re

import pytest

from tutorial.pages import chapters
from tutorial.source import ROOT

QUESTIONS = (ROOT / "tutorial/quiz.md").read_text(encoding="utf-8")
ANSWERS = (ROOT / "tutorial/quiz_answers.md").read_text(encoding="utf-8")
CHAPTERS, EACH = range(1, 13), "abcde"
NUMBER = re.compile(r"(?<![A-Za-z\d])\d[\d,]*\.?\d*")


def parts(text, begin):
    """What belongs to each number, by it."""
    found = re.split(begin, text.partition("\n## Chapter 1:")[2], flags=re.M)
    return {number: re.split(r"^## ", body, flags=re.M)[0] for number, body in zip(found[1::2], found[2::2])}


ASKED, ANSWERED = parts(QUESTIONS, r"^\* \*\*(\w+)\*\* "), parts(ANSWERS, r"^\*\*(\w+)\*\* ")


def numbers(text):
    """Numbers of two digits and more, as values."""
    found = (match.rstrip(".,").replace(",", "") for match in NUMBER.findall(text.replace("_", "")))
    return {float(number) for number in found if len(number) > 1}


def test_every_chapter_has_five_questions_and_their_answers():
    wanted = [f"{chapter}{letter}" for chapter in CHAPTERS for letter in EACH]
    assert list(ASKED) == list(ANSWERED) == wanted and len(wanted) == 60
    heads = re.findall(r"^## (Chapter .*)$", QUESTIONS, re.M)
    assert heads == re.findall(r"^## (Chapter .*)$", ANSWERS, re.M)
    assert [int(re.search(r"\d+", head)[0]) for head in heads] == [*CHAPTERS]
    assert {int(path.name[:2]) for path in chapters.chapters()} <= {0, *CHAPTERS}


def test_the_numbers_of_the_answers_are_computed():
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", ANSWERS, re.M | re.S))
    result = doctest.DocTestRunner(verbose=False).run(
        doctest.DocTestParser().get_doctest(code, {}, "quiz_answers.md", "quiz_answers.md", 0))
    assert result.failed == 0 and result.attempted >= 40


def stated(id):
    """The numbers in the words of an answer that neither its question nor its computation has."""
    words, *code = re.split(r"```python\n", ANSWERED[id])
    after = "".join(part.partition("```")[2] for part in code)
    computed = "".join(part.partition("```")[0] for part in code)
    return numbers(words + after) - numbers(computed) - numbers(ASKED[id])


@pytest.mark.parametrize("id", ANSWERED)
def test_no_number_is_only_said(id):
    assert stated(id) == set()


def test_a_number_that_is_only_said_is_found(monkeypatch):
    monkeypatch.setitem(ANSWERED, "6a", ANSWERED["6a"].replace("109:", "110:"))
    assert stated("6a") == {110.0}
