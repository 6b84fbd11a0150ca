"""From what a model says to its answer, and from that and the accepted ones to a score between 0 and 1.

The prompts ask for a last line "Final Answer: X". Models write it in other ways too, and the paper's appendix C counts
how much of a score is lost by that, at four levels: 0 wants the line as asked for, 1 also "Answer: X", 2 looks through
Markdown and takes the last label anywhere, 3 is no parser any more (`anywhere`).

The rules of the published code are stranger than they look, and scores are comparable only with all of them. What
surprises stands at each function. Read `clients.py` next.
"""

import re
import string
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

References = str | Sequence[str]
Metric = Callable[[str, References], float]
NEAR = 0.05  # of the reference: how far a number may be away
TINY = 1e-10  # instead of a reference of 0
LABEL = "answer:"
MARKED = re.compile(r"([aA]nswer)\**:\**")  # a label with stars around its colon; not one in capitals
MARKS = str.maketrans("", "", "*_[]()")
WORDS = tomllib.loads(Path(__file__).with_name("vqa_words.toml").read_text(encoding="utf-8"))
MOST_DOTS = 32  # the published code hands a flag to a parameter that counts
# Each contraction without one of its apostrophes; as published, one stands the wrong way round.
APOSTROPHES = {word[:n] + word[n + 1:]: word for word in WORDS["contractions"].split()
               for n in range(len(word)) if word[n] == "'"} | {"somebody'd": "somebodyd"}


def listed(references: References) -> Sequence[str]:
    """Accepted answers as a list; one alone may be given as a text."""
    return [references] if isinstance(references, str) else references


def labelled_line(text: str, labels: Sequence[str]) -> str:
    """Levels 0 and 1: what follows the label on the last line that begins with one of the labels; "" if none does.

    Source: arXiv:2410.07073 appendix C in our reading; the released code has no such level
    """
    lines = [line.strip() for line in text.split("\n")]
    found = [line for line in lines if line.startswith(tuple(labels))]
    return found[-1].partition(":")[2].strip() if found else ""


def final_answer(text: str) -> str:
    """Level 2, that of the published scores: the first line with something on it behind the last `answer:`, or "".

    The label is found in any case, in words such as "Final Answer:" too. Markdown is dropped, and with it every
    underscore and bracket of the answer: net_income becomes netincome, and cannot match.

    Source:  mistral-evals d61811fc, eval/metrics.py
    Differs: from what one expects: the place is found in the lower-cased text, which is longer if it has a letter such
             as U+0130, and is then behind the label
    """
    text = MARKED.sub(r"\1:", text)
    place = text.lower().rfind(LABEL)
    if place < 0:
        return ""
    lines = (line.strip() for line in text[place + len(LABEL):].split("\n"))
    return next(filter(None, lines), "").translate(MARKS)


def unquoted(text: str) -> str:
    """Drop one pair of equal quotes around a text; a quote alone counts as a pair."""
    return text[1:-1] if text.startswith(('"', "'")) and text.endswith(text[0]) else text


def without_tail(text: str) -> str:
    """Drop punctuation and blanks at the end, but keep a % and what is before it."""
    end = len(text)
    while end and text[end - 1] != "%" and (text[end - 1] in string.punctuation or text[end - 1].isspace()):
        end -= 1
    return text[:end]


def prepared(text: str) -> str:
    """With a digit anywhere: without its tail, commas and dollars. Without one: without quotes, and the tail stays."""
    if any(character.isdigit() for character in text):
        return without_tail(text).replace(",", "").replace("$", "")
    return unquoted(text)


def number_of(text: str) -> tuple[float | None, bool]:
    """What a text is as a number, if it is one to Python, and whether it has a % behind it."""
    text = text.strip()
    try:
        return float(text.rstrip("%")), text.endswith("%")
    except ValueError:
        return None, False


def near(value: float, reference: float) -> bool:
    """Whether a number is within 5 % of the reference, years too: 1930 is near 2020. In floats 1.05 is not near 1."""
    return abs(value - reference) / max(abs(reference), TINY) <= NEAR


def agrees(answer: str, reference: str) -> bool:
    """Relaxed correctness of one prepared answer.

    Numbers: near, or near once one of them that has a % is divided by 100. A single letter: the answer begins with it,
    so `because` is right for B. Everything else: equal but for capitals.
    """
    (value, percent), (wanted, wanted_percent) = number_of(answer), number_of(reference)
    if value is not None and wanted is not None:
        return (near(value, wanted) or percent and near(value / 100, wanted)
                or wanted_percent and near(value, wanted / 100))
    if len(reference) == 1 and reference.isalpha() and answer:
        return answer[0].lower() == reference.lower()
    return answer.lower() == reference.lower()


def relaxed(answer: str, references: References) -> float:
    """1 if the whole answer agrees with a reference.

    Raises:  ValueError without references
    Source:  mistral-evals d61811fc, eval/metrics.py; the 5 % are those of arXiv:2203.10244
    """
    answer = prepared(answer)
    return max(float(agrees(answer, prepared(reference))) for reference in listed(references))


