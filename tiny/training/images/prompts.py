"""Prompts put after questions about scenes, as the published evaluation has them, and the reply that each asks for.

Their texts are given by who trains; a question is followed by a line break and the text.

>>> reply(FORMS["phrase"], "red", "3 bars"), reply(FORMS["chart"], "red", "3 bars")
('red', '3 bars\\nFinal Answer: red')
"""

from collections.abc import Sequence
from typing import NamedTuple

from tiny.training.images.questions import Question

FINAL = "Final Answer: "
CAPTIONS = ("caption1", "caption2", "caption_many", "caption_text", "caption_images", "caption_images_3")


class Form(NamedTuple):
    """How a prompt is trained.

    final: the reply describes the picture and ends with "Final Answer: " and the answer; else it is the answer alone
    pictures and questions are those of a shard: few, because the long prompts take most of its time
    """

    final: bool
    pictures: int
    questions: int


FORMS = {"short": Form(False, 12, 1), "phrase": Form(False, 8, 3), "chart": Form(True, 7, 1),
         "reasoning": Form(True, 7, 1)}


def prompted(questions: Sequence[Question], form: Form, prompt: str) -> list[Question]:
    """The questions of a scene with a prompt, and with the reply that it asks for. Captions are asked only where the
    reply is the answer alone: elsewhere they are what the reply begins with.
    """
    caption = next(question.answer for question in questions if question.skill in CAPTIONS)
    return [Question(one.skill, f"{one.text}\n{prompt}", reply(form, one.answer, caption))
            for one in questions if not (form.final and one.skill in CAPTIONS)]


def reply(form: Form, answer: str, caption: str) -> str:
    """What the model is to write."""
    return f"{caption}\n{FINAL}{answer}" if form.final else answer


def before_answer(text: str) -> str:
    """What a reply says before its final answer, the label and its colon too; nothing if the reply is the answer.

    >>> before_answer("a red star\\nFinal Answer: star")
    'a red star\\nFinal Answer:'
    """
    lead, label, _ = text.rpartition(FINAL)
    return lead + label.rstrip()
