"""Questions about scenes and their answers, which depend on the pictures alone, and the words that scenes show.

No question gives its answer away: yes and no, first and second come up equally often, whatever the wording is.
"""

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tiny.training.images.drawing import COLORS, SHAPES, pick

# Of each question the first wording is the plain one. A full stop marks a request, a question mark a question; both may
# be left out, and "color" may be written "colour".
CAPTION = ("describe the image.", "describe this picture.", "what is in this picture?", "what do you see?",
           "what does the image show?", "say what is in the image.")
WORDINGS = {
    "shape": ("what shape is this?", "which shape is it?", "name the shape.", "what shape do you see?",
              "what is the shape in the image?"),
    "color": ("what color is this?", "which color is it?", "name the color.", "what color is the shape?",
              "what is the color of the shape?"),
    "where": ("where is it?", "where is the shape?", "in which part of the image is it?",
              "say where the shape is in the picture.", "where in the picture is the shape?"),
    "caption1": CAPTION,
    "caption2": CAPTION, "caption_many": CAPTION, "caption_text": CAPTION,
    "caption_images": ("describe the images.", "describe these pictures.", "what is in these pictures?",
                       "what do the images show?", "say what is in the images."),
    "count": ("how many objects?", "how many objects are there?", "how many shapes do you see?", "count the shapes.",
              "what is the number of objects in the image?"),
    "shape_of": ("what shape is {name}?", "what shape is the {name} one?", "which shape is {name}?",
                 "name the {name} shape.", "what is the {name} object?"),
    "color_of": ("what color is the {name}?", "which color is the {name}?", "what is the color of the {name}?",
                 "name the color of the {name}.", "what color does the {name} have?"),
    "left_of": ("is the {a} left of the {b}?", "is the {a} to the left of the {b}?", "is the {b} right of the {a}?",
                "is the {b} to the right of the {a}?", "do you see the {a} left of the {b}?"),
    "above": ("is the {a} above the {b}?", "is the {a} higher than the {b}?", "is the {b} below the {a}?",
              "is the {b} under the {a}?", "do you see the {a} above the {b}?"),
    "num": ("what number is shown?", "which number is it?", "read the number.", "what number do you see?",
            "what is the number in the image?"),
    "word": ("what word is shown?", "which word is it?", "read the word.", "what word do you see?",
             "what does the text say?"),
    "text_color": ("what color is the text?", "which color is the text?", "what is the color of the text?",
                   "name the color of the text.", "in what color is it written?"),
    "tallest": ("which bar is tallest?", "which bar is the tallest?", "which bar is the highest?",
                "what color is the tallest bar?", "what is the color of the highest bar?",
                "name the color of the tallest bar."),
    "shortest": ("which bar is shortest?", "which bar is the shortest?", "which bar is the lowest?",
                 "what color is the shortest bar?", "what is the color of the lowest bar?",
                 "name the color of the shortest bar."),
    "same": ("are they the same shape?", "do both images show the same shape?",
             "is it the same shape in both pictures?", "do the two images have the same shape?",
             "are the shapes in the two pictures the same?"),
    "which": ("which image has the {name}?", "which picture shows the {name}?", "in which image is the {name}?",
              "is the {name} in the first or the second image?",
              "where is the {name}, in the first or the second picture?"),
    "which_3": ("which image has the {name}?", "which picture shows the {name}?", "in which image is the {name}?",
                "is the {name} in the first, second or third image?", "which of the three images has the {name}?"),
    "m_shape": ("what shape is in image {number}?", "what shape is in the {place} image?",
                "which shape does the {place} picture show?", "name the shape in image {digit}.",
                "what is the shape in the {place} picture?"),
    "m_color": ("what color is the shape in image {number}?", "what color is in the {place} image?",
                "which color does the {place} picture show?", "name the color of the shape in image {digit}.",
                "what is the color in the {place} picture?"),
}
NUMBERS, PLACES = ("one", "two", "three"), ("first", "second", "third")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")

