"""Scenes to learn seeing from: pictures of shapes, numbers, words and bars, what each patch shows, and questions.

A scene is a pure function of the random generator, its kind and its size (and of the fonts and their rasteriser, which
come with Matplotlib and Pillow). What a picture shows is decided before it is
drawn, and labels and answers come from that: no picture is ever looked at to find out what is in it.
"""

import functools
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tiny.training.images import drawing, placing, questions
from tiny.training.images.drawing import COLORS, SHAPES, Frame, Thing, pick, sample
from tiny.training.images.questions import Question

PATCH = 8
COVERED = 0.06  # mean alpha from which a patch shows a thing
CHARACTERS = string.digits + string.ascii_lowercase
WHAT = ("", *SHAPES, *CHARACTERS, "bar")  # class 0 of each head: the background, or does not apply
COLOR_NAMES = ("", *COLORS)
HEADS = {"what": len(WHAT), "color": len(COLOR_NAMES), "place": 7, "zone": 10, "side": 3, "level": 3, "rank": 4,
         "count": 6}
SMALLEST = {"objects1": (16, 16), "objects2": (32, 32), "objects3": (32, 32), "objects4": (32, 32),
            "objects5": (48, 32), "number1": (16, 16), "number2": (28, 16), "number3": (42, 16), "word3": (30, 16),
            "word4": (40, 16), "word5": (50, 16), "word6": (60, 16), "bars": (24, 16), "pair": (16, 16),
            "triple": (16, 16)}
# For each skill the kinds of scenes on which it is asked.
SKILLS = {"shape": ("objects1",), "color": ("objects1",), "where": ("objects1",), "caption1": ("objects1",),
          "caption2": ("objects2",), **{f"count_{n}": (f"objects{n}",) for n in placing.RADII},
          "shape_of": ("objects2", "objects3"), "color_of": ("objects2", "objects3"),
          "left_of": ("objects2",), "above": ("objects2",), **{f"num{n}": (f"number{n}",) for n in (1, 2, 3)},
          **{f"word{n}": (f"word{n}",) for n in (3, 4, 5, 6)}, **{f"held_word{n}": (f"word{n}",) for n in (4, 5, 6)},
          "text_color": ("number1", "number2", "number3", "word3", "word4", "word5", "word6"), "tallest": ("bars",),
          "shortest": ("bars",), "same": ("pair",), "which": ("pair",), "m_shape": ("pair",), "m_color": ("pair",),
          "caption_images": ("pair",), "which_3": ("triple",), "m_shape_3": ("triple",), "m_color_3": ("triple",),
          "caption_images_3": ("triple",), "caption_text": ("number2", "number3", "word3", "word4"),
          "caption_many": ("objects3", "objects4", "objects5", "bars")}


class Scene(NamedTuple):
    """One to three pictures, what their patches show, and all that can be asked about them.

    `labels` has an array for each picture, its rows in the order of HEADS, its columns the patches row by row; it is
    empty if a side is not a multiple of PATCH.

    Shapes:  images (height, width, 3), labels (8, patches)
    Dtypes:  uint8, int8
    """

    images: list[np.ndarray]
    labels: list[np.ndarray]
    questions: list[Question]


def smallest(kind: str) -> tuple[int, int]:
    """The least width and height of a scene of this kind."""
    if kind not in SMALLEST:
        raise ValueError(f"A kind of scene is one of {', '.join(SMALLEST)}; this is {kind!r}.")
    return SMALLEST[kind]