def explicit(answer: str, references: References) -> float:
    """Relaxed correctness of what stands behind the last `answer:`; 0 if nothing does. The paper's main metric."""
    parsed = final_answer(answer)
    return relaxed(parsed, references) if parsed else 0.0


def anywhere(answer: str, references: References) -> float:
    """The same; but without a label, 1 also if the text holds a reference. A wrong answer with a label stays wrong.

    A number is looked for with and without commas at thousands, and inside of others: 6 is in 6000.

    Raises:  OverflowError for a reference that reads as infinity, as in the published code
    """
    if parsed := final_answer(answer):
        return relaxed(parsed, references)
    for reference in listed(references):
        try:
            number = float(reference)
            number = int(number) if int(number) == number else number
        except ValueError:  # no number, or NaN, which is no whole one
            if in_words(answer, references):
                return 1.0
        else:
            if f"{number:,}" in answer or str(number) in answer:
                return 1.0
    return 0.0


def in_words(answer: str, references: References) -> bool:
    """Whether one of the references stands where answers stand in a sentence.

    The patterns are in small letters and the text is not, so "The capital is Paris" has no `is paris`.
    """
    return any(pattern.format(one).lower() in answer for one in listed(references)
               for pattern in ("is {}", "was {}", " {}.", "are {}", "\n\n{}"))


def anywhere_or_infinity(answer: str, references: References) -> float:
    """The same for scores of whole runs: infinity is a word where the published code would end without any score."""
    try:
        return anywhere(answer, references)
    except OverflowError:
        return float(in_words(answer, references))


def edit_distance(a: str, b: str) -> int:
    """How many characters must be put in, left out or replaced to make one text of the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def distance(a: str, b: str) -> float:
    """The edit distance as a share of the longer text; 0 if both are empty."""
    return edit_distance(a, b) / max(len(a), len(b), 1)


def plain(text: str) -> str:
    """In small letters, with single blanks."""
    return " ".join(text.lower().split())


def anls(answer: str, references: References) -> float:
    """1 minus the share of characters to change, as published: any likeness counts, and the tail does not.

    Differs: the measure of that name gives 0 below one half: `anls_half`
    """
    answer = without_tail(plain(answer))
    return max((1 - distance(answer, without_tail(plain(one))) for one in listed(references)), default=0.0)


def anls_half(answer: str, references: References, threshold: float = 0.5) -> float:
    """ANLS as the DocVQA challenge defines it: 0 if half of the characters or more must change. arXiv:2007.00398"""
    nearest = min((distance(plain(answer), plain(one)) for one in listed(references)), default=1.0)
    return 1 - nearest if nearest < threshold else 0.0


def vqa_match(answer: str, references: References) -> float:
    """A third for each of the ten people who gave this answer, at most 1, as published.

    Capitals matter: `Yes` against ten `yes` scores 0. Differs: `vqa_accuracy` is the measure of the VQA challenge
    """
    answer = unquoted(answer)
    return min(1.0, sum(unquoted(one) == answer for one in listed(references)) / 3)


def without_marks(text: str) -> str:
    """Drop or blank out punctuation: a mark goes if it touches a blank somewhere, or if the text has a number with
    commas; else a blank takes its place.
    """
    found, commas = text, re.search(r"\d,\d", text)
    for mark in WORDS["punctuation"]:
        gone = f"{mark} " in text or f" {mark}" in text or commas
        found = found.replace(mark, "" if gone else " ")
    return re.sub(r"\.(?!\d)", "", found, count=MOST_DOTS)


def in_short_words(text: str) -> str:
    """In small letters, with digits for number words, without articles, with the apostrophes of contractions."""
    words = (WORDS["numbers"].get(word, word) for word in text.lower().split())
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ("a", "an", "the"))


def vqa_accuracy(answer: str, references: str | Sequence[str]) -> float:
    """For each person: a third for each other one who gave this answer, at most 1; then the mean over the people.

    Source:  GT-Vision-Lab/VQA 458a8b2, vqaEval.py, which most published numbers come from
    Differs: since a013f00 (2021) references get the last step too, and nothing is normalised if all of them are equal
    """
    people = [references] if isinstance(references, str) else references
    blank = str.maketrans("\n\t", "  ")
    answer = in_short_words(without_marks(answer.translate(blank).strip()))
    if len(set(people)) > 1:
        people = [without_marks(one) for one in people]
    equal = [one == answer for one in people]
    return sum(min(1.0, (sum(equal) - one) / 3) for one in equal) / len(equal) if equal else 0.0


def at_level(*labels: str) -> Metric:
    """Relaxed correctness of the line that begins with one of these labels."""
    def score(answer: str, references: References) -> float:
        parsed = labelled_line(answer, labels)
        return relaxed(parsed, references) if parsed else 0.0
    return score


LEVELS: tuple[Metric, ...] = (at_level("Final Answer:"), at_level("Final Answer:", "Answer:"), explicit,
                              anywhere_or_infinity)
METRICS: dict[str, Metric] = {
    "relaxed_correctness": relaxed, "explicit_prompt_relaxed_correctness": explicit,
    "anywhere_in_answer_relaxed_correctness": anywhere_or_infinity, "anls": anls, "anls_0.5": anls_half,
    "vqa_match": vqa_match, "vqa_accuracy": vqa_accuracy}
