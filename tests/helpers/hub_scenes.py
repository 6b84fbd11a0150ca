"""200 scenes that tiny-pixtral was not trained on, as rows of the six data sets of pictures.

What is asked of them fits the data set: reading in DocVQA, bars in ChartQA, counting and choosing in MathVista, several
pictures in MMMU, several turns in MM-MT-Bench, all the rest in VQAv2.
"""

import json

import numpy as np
from hub_files import stored, votes

from tiny.training.images import scenes
from tiny.training.images.evaluate import sizes_for

SEED = 20261129  # Training scenes are drawn with the small seed of their run.
COUNTS = {"vqav2": 50, "docvqa": 40, "chartqa": 40, "mathvista": 30, "mmmu": 25, "mm_mt_bench": 15}
SEEING = ("shape", "color", "where", "count_1", "count_2", "count_3", "count_4", "count_5", "shape_of", "color_of",
          "left_of", "above")
READING = ("num1", "num2", "num3", "word3", "word4", "word5", "word6", "held_word4", "held_word5", "held_word6")
COLORS = ("red", "green", "blue", "yellow")


def text(words: str) -> list[dict]:
    """What one says, as a list of chunks."""
    return [{"type": "text", "text": words}]


class Drawn:
    """One scene and its question: its number, its pictures as stored, and what else can be asked about it."""

    def __init__(self, rng: np.random.Generator, number: int, skill: str):
        sizes = sizes_for(skill, ("seen", "between")[number % 2])
        scene, self.asked = scenes.draw_asked(rng, skill, *sizes[number % len(sizes)])
        kind = "jpg" if number % 3 == 2 else "png"
        self.pictures = [stored(image, f"scene{number}_{i}.{kind}") for i, image in enumerate(scene.images)]
        self.number, self.others = number, [question for question in scene.questions if question != self.asked]


def of_vqav2(drawn: Drawn) -> dict:
    """Ten answers, of which one to ten are right."""
    right = 1 + drawn.number % 10
    answers = [drawn.asked.answer] * right + ["other"] * (10 - right)
    return {"question": drawn.asked.text, "image": drawn.pictures[0], "answers": votes(answers),
            "multiple_choice_answer": drawn.asked.answer, "question_id": drawn.number, "image_id": drawn.number}


def of_docvqa(drawn: Drawn) -> dict:
    """One or two answers, which differ in case."""
    answers = [drawn.asked.answer, drawn.asked.answer.upper()][:1 + drawn.number % 2]
    return {"questionId": str(drawn.number), "question": drawn.asked.text, "image": drawn.pictures[0],
            "answers": answers, "docId": drawn.number}


def of_chartqa(drawn: Drawn) -> dict:
    return {"type": ("human_test", "augmented_test")[drawn.number % 2], "question": drawn.asked.text,
            "answer": drawn.asked.answer, "image": drawn.pictures[0]}


def of_mathvista(drawn: Drawn) -> dict:
    """A number to count or a colour to choose."""
    row = {"pid": str(drawn.number), "question": drawn.asked.text, "decoded_image": drawn.pictures[0],
           "image": f"images/{drawn.number}.jpg", "answer": drawn.asked.answer, "query": drawn.asked.text}
    if drawn.asked.skill != "color_of":
        return row
    choices = [drawn.asked.answer, *(color for color in COLORS if color != drawn.asked.answer)][:4]
    turn = drawn.number % 4
    choices = choices[turn:] + choices[:turn]
    shown = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices))
    return row | {"choices": choices, "query": f"Question: {drawn.asked.text}\nChoices:\n{shown}"}


def of_mmmu(drawn: Drawn) -> dict:
    """Two or three pictures, before, after or within the question; options for those with few answers."""
    marks = " ".join(f"<image {n}>" for n in range(1, len(drawn.pictures) + 1))
    first, last = marks.split(" ", 1)
    question = (f"{marks} {drawn.asked.text}", f"{drawn.asked.text} {marks}",
                f"{first} {drawn.asked.text}\n{last}")[drawn.number % 3]
    options = {"same": ["yes", "no"], "which": ["first", "second"]}.get(drawn.asked.skill, [])
    answer = "ABCD"[options.index(drawn.asked.answer)] if options else str([drawn.asked.answer, "neither"])
    return {"id": f"validation_Scenes_{drawn.number}", "question": question, "options": str(options),
            "explanation": "", **{f"image_{n}": picture for n, picture in enumerate(drawn.pictures, 1)},
            "answer": answer, "question_type": "multiple-choice" if options else "open", "subfield": "Scenes"}


def of_mm_mt_bench(drawn: Drawn) -> dict:
    """One to three turns about one picture."""
    turns = [drawn.asked, *drawn.others][:1 + drawn.number % 3]
    messages = []
    for n, turn in enumerate(turns):
        messages += [{"role": "user", "content": [{"type": "image"}] * (n == 0) + text(turn.text)},
                     {"role": "assistant", "content": text(turn.answer)}]
    return {"image": drawn.pictures[0], "category": ("charts", "tables", "diagrams")[drawn.number % 3],
            "conversation": json.dumps(messages)}


SKILLS = {"vqav2": SEEING, "docvqa": READING, "chartqa": ("tallest", "shortest", "num2"),
          "mathvista": ("count_2", "count_3", "color_of"), "mmmu": ("same", "which", "m_shape", "m_color", "m_shape_3"),
          "mm_mt_bench": ("shape_of", "caption2", "color")}
ROW = {"vqav2": of_vqav2, "docvqa": of_docvqa, "chartqa": of_chartqa, "mathvista": of_mathvista, "mmmu": of_mmmu,
       "mm_mt_bench": of_mm_mt_bench}


def draw_rows() -> dict[str, list[dict]]:
    """The 200 scenes, always the same, as rows of each data set."""
    rng, rows, number = np.random.default_rng(SEED), {}, 0
    for task, count in COUNTS.items():
        rows[task] = []
        for i in range(count):
            rows[task].append(ROW[task](Drawn(rng, number, SKILLS[task][i % len(SKILLS[task])])))
            number += 1
    return rows