def fits(kind: str, width: int, height: int) -> bool:
    """Whether a scene of this kind can be drawn at this size: it is at least `smallest(kind)`, or has a cell of 16 x 16
    pixels for each of two or more shapes.
    """
    w, h = smallest(kind)
    if kind.startswith("objects") and kind != "objects1":
        return (width // 16) * (height // 16) >= int(kind[-1])
    return width >= w and height >= h


def draw(rng: np.random.Generator, kind: str, width: int, height: int, held_out: bool = False) -> Scene:
    """Draw one scene; with held_out a word is one that no training scene shows.

    Raises:  ValueError for an unknown kind, a size below `smallest(kind)`, and if no word of this length is held out
    """
    if not fits(kind, width, height):
        w, h = smallest(kind)
        raise ValueError(f"A scene of kind {kind} needs at least {w} x {h} pixels, but this is {width} x {height}.")
    frames = [drawing.draw_frame(rng, width, height) for _ in range({"pair": 2, "triple": 3}.get(kind, 1))]
    pictures = compose(rng, kind, frames, held_out)
    images, labels = [], []
    for i, frame in enumerate(frames):
        if rng.random() < 0.2:
            pictures[i] = [drawing.hardened(thing) for thing in pictures[i]]
        images.append(drawing.draw_picture(rng, frame, pictures[i]))
        if width % PATCH == 0 and height % PATCH == 0:
            labels.append(draw_labels(frame, pictures[i], width, height))
    seen = [[look(thing, frame, width, height) for thing in things if thing.name]
            for frame, things in zip(frames, pictures)]
    return Scene(images, labels, questions.ask(rng, seen, width, height))


def draw_batch(rng: np.random.Generator, kinds: Mapping[str, float], count: int, width: int, height: int,
               held_out: bool = False) -> list[Scene]:
    """Draw scenes of one size, their kinds in proportion to the given shares (which need not add up to one)."""
    names, bounds = list(kinds), np.cumsum(list(kinds.values()))
    chosen = np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right")
    return [draw(rng, names[i], width, height, held_out) for i in chosen]


def draw_asked(rng: np.random.Generator, skill: str, width: int, height: int) -> tuple[Scene, Question]:
    """Draw scenes until one can be asked for this skill; return it with the question.

    Raises:  ValueError if no kind of scene with this skill fits the size, or none of many scenes could be asked
    """
    kinds = [kind for kind in SKILLS[skill] if fits(kind, width, height)]
    for _ in range(1000 if kinds else 0):
        scene = draw(rng, pick(rng, kinds), width, height, held_out=skill.startswith("held_"))
        for question in scene.questions:
            if question.skill == skill.removeprefix("held_"):
                return scene, question._replace(skill=skill)
    raise ValueError(f"No scene of {width} x {height} pixels can be asked for the skill {skill}. Draw a larger one.")


def compose(rng: np.random.Generator, kind: str, frames: Sequence[Frame], held_out: bool) -> list[list[Thing]]:
    """Decide on the things of each picture of a scene, and place them. Of two pictures half have the same shape, of
    three a third have a shape twice.
    """
    number = int(kind[-1]) if kind[-1].isdigit() else 0
    if kind.startswith("objects"):
        return [placing.draw_objects(rng, frames[0], placing.draw_names(rng, SHAPES, number))]
    if kind == "bars":
        return [placing.draw_bars(rng, frames[0])]
    if kind.startswith("number"):
        return [placing.draw_text(rng, frames[0], "".join(pick(rng, string.digits) for _ in range(number)))]
    if kind.startswith("word"):
        return [placing.draw_text(rng, frames[0], questions.draw_word(rng, number, held_out))]
    shapes = sample(rng, SHAPES, len(frames))
    if rng.random() < 1 / len(frames):
        shapes[-1] = shapes[0]
        shapes = sample(rng, shapes, len(shapes))
    return [placing.draw_objects(rng, frame, [shape]) for frame, shape in zip(frames, shapes)]


# ---- what patches show

@functools.cache
def patch_means(count: int) -> np.ndarray:
    """The matrix that takes `count` pixels to the means of their patches.

    Shapes:  -> (count / 8, count) float32
    """
    return np.repeat(np.eye(count // PATCH, dtype=np.float32), PATCH, axis=1) / np.float32(PATCH)


def look(thing: Thing, frame: Frame, width: int, height: int) -> questions.Seen:
    """What a question can be asked about: the thing's place and size in pixels of the picture."""
    (h, w), x, y = thing.mask.shape, width / frame.width, height / frame.height
    return questions.Seen(thing.name, thing.color, (thing.left + w / 2) * x, (thing.top + h / 2) * y,
                          max(w * x, h * y) / 2, thing.part)


def draw_labels(frame: Frame, things: Sequence[Thing], width: int, height: int) -> np.ndarray:
    """Label each patch by the thing that covers most of it, in every head: means of patches are sums, and so is what a
    frame does to its canvas, so that one product on each side takes a mask to the patches it covers.

    Shapes:  -> (8, patches) int8
    """
    rows, columns = patch_means(height), patch_means(width)
    if frame.lens:
        rows, columns = rows @ frame.lens[0], columns @ frame.lens[1]
    covered = np.full((len(things) + 1, len(rows), len(columns)), COVERED, np.float32)
    for i, thing in enumerate(things, start=1):
        h, w = thing.mask.shape
        covered[i] = rows[:, thing.top:thing.top + h] @ thing.mask @ columns[:, thing.left:thing.left + w].T
    seen = [look(thing, frame, width, height) for thing in things]
    table = np.array([[0] * len(HEADS), *(classes(one, seen, width, height) for one in seen)], np.int8)
    return np.ascontiguousarray(table[covered.reshape(len(covered), -1).argmax(axis=0)].T)


def classes(one: questions.Seen, seen: Sequence[questions.Seen], width: int, height: int) -> list[int]:
    """The classes of a thing, in the order of HEADS; all zero for the line under bars.

    zone: 3 x 3, row by row. side and level: of two shapes the left one is 1 and the right one 2, the upper one 1 and
    the lower one 2, and 0 where they differ by less than 1.5 pixels. count: of the shapes in the picture.
    """
    if not one.name:
        return [0] * len(HEADS)
    what, color = WHAT.index(one.name), COLOR_NAMES.index(one.color)
    if one.name == "bar":
        return [what, color, 0, 0, 0, 0, one.part, 0]
    if one.name not in SHAPES:
        return [what, color, one.part, 0, 0, 0, 0, 0]
    side = level = 0
    if len(seen) == 2:
        other = seen[0] if one is seen[1] else seen[1]
        dx, dy = one.x - other.x, one.y - other.y
        side, level = (0 if abs(d) < 1.5 else 1 if d < 0 else 2 for d in (dx, dy))
    return [what, color, 0, 1 + placing.zone(one.x / width, one.y / height), side, level, 0, len(seen)]
