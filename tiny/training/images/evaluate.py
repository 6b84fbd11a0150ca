"""What tiny-pixtral sees, measured: one question each about fresh scenes, by skill and by the size of the pictures.

An answer counts if all of it is right, its end too. It is measured at sizes that were trained, at sizes
that never were, and with every picture replaced by its mean colour: right answers are then guessed, not seen.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.generate import run_finite
from tiny.training.images import scenes
from tiny.training.images.batches import SEVERAL
from tiny.training.images.questions import WORDINGS, Question, Seen, ask

SEED = 20261123  # Training scenes are drawn with the small seed of their run, never with this one.
TOKENS = 1024  # of a packed batch, about
SCENES = 256  # of a cell of the table
Asked = tuple[list[np.ndarray], Question]

# What was promised of each skill, at sizes seen and between: a gate, which has to be reached, or an aim.
GATES = {"shape": 0.97, "color": 0.97, "caption1": 0.97, "shape_of": 0.97, "color_of": 0.97, "tallest": 0.97,
         "shortest": 0.97, "num1": 0.97, "num2": 0.97, "num3": 0.95, "count_1": 0.95, "count_2": 0.95, "count_3": 0.95,
         "count_4": 0.95, "count_5": 0.95, "same": 0.95, "caption2": 0.93, "left_of": 0.93, "above": 0.93,
         "where": 0.93, "word3": 0.93, "word4": 0.93}
AIMS = {"held_word4": 0.85, "which": 0.92}
REST = ("word5", "word6", "held_word5", "held_word6", "text_color", "caption_text", "caption_many", "m_shape",
        "caption_images", "which_3", "m_shape_3")
SKILLS = (*GATES, *AIMS, *REST)

# Sizes, (width, height), of each column. Shapes and bars were trained up to two to one, texts up to three to one, all
# with sides of 24 to 96 that are multiples of 8. `tiny.preprocess` resamples pictures of other sizes.
SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "seen": ((64, 64), (48, 48), (80, 80), (32, 32), (64, 48), (48, 64), (80, 48), (96, 64)),
    "between": ((40, 56), (56, 40), (56, 56), (40, 72), (72, 40), (72, 56), (56, 72), (50, 50), (61, 45), (45, 61),
                (70, 77), (91, 83)),
    "aspect": ((96, 32), (72, 24), (32, 96), (24, 88)),
    "larger": ((104, 104), (128, 88), (96, 120), (112, 112), (144, 144))}
LONG = ((96, 24), (88, 24), (110, 28))  # aspects of texts that were never trained
COLUMNS = (*SIZES, "mixed", "blind")  # mixed: images of different seen sizes in one prompt, which were never trained


def columns_for(skill: str) -> list[str]:
    """The columns in which a skill is measured: `mixed` is for several images."""
    return [column for column in COLUMNS if column != "mixed" or scenes.SKILLS[skill][0] in SEVERAL]


def sizes_for(skill: str, column: str) -> list[tuple[int, int]]:
    """The sizes of a column in which a skill can be asked for; those of `blind` and of `mixed` are those of `seen`."""
    kinds = scenes.SKILLS[skill]
    texts = column == "aspect" and all(kind.startswith(("number", "word")) for kind in kinds)
    options = LONG if texts else SIZES.get(column, SIZES["seen"])
    if skill == "where":  # asked of small shapes only, and none of the smallest ones is small in 24 pixels
        options = tuple(size for size in options if min(size) >= 32)
    return [size for size in options if any(scenes.fits(kind, *size) for kind in kinds)]


def draw(skill: str, column: str, count: int, seed: int = SEED) -> list[Asked]:
    """The questions of one cell of the table: always the same, and in `blind` those of `seen` about plain colours."""
    seen_as = "seen" if column == "blind" else column
    rng = np.random.default_rng([seed, zlib.crc32(skill.encode()), zlib.crc32(seen_as.encode())])
    sizes, asked = sizes_for(skill, column), []
    for i in range(count):
        if column == "mixed":
            asked.append(draw_mixed(rng, skill, "yes" if i % 2 else "no"))
            continue
        scene, question = scenes.draw_asked(rng, skill, *sizes[i % len(sizes)])
        asked.append(([plain(image) for image in scene.images] if column == "blind" else scene.images, question))
    return asked


def draw_mixed(rng: np.random.Generator, skill: str, wanted: str) -> Asked:
    """A question about images of one shape each and of different sizes; whether they are the same is as wanted."""
    number = SEVERAL[scenes.SKILLS[skill][0]]
    while True:
        sizes = [SIZES["seen"][i] for i in rng.permutation(len(SIZES["seen"]))[:number]]
        drawn = [scenes.draw(rng, "objects1", *size) for size in sizes]
        told = [{question.skill: question.answer for question in scene.questions} for scene in drawn]
        things = [[Seen(one["shape"], one["color"], 0, 0, 0, 0)] for one in told]
        for question in ask(rng, things, *sizes[0]):
            if question.skill == skill and (skill != "same" or question.answer == wanted):
                return [scene.images[0] for scene in drawn], question


def plain(image: np.ndarray) -> np.ndarray:
    """The picture for the blind baseline: everywhere its mean colour. Shapes:  (H, W, 3) -> same, uint8."""
    return np.broadcast_to(np.round(image.mean(axis=(0, 1))).astype(np.uint8), image.shape)


def message(images: Sequence[np.ndarray], text: str) -> list[dict]:
    """A chat of one question about some pictures."""
    shown = [{"type": "image", "image": Image.fromarray(np.ascontiguousarray(image))} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def answers_right(model, asked: Sequence[Asked]) -> list[bool]:
    """Whether the model, writing greedily, gives exactly each answer and ends there.

    Greedy writing gives an answer if and only if, with the answer before it, each of its tokens and the EOS has the
    largest logit. So nothing is written: the answers are read, many prompts in one packed pass.
    """
    found = []
    for batch in batches(model, asked):
        prompts, answers, images = zip(*batch)
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers)]
        ids = [token for prompt, answer in zip(prompts, answers) for token in prompt + answer]
        pixels = [image for group in images for image in group]
        best = run_finite(model, ids, pixels, lengths).argmax(axis=1)
        for end, answer in zip(np.cumsum(lengths), answers):
            found.append(best[end - len(answer) - 1 : end].tolist() == [*answer, model.tokenizer.eos_id])
    return found


def batches(model, asked: Sequence[Asked]) -> Iterator[list[tuple[list[int], list[int], list[np.ndarray]]]]:
    """Cut questions into groups of about TOKENS tokens, each as the ids of prompt and answer, and the pixels."""
    batch, total = [], 0
    for images, question in asked:
        prompt, pixels = model.tokenizer.encode_chat(message(images, question.text))
        batch.append((prompt, model.tokenizer.encode(question.answer), pixels))
        total += len(prompt)
        if total >= TOKENS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def wording_of(question: Question) -> str:
    """The wording that a question was made from, whatever its capital, its mark, its spelling and its blanks are."""
    skill = question.skill.removeprefix("held_")
    text = (question.text[0].lower() + question.text[1:]).replace("colour", "color").rstrip(" ?.")
    for wording in WORDINGS.get(skill) or WORDINGS[re.sub(r"_?\d*$", "", skill)]:
        if re.fullmatch(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(wording[:-1])), text):
            return wording
    raise ValueError(f"No wording of the skill {skill} gives {question.text!r}.")


def worst_wording(asked: Sequence[Asked], right: Sequence[bool]) -> dict:
    """The wording with the lowest share of right answers, that share, and how many wordings there are."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for (_, question), good in zip(asked, right):
        groups[wording_of(question)].append(good)
    shares = {wording: sum(group) / len(group) for wording, group in groups.items()}
    worst = min(shares, key=lambda wording: shares[wording])
    return {"wording": worst, "share": shares[worst], "asked": len(groups[worst]), "wordings": len(groups)}


def evaluate(folder: str | Path, count: int = SCENES, skills: Sequence[str] = SKILLS) -> dict:
    """Measure a checkpoint: for each skill the share of right answers by column, over `count` scenes each, the
    wording that goes worst at sizes seen and between, and the first example at a size seen.
    """
    model = tiny.load(folder, weights="resident")
    table: dict[str, dict] = {}
    samples = []
    for skill in skills:
        drawn = {column: draw(skill, column, count) for column in columns_for(skill)}
        right = {column: answers_right(model, asked) for column, asked in drawn.items()}
        table[skill] = {column: sum(good) / count for column, good in right.items()}
        table[skill]["worst"] = worst_wording(drawn["seen"] + drawn["between"], right["seen"] + right["between"])
        images, question = drawn["seen"][0]
        ids, pixels = model.tokenizer.encode_chat(message(images, question.text))
        tokens = tiny.generate(model, ids, pixels, max_tokens=24)
        samples.append({"skill": skill, "size": f"{images[0].shape[1]} x {images[0].shape[0]}", "images": len(images),
                        "question": question.text, "answer": question.answer, "given": "".join(t.text for t in tokens)})
    return {"scenes": count, "skills": table, "samples": samples}
