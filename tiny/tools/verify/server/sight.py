"""Does a server that also sees read its images right? Chats about drawings, whose answers are weighed as texts are.

Servers give log-probabilities of what they write, so each answer is forced through the reference behind the same
images, with every fault of `pictures.py`. Read `report.py` next.
"""

import base64
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tiny.pixtral import Pixtral, vision_of
from tiny.tools.verify.server import pictures
from tiny.tools.verify.server.answers import Answer, by_ids, names_of, read_answer
from tiny.tools.verify.server.chat import seen_of_answers
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.decide import BLOCKS, Evidence, deviation, name_of, seen_of, weigh
from tiny.tools.verify.server.faults import Fault
from tiny.tools.verify.server.probe import CHAT
from tiny.tools.verify.server.reference.cost import announce
from tiny.tools.verify.server.rounding import rounded

LENGTH, TOP = 12, 20  # tokens of an answer, and likeliest tokens of each that are asked for
QUESTIONS = ("what do the images show?", "what is in these pictures?", "describe the images.",
             "say what is in the images.")
COLORS = ("red", "green", "blue", "orange", "purple", "black")
CHATS = 12  # each with two drawings of one size: of two sizes, exchanged ones are not the same fault in all servers
SIZES = ((6, 4), (0, 4), (4, 6), (0, 4))  # columns and rows of patches; 0: longer than the model takes
WIDE = 1.25  # sides of the longest drawing, of the longest that is not shrunk


class Look(NamedTuple):
    """One chat about images, its ids, and what was answered."""

    images: list[Image.Image]
    ids: list[int]
    answer: Answer


class SightVerdict(NamedTuple):
    """What chats about images showed. state: "healthy", "faulty" or "cannot tell"; words, remedy and notes: for the
    report; deviation, limit: nats; counts: prompt tokens of the server, and ours
    """

    state: str
    words: str
    remedy: str
    notes: list[str]
    deviation: float
    limit: float
    evidence: Mapping[str, Evidence]
    counts: tuple[list[int | None], list[int]]


def check_images(server: Server, body: dict[str, Any], model: Pixtral, bound: float, engine: str) -> SightVerdict:
    """Ask for all chats, and weigh the faults of images.

    body: the fields of every request; bound: how far a healthy answer may be from the reference, in nats

    Raises:  Refused if the server takes no images; TinyError if there is no connection, or an answer of another form
    """
    names, body = names_of(model), by_ids(server, body)
    looks, refused = [], []
    for number in range(CHATS):
        images, question = drawings(number, model), QUESTIONS[number % len(QUESTIONS)]
        asked = {"messages": messages(images, question), "max_tokens": LENGTH, "logprobs": True, "top_logprobs": TOP}
        try:
            said = server.post(CHAT, body | asked)
        except Refused as error:
            refused.append(error)
            continue
        parts = [{"type": "image", "image": image} for image in images]
        content = [*parts, {"type": "text", "text": question}]
        ids = model.tokenizer.encode_chat([{"role": "user", "content": content}])[0]
        looks.append(Look(images, ids, read_answer(said, names, LENGTH)))
    if not looks:
        raise refused[0]
    notes = sorted({note for look in looks for note in look.answer.notes})
    notes += [f"{len(refused)} of {CHATS} chats were refused: {refused[0].cause}"] if refused else []
    return decide(model, looks, bound, engine)._replace(notes=notes)


