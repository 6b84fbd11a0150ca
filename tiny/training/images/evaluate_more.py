"""What weights that were trained on can do, measured: the published prompts, pictures by their size, the gates again.

As in `evaluate.py`, one question is asked about each fresh scene, and an answer counts if all of it is right. Where a
prompt asks for "Final Answer: ", that is what follows it in the last line.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import tiny
from tiny.pixtral import vision_of
from tiny.training.images import scenes
from tiny.training.images.evaluate import GATES, SEED, Asked, answers_right, draw, message
from tiny.training.images.prompts import FINAL, FORMS

FRESH = 777  # the seed of the gates measured again: choosing among weights on the card's own scenes flatters them
# What is asked with each prompt, as far as it suits the tasks that have it.
ASKED = {"short": ("shape", "color", "where", "count_3", "left_of", "shape_of", "same"), "phrase": ("num3", "word4"),
         "chart": ("tallest", "shortest", "count_4"), "reasoning": ("shape", "num2", "count_5", "above", "color_of",
                                                                   "which")}
ROOM = {False: 10, True: 48}  # tokens that a reply may have: as published, and enough for a caption and a final answer


def evaluate_more(folder: str | Path, prompts: Mapping[str, str], count: int) -> dict:
    """Measure a checkpoint: its replies to prompts and what it sees at sides from 96 up to the largest that it takes,
    over `count` scenes of each skill, and the gates over 32 times as many, since some are met by a point or two.
    """
    model = tiny.load(folder, weights="resident")
    sides = range(96, vision_of(model.config).max_image_size + 1, 16)
    return {"prompts": {name: {column: share_following(model, name, prompts[name], column, count)
                               for column in ("seen", "blind")} for name in ASKED},
            "sizes": {side: {skill: share_at(model, skill, side, count) for skill in GATES} for side in sides},
            "gates": {skill: {column: float(np.mean(answers_right(model, draw(skill, column, 32 * count, FRESH))))
                              for column in ("seen", "between")} for skill in GATES}}


def share_following(model, name: str, prompt: str, column: str, count: int) -> float:
    """The share of right answers to questions that carry a prompt."""
    return float(np.mean([follows(model, asked, name, prompt) for skill in ASKED[name]
                          for asked in draw(skill, column, count)]))


def follows(model, asked: Asked, name: str, prompt: str) -> bool:
    """Whether the model, writing greedily, gives the answer in the form that the prompt asks for."""
    images, question = asked
    final = FORMS[name].final
    ids, pixels = model.tokenizer.encode_chat(message(images, f"{question.text}\n{prompt}"))
    written = "".join(token.text for token in tiny.generate(model, ids, pixels, max_tokens=ROOM[final]))
    return written.split("\n")[-1] == (FINAL if final else "") + question.answer


def share_at(model, skill: str, side: int, count: int) -> float:
    """The share of right answers in pictures whose longer side is given: square ones and ones of four to three."""
    rng = np.random.default_rng([SEED, side, list(GATES).index(skill)])
    drawn = [scenes.draw_asked(rng, skill, side, side if i % 2 else side * 3 // 32 * 8) for i in range(count)]
    return float(np.mean(answers_right(model, [(scene.images, question) for scene, question in drawn])))


def table_lines(found: Mapping[str, Mapping]) -> Iterator[str]:
    """The measurements for a terminal, in per cent."""
    yield f"{'prompt':15}{'seen':>9}{'blind':>9}"
    for name, shares in found["prompts"].items():
        yield f"{name:15}{100 * shares['seen']:9.1f}{100 * shares['blind']:9.1f}"
    yield f"{'longer side':15}{'mean':>9}{'lowest':>9}"
    for side, shares in found["sizes"].items():
        worst = min(shares, key=lambda skill: shares[skill])
        yield f"{side:<15}{100 * np.mean(list(shares.values())):9.1f}{100 * shares[worst]:9.1f}  {worst}"
    yield f"{'fresh scenes':15}{'gate':>9}{'seen':>9}{'between':>9}"
    for skill, shares in found["gates"].items():
        yield (f"{skill:15}{100 * GATES[skill]:9.1f}{100 * shares['seen']:9.1f}{100 * shares['between']:9.1f}"
               + ("  below" if min(shares.values()) < GATES[skill] else ""))
