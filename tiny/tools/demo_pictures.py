"""The second half of `demo`: two pictures drawn here, asked about; beside each answer what the model says blind."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.tools import progress
from tiny.tools.images import measure, vision_of
from tiny.tools.patches import patch_figure
from tiny.training import scenes
from tiny.training.evaluate_pixtral import SEED, message, plain
from tiny.training.questions import Question

FOLDER = Path("runs/demo")
# Kind of scene, width and height, and the skills that are asked for. The second picture is no whole number of patches.
PICTURES = (("objects2", 64, 48, ("caption2", "color_of", "left_of")),
            ("bars", 91, 51, ("caption_many", "tallest", "shortest")))


def draw_scene(kind: str, width: int, height: int, skills: Sequence[str]) -> tuple[np.ndarray, list[Question]]:
    """Draw a scene that can be asked for these skills; return its picture and the questions in this order.

    Shapes:  picture (height, width, 3) uint8
    """
    rng = np.random.default_rng([SEED, width, height])  # No training scene is drawn with this seed.
    while True:
        scene = scenes.draw(rng, kind, width, height)
        asked = {question.skill: question for question in scene.questions}
        if asked.keys() >= set(skills):
            return scene.images[0], [asked[skill] for skill in skills]


def show_pictures(name: str) -> None:
    """Draw the pictures, save them, and print the questions, the answers, and the same to the mean colour."""
    model = tiny.load(name)
    vision = vision_of(model, name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures, pixels, right = [], [], np.zeros(2, int)
    print(f"\n--- Two pictures that {name} has never seen; blind means asked about a plain one of the mean colour")
    for number, (kind, width, height, skills) in enumerate(PICTURES, 1):
        image, questions = draw_scene(kind, width, height, skills)
        path = FOLDER / f"picture{number}.png"
        Image.fromarray(image).save(path)
        pictures.append(measure(path, vision))
        print(pictures[-1])
        rows = [("question", "answer", "blind", "right")]
        for question in questions:
            seen, blind = (answer(model, one, question.text) for one in (image, plain(image)))
            right += [seen == question.answer, blind == question.answer]
            rows.append((question.text, seen, blind, question.answer))
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("  " + "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())
        pixels += model.tokenizer.encode_chat(message([image], ""))[1]
    print(f"{right[0]} of {sum(len(skills) for *_, skills in PICTURES)} answers are right, {right[1]} when blind.")
    patch_figure(pixels, pictures).savefig(FOLDER / "patches.png")
    print(f"The pictures as the model gets them, cut into patches: {FOLDER / 'patches.png'}")


def answer(model, image: np.ndarray, question: str) -> str:
    """What a model says about a picture, on one line. Shapes:  image (H, W, 3)."""
    ids, pixels = model.tokenizer.encode_chat(message([image], question))
    text = "".join(token.text for token in tiny.generate(model, ids, pixels, max_tokens=20))
    return " ".join(progress.printable(text).split())