def decide(model: Pixtral, looks: list[Look], bound: float, engine: str) -> SightVerdict:
    """The verdict on answers."""
    counts = [look.answer.counted for look in looks], [len(look.ids) for look in looks]
    found = SightVerdict("cannot tell", "", "", [], np.nan, bound, {}, counts)
    looks = [look for look in looks if look.answer.ids]
    if sum(len(look.answer.ids) for look in looks) < BLOCKS:
        return found._replace(words="the answers have too few tokens with log-probabilities to tell anything")
    # (1) how far the answers are from the reference, and it from itself in bfloat16
    shown = [{fault.name: fault for fault in pictures.hypotheses(model.config, look.images)} for look in looks]
    faults = {name: fault for some in shown for name, fault in some.items()}
    announce(model, [len(look.ids) + len(look.answer.ids) for look in looks], len(looks) * (2 + len(faults)),
             2 + len(faults))
    nothing: list[Fault | None] = [None] * len(looks)
    seens, plain = [seen_of_answers([look.answer]) for look in looks], rows_of(model, nothing, looks)
    mean = mean_of([deviation(*pair) for pair in zip(seens, plain)])
    half = [deviation(seen_of(np.zeros(len(rows), int), other), rows)
            for rows, other in zip(plain, rows_of(rounded(model, "bfloat16"), nothing, looks))]
    rounding = mean_of(half)
    limit = max(bound, 2 * rounding)
    # (2) every fault that shows in one of the chats
    evidence = {name: weigh(seens, plain, rows_of(model, [some.get(name) for some in shown], looks)) for name in faults}
    name = name_of(evidence, rounding)
    found = found._replace(deviation=mean, limit=limit, evidence=evidence)
    different = [f"{count} for {n}" for count, n in zip(*counts) if count not in (None, n)]
    counted = f"; prompt tokens: {', '.join(different[:3])}" if different else ""
    if name is not None:
        one, repair = evidence[name], faults[name].repair
        explained = f"{1 - one.left:.0%}".replace("%", " %")
        return found._replace(state="faulty", remedy=repair.get(engine, repair.get("any", "")), words=(
            f"as {name}: {explained} explained, beta {one.beta:.2f} ± {one.error:.2f}{counted}"))
    if mean <= limit and not different:
        return found._replace(state="healthy", words=f"{mean:.4f} nats from the reference, limit {limit:.4f}")
    return found._replace(state="faulty", remedy="Compare the ids and the pixels that it makes of one image with ours.",
                          words=f"{mean:.4f} nats from the reference, limit {limit:.4f}, and no known fault of images "
                          f"explains it{counted}")


def rows_of(model: Any, faults: list[Fault | None], looks: list[Look]) -> list[np.ndarray]:
    """What a server says of the tokens of each answer, with a fault for each chat; None where it does not show.

    Shapes:  -> (n, V) float32 for each
    """
    found = []
    for look, fault in zip(looks, faults):
        rows = pictures.logprobs(model, fault, [*look.ids, *look.answer.ids[:-1]], look.images)
        found.append(rows[len(look.ids) - 1 :])
    return found


def mean_of(parts: list[np.ndarray]) -> float:
    """The mean of what was said. Shapes:  (n,) each."""
    return float(np.nanmean(np.concatenate(parts)))


def messages(images: list[Image.Image], question: str) -> list[dict[str, Any]]:
    """A chat as servers take it: each image as a data URL."""
    def url(image: Image.Image) -> str:
        out = io.BytesIO()
        image.save(out, format="png")
        return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"

    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url(image)}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def drawings(number: int, model: Pixtral) -> list[Image.Image]:
    """Two drawings of one size, of whole patches or so wide that the model shrinks them; all differ."""
    vision, (columns, rows) = vision_of(model.config), SIZES[number % len(SIZES)]
    width = columns * vision.patch_size or round(WIDE * vision.max_image_size)
    return [drawing(width, rows * vision.patch_size, 2 * number + n) for n in range(2)]


def drawing(width: int, height: int, number: int) -> Image.Image:
    """A shape on white, off the middle, so that a turned or mirrored image is another one."""
    image = Image.new("RGB", (width, height), "white")
    pen, side = ImageDraw.Draw(image), round(0.6 * min(width, height))
    left, top = (width - side) * (number % 3) // 3 + side // 8, (height - side) * (number % 4) // 5 + side // 8
    right, bottom, color = left + side, top + side, COLORS[number % len(COLORS)]
    middle = (left + right) // 2
    shapes = {"circle": lambda: pen.ellipse((left, top, right, bottom), color),
              "square": lambda: pen.rectangle((left, top, right, bottom), color),
              "triangle": lambda: pen.polygon([(left, bottom), (middle, top), (right, bottom)], color),
              "ring": lambda: pen.ellipse((left, top, right, bottom), None, color, max(2, side // 6))}
    list(shapes.values())[number // 2 % len(shapes)]()
    return image