LISTED = """
ant bag bed bell bike bird boat book bottle box bread bridge brush bucket bus button cake candle car cat chair cheese
clock cloud coat corn cow cup desk dog door duck egg farm fish flag fork fox frog garden glass hat hen horse house ice
jam jar key king kite knife lake lamp leaf lemon map milk moon mouse nest oven paper pear pen pencil piano pig pillow
plant rabbit road rose salt shoe soup spoon stone sugar sun table tiger tree wagon window
""".split()
HELD_OUT = "bear coin ship wolf apple beach plate snail train basket kitten rocket".split()

# Every word of a question or an answer, except those that are read letter by letter.
VOCABULARY = frozenset(re.findall(r"[a-z]+", re.sub("{.*?}", " ", " ".join((
    *itertools.chain(*WORDINGS.values()), *SHAPES, *COLORS, *NUMBERS, *PLACES, *ROWS, *COLUMNS,
    "colour yes no a an and of above left objects bars number word in")))))


class Question(NamedTuple):
    """A question about a scene and the only answer to it."""

    skill: str
    text: str
    answer: str


class Seen(NamedTuple):
    """A thing that can be asked about: its name and colour, its centre and half its longer side in pixels of the
    picture, and the place of a character or the rank of a bar (1 tallest, 2 shortest, 3 other).
    """

    name: str
    color: str
    x: float
    y: float
    radius: float
    part: int


def draw_word(rng: np.random.Generator, letters: int, held_out: bool = False) -> str:
    """Draw a word to show: half are listed, half random letters that form no held-out word and none of a question or an
    answer; or draw one that is held out.

    Raises:  ValueError if no word of this length is listed or held out
    """
    listed = [word for word in (HELD_OUT if held_out else LISTED) if len(word) == letters]
    if not listed:
        kind = "held out" if held_out else "listed"
        raise ValueError(f"No word of {letters} letters is {kind}. Ask for another length.")
    if held_out or rng.random() < 0.5:
        return pick(rng, listed)
    while True:
        word = "".join(pick(rng, string.ascii_lowercase) for _ in range(letters))
        if word not in HELD_OUT and word not in VOCABULARY:
            return word


def spoken(rng: np.random.Generator, wording: str, **blanks: str) -> str:
    """Say a wording in one of its ways: with its mark, without, or with a space before it, "color" or "colour", with a
    capital or without.
    """
    kind = int(rng.random() * 12)
    body, mark = wording[:-1], wording[-1]
    if kind % 3 == 2:
        body = body.replace("color", "colour")
    ending = (mark, "", " ?" if mark == "?" else ".", mark)[kind % 4]
    text = body.format(**blanks) + ending
    return text if rng.random() < 0.5 else text[0].upper() + text[1:]


# ---- what can be asked, as skill, answer and the blanks of the wording

Fact = tuple[str, str, dict[str, str]]


def ask(rng: np.random.Generator, pictures: Sequence[Sequence[Seen]], width: int, height: int) -> list[Question]:
    """Ask everything that can be asked about the pictures of a scene, once each, in a wording drawn at random."""
    first = pictures[0]
    if len(pictures) > 1:
        facts = of_images(rng, [things[0] for things in pictures])
    elif first[0].name == "bar":
        facts = of_bars(first)
    elif first[0].name in SHAPES:
        facts = of_shape(first[0], width, height) if len(first) == 1 else of_shapes(rng, first)
    else:
        facts = of_text(first)
    asked = []
    for skill, answer, blanks in facts:
        wordings = WORDINGS.get(skill) or WORDINGS[skill.rstrip("_" + string.digits)]
        chosen = list(wordings)
        if skill in ("left_of", "above") and rng.random() < 0.7:  # mostly as it is named: else yes and no cancel out
            chosen = [wording for wording in wordings if "{a}" in wording.split("{b}")[0]]
        asked.append(Question(skill, spoken(rng, pick(rng, chosen), **blanks), answer))
        if skill in ("left_of", "above", "where"):  # the same again, in other words
            asked.append(Question(skill, spoken(rng, pick(rng, chosen), **blanks), answer))
    return asked


def named(thing: Seen) -> str:
    """Name a shape with its colour: "a red star", "an orange circle"."""
    return f"{'an' if thing.color[0] in 'aeiou' else 'a'} {thing.color} {thing.name}"


