"""Random answers and references, scored by mistral-evals' own module and by ours: equal one by one, exceptions too.

MISTRAL_EVALS=DIR names a checkout of github.com/mistralai/mistral-evals, of which eval/metrics.py alone is loaded.
"""

import importlib.util
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tiny.evals import metrics

pytestmark = pytest.mark.verify
COUNT = 20_000
SEED = 14
LABELS = ("Final Answer:", "Answer:", "answer:", "ANSWER:", "**Answer**:", "**Final Answer:**", "Answer**:**",
          "answer :", "\u0130 answer:", "Nonanswer: ", "The answer: ", "answers", "Final answer is")
WORDS = ("yes", "Yes", "no", "red", "Paris", "paris", "B", "b", "A", "\u03b1", "because", "net_income", "\u00dc ber",
         "stra\u00dfe", "STRASSE", "is paris", "was red", "are b", "inf", "nan", "Infinity", "none", "two",
         "\u0661\u0662", "x\u00b2", "\u0130", "")
NUMBERS = ("0", "1", "2", "1.05", "0.95", "105", "100", "-5", "\u22125", "1,234", "1234", "$12", "12 cm", "1e3",
           "1_000", "+9", ".5", "5.", "1e400", "1e-12", "6000", "6", "2020", "1930", "3.5", "3.50", "12345678",
           "12,345,678", "1:4", "1/4")
MARKS = ("%", "%%", " %", ".", "!", "**", "*", "_", "(", ")", "[", "]", '"', "'", ",", "$", " ", "\n", "\n\n", "\t",
         "\r\n", "", "", "")
NAMES = ("relaxed", "explicit", "anywhere", "anls", "vqa_match")


def piece(draw):
    """A word or a number between marks."""
    core = draw.choice(NUMBERS) if draw.random() < 0.5 else draw.choice(WORDS)
    quote = draw.choice(('"', "'")) if draw.random() < 0.1 else ""
    return quote + draw.choice(MARKS) + core + draw.choice(MARKS) + quote


def pair(draw):
    """An answer, and references that often have to do with it."""
    pieces = [piece(draw) for _ in range(draw.randint(0, 4))]
    text = draw.choice(("", " ", "\n", "\n\n")).join(pieces)
    for _ in range(draw.choice((0, 1, 1, 2))):
        text = f"{text if draw.random() < 0.5 else piece(draw)}{draw.choice(MARKS)}{draw.choice(LABELS)}" \
               f"{draw.choice(MARKS)}{draw.choice(pieces or [''])}"
    references = [draw.choice((*pieces, piece(draw), piece(draw).strip(), text))
                  for _ in range(draw.choice((1, 1, 2, 10)))]
    references = [one.swapcase() if draw.random() < 0.1 else one.strip() if draw.random() < 0.3 else one
                  for one in references]
    return text, references[0] if draw.random() < 0.4 else references[: draw.choice((0, 10, 10, 10, 10))]


def outcome(work, *arguments):
    """A score, or the name of an exception."""
    try:
        return work(*arguments)
    except Exception as error:
        return type(error).__name__


@pytest.fixture(scope="module")
def published():
    folder = os.environ.get("MISTRAL_EVALS")
    if not folder:
        pytest.skip("MISTRAL_EVALS is not set: it names a checkout of github.com/mistralai/mistral-evals.")
    spec = importlib.util.spec_from_file_location("published_metrics", Path(folder) / "eval/metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_random_strings_score_the_same(published, record_property):
    explicit = published.ExplicitPromptRelaxedCorrectness()
    theirs = dict(zip(NAMES, (published.RelaxedCorrectness(), explicit, published.AnywhereInAnswerRelaxedCorrectness(),
                              published.ANLS(), published.VQAMatch())))
    draw, seen = random.Random(SEED), Counter()
    for number in range(COUNT):
        answer, references = pair(draw)
        assert metrics.final_answer(answer) == explicit._get_final_answer(answer), (number, answer)
        for name, metric in theirs.items():
            ours = outcome(getattr(metrics, name), answer, references)
            assert ours == outcome(metric.score, answer, references), (number, name, answer, references)
            seen[name, ours if ours in (0, 1) or isinstance(ours, str) else "between"] += 1
    for name in NAMES:  # Neither side of any metric is rare.
        assert min(seen[name, 0], seen[name, 1]) > COUNT // 100, seen
    assert seen["anywhere", "OverflowError"] and seen["relaxed", "ValueError"] and seen["anls", "between"] > COUNT // 4
    record_property(f"mistral-evals' own metrics, {COUNT:,} random answers, scores that differ", f"0 of {COUNT * 5:,}")
