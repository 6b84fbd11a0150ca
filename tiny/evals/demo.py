"""The command `demo`: tiny-pixtral on a small benchmark of pictures that it never saw, in all six formats.

Each question is asked twice, about the picture and about a plain one of its mean colour. What is right both times was
guessed. This is the last file of the folder.
"""

import argparse
import io
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tiny
from tiny.evals import judge, run_folder, scores
from tiny.evals.clients import Client, Reply, turns_for
from tiny.evals.items import Item, Request, read_items, requests, write_items
from tiny.evals.report import BESIDE, beside, plain, with_interval
from tiny.evals.run import go_on
from tiny.evals.tasks import TASKS
from tiny.training.images import scenes
from tiny.training.images.evaluate import SEED

MODEL = "tiny-pixtral"
ITEMS = 16  # of a task, which leaves intervals of about 30 points
SIZES = ((64, 64), (80, 48), (48, 64), (96, 64))
# What is asked in each format: skills of the training scenes. Two of a conversation are asked one after the other.
SKILLS = {"mathvista": ("count_2", "count_3", "count_4"), "mmmu": ("which", "same"), "chartqa": ("tallest", "shortest"),
          "docvqa": ("num2", "num3", "held_word4"), "vqav2": ("color", "shape", "color_of", "left_of"),
          "mm_mt_bench": ("caption1", "caption2")}
LONGEST = 24  # tokens of an answer; no right one has more
LABEL = "Final Answer: "  # what the published parser looks for, and tiny-pixtral does not write by itself
RULE = "a rule (10 for the reference itself, 5 for a part of it, else 1)"


def main(args: argparse.Namespace) -> None:
    """Ask, score and print, with the code that `judge` and `score` use. Nothing of it stays on the disk."""
    start, rows = time.perf_counter(), []
    model = tiny.load(MODEL, weights="resident")
    print(f"{MODEL} on {ITEMS} questions in each format, about new pictures, and blind.\n"
          f"It was trained on bare questions: the published prompts are left out, and \"{LABEL.strip()}\" is put\n"
          f"before its answers. Ratings of mm_mt_bench are by {RULE}.\n")
    with tempfile.TemporaryDirectory() as name:
        for task in SKILLS:
            folder = Path(name) / task
            write_items(folder, TASKS[task], [make_item(task, n) for n in range(ITEMS)])
            seen, blind = (ask(model, folder, images) for images in ("original", "blind"))
            row = scores.score_run(seen, (), blind)["rows"][0]
            rows.append([task, row["measure"].partition("_relaxed")[0], with_interval(row), *beside(row)])
    print(plain((["task", "measure", "seen", *BESIDE], rows)))
    print(f"\nIn brackets are intervals of 95 per cent. {time.perf_counter() - start:.0f} s")


def make_item(task: str, number: int) -> tuple[Item, dict[str, bytes]]:
    """One question in the format of a task: its pictures first, and what is right."""
    rng = np.random.default_rng([SEED, zlib.crc32(task.encode()), number])
    skill = SKILLS[task][number % len(SKILLS[task])]
    scene, question = scenes.draw_asked(rng, skill, *SIZES[number % len(SIZES)])
    files = {f"images/{task}-{number}-{n}.png": png(image) for n, image in enumerate(scene.images)}
    content = [{"type": "image", "image": name} for name in files] + [{"type": "text", "text": question.text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if task != "mm_mt_bench":
        right = [question.answer] * (10 if task == "vqav2" else 1)
        return Item(f"{skill}-{number}", messages, [right], skill), files
    more = next(one for one in scene.questions if one.skill != question.skill)
    messages += [{"role": "assistant", "content": question.answer},
                 {"role": "user", "content": [{"type": "text", "text": more.text}]}]
    return Item(f"{skill}-{number}", messages, [question.answer, more.answer], skill), files


def png(image: np.ndarray) -> bytes:
    """A picture as a file. Shapes:  (H, W, 3)"""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return out.getvalue()


def ask(model: Any, folder: Path, images: str) -> run_folder.Run:
    """Run one task, and have it judged if it is of that kind."""
    task, items = read_items(folder)
    asked = [("naive", item, request) for item in items for request in requests(task, item, "")]
    out = folder.with_name(f"{task.name}-{images}")
    head = run_folder.head_of(task, folder, {"naive": ""}, images, None, {"name": MODEL}, len(asked))
    client = answered_together(model, folder, images, [request for _, _, request in asked])
    found = go_on(out, head, asked, {"naive": labelled(client) if task.levels else client})
    if task.judge:
        said = {"judge": RULE, "date": head["date"], "form": judge.FORMS[0], "image": False, "tries": 1}
        judge.judge_run(found, said, rule)
    return found


def answered_together(model: Any, folder: Path, images: str, asked: Sequence[Request]) -> Client:
    """The answers of a model to some requests, which are packed and run together: each is the one it gives alone, and
    all come sooner.
    """
    prompts, pixels = [], []
    for request in asked:
        ids, seen = model.tokenizer.encode_chat(turns_for(model, request, folder, images))
        prompts.append(ids)
        pixels += seen
    limit = min(LONGEST, asked[0].max_tokens)
    texts = tiny.generate_batch(model, prompts, pixels, max_tokens=limit)
    found = {request.id: Reply("".join(token.text for token in tokens), "stop" if len(tokens) < limit else "length")
             for request, tokens in zip(asked, texts)}
    return lambda request: found[request.id]


def labelled(client: Client) -> Client:
    """The same client, its answers behind the label that the published parser looks for."""
    return lambda request: Reply(LABEL + client(request).text, client(request).finish_reason)


def rule(request: Mapping[str, Any], prompt: str, answer: str, asking: int) -> Reply:
    """A judge without a mind, so that the demonstration needs no other model."""
    right = request["references"]
    return Reply(f"[[{10 if answer.strip() == right else 5 if set(answer.split()) & set(right.split()) else 1}]]")