def of_shape(thing: Seen, width: int, height: int) -> Iterator[Fact]:
    """The facts about a single shape. Where it is comes as row and column of three each, "top left", "middle right",
    but "center" alone for both in the middle; not for large shapes and not near a border between two parts.
    """
    yield "shape", thing.name, {}
    yield "color", thing.color, {}
    yield "caption1", named(thing), {}
    yield "count_1", "1", {}
    x, y = thing.x / width, thing.y / height
    clear = all(abs(share - line) >= 0.03 for share in (x, y) for line in (1 / 3, 2 / 3))
    if clear and thing.radius < 0.25 * min(width, height):
        row, column = ROWS[int(3 * y)], COLUMNS[int(3 * x)]
        yield "where", "center" if (row, column) == ("middle", "center") else f"{row} {column}", {}


def of_shapes(rng: np.random.Generator, things: Sequence[Seen]) -> Iterator[Fact]:
    """The facts about several shapes. A shape is meant by its colour, and a colour by its shape, if only one has it."""
    count = len(things)
    yield f"count_{count}", str(count), {}
    colors, shapes = Counter(thing.color for thing in things), Counter(thing.name for thing in things)
    if single := [thing for thing in things if colors[thing.color] == 1]:
        thing = pick(rng, single)
        yield "shape_of", thing.name, {"name": thing.color}
    if single := [thing for thing in things if shapes[thing.name] == 1]:
        thing = pick(rng, single)
        yield "color_of", thing.color, {"name": thing.name}
    if count == 2:
        yield from of_two(rng, *things)
    else:
        yield "caption_many", f"{count} objects", {}


def of_two(rng: np.random.Generator, a: Seen, b: Seen) -> Iterator[Fact]:
    """The relations of two shapes: the caption gives the larger of both distances, from the left or upper shape; yes-no
    questions name the shapes in random order, if they differ by 4 pixels that way.
    """
    dx, dy = b.x - a.x, b.y - a.y
    beside = abs(dx) > abs(dy)
    first, second = (a, b) if (dx if beside else dy) > 0 else (b, a)
    yield "caption2", f"{named(first)} {'left of' if beside else 'above'} {named(second)}", {}
    if a.name != b.name:
        for skill, difference in (("left_of", dx), ("above", dy)):
            if abs(difference) >= 4:
                turned = rng.random() < 0.5
                names = {"a": b.name, "b": a.name} if turned else {"a": a.name, "b": b.name}
                yield skill, "yes" if (difference > 0) != turned else "no", names


def of_bars(bars: Sequence[Seen]) -> Iterator[Fact]:
    """The facts about bars: a bar is named by its colour."""
    for bar in bars:
        if bar.part < 3:
            yield "tallest" if bar.part == 1 else "shortest", bar.color, {}
    yield "caption_many", f"{len(bars)} bars", {}


def of_text(characters: Sequence[Seen]) -> Iterator[Fact]:
    """The facts about a number or a word."""
    text = "".join(character.name for character in characters)
    number = text[0] in string.digits
    yield f"{'num' if number else 'word'}{len(text)}", text, {}
    yield "text_color", characters[0].color, {}
    yield "caption_text", f"the {'number' if number else 'word'} {text} in {characters[0].color}", {}


def of_images(rng: np.random.Generator, things: Sequence[Seen]) -> Iterator[Fact]:
    """The facts about two or three pictures of one shape each. An image is asked for by a shape that no other has."""
    three = "_3" if len(things) == 3 else ""
    if not three:
        yield "same", "yes" if things[0].name == things[1].name else "no", {}
    shapes = Counter(thing.name for thing in things)
    for i, thing in enumerate(things):
        if shapes[thing.name] == 1:
            yield "which" + three, PLACES[i], {"name": thing.name}
    for skill in ("m_shape", "m_color"):
        i = int(rng.random() * len(things))
        answer = things[i].name if skill == "m_shape" else things[i].color
        yield skill + three, answer, {"number": NUMBERS[i], "place": PLACES[i], "digit": str(i + 1)}
    captions = [named(thing) for thing in things]
    yield "caption_images" + three, f"{', '.join(captions[:-1])} and {captions[-1]}", {}
