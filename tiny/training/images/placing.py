"""Where things are in a picture: shapes that keep their distance, a line of text, bars of different heights.

Everything is placed on the canvas of a frame, whose pixels are somewhat larger or smaller than the picture's if the
frame resizes; least sizes are meant in the picture's.
"""

import math
from collections.abc import Sequence

import numpy as np

from tiny.training.images import drawing
from tiny.training.images.drawing import COLORS, FACES, Frame, Thing, between, pick, sample

# For 1 to 5 shapes: the least radius in pixels, and the largest in shares of the shorter side.
RADII = {1: (7.0, 0.44), 2: (6.5, 0.25), 3: (6.0, 0.20), 4: (5.5, 0.17), 5: (5.5, 0.16)}
LETTER_SIZE = 14  # pixels of the smallest text


def draw_names(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    """Draw shapes or colours of the things of a picture: 80 % all different, else each for itself."""
    return sample(rng, names, count) if rng.random() < 0.8 else [pick(rng, names) for _ in range(count)]


def draw_objects(rng: np.random.Generator, frame: Frame, shapes: Sequence[str]) -> list[Thing]:
    """Draw shapes of different sizes, wholly inside and apart; two have clearly one relation: beside or above.

    If there is no free place for one, all are drawn again; from the fourth time on each gets a cell of a grid, from
    the seventh time on with the smallest radius, which has room by `fits`.
    """
    colors = draw_names(rng, tuple(COLORS), len(shapes))
    thin = rng.random() < 0.05
    for attempt in range(1000):
        things = []
        for shape, color in zip(shapes, colors):
            radius = draw_radius(rng, frame, len(shapes), smallest=attempt >= 6)
            mask = drawing.draw_shape(rng, shape, radius)
            thing = Thing(shape, color, drawing.draw_color(rng, color), mask, 0, 0)
            things.append(drawing.outlined(thing) if thin and attempt < 6 else thing)
        if len(things) == 1:
            placed = settle(rng, frame, things[0])
        else:
            placed = scatter(rng, frame, things) if attempt < 3 else spread(rng, frame, things)
        if len(placed) == len(things) and (len(placed) != 2 or related(placed, 4 * frame.pixel)):
            return placed
    raise ValueError(f"{len(shapes)} shapes do not fit {frame.width} x {frame.height} pixels. Draw a larger picture.")


def draw_radius(rng: np.random.Generator, frame: Frame, count: int, smallest: bool = False) -> int:
    """Draw the radius of one of `count` shapes, in half pixels of the canvas.

    A single shape is small (up to 0.24 of the shorter side) in 45 % of the pictures, and in 10 % as large as fits.
    """
    m, kind = min(frame.width, frame.height), rng.random()
    low, high = RADII[count][0] * frame.pixel, RADII[count][1] * m
    if count == 1 and kind < 0.55:
        low, high = (0.40 * m, 0.48 * m) if kind < 0.10 else (low, 0.24 * m)
    return int(2 * min(low, 6 * frame.pixel)) if smallest else int(between(rng, 2 * low, 2 * max(low, high) + 1))


def somewhere(rng: np.random.Generator, frame: Frame, thing: Thing) -> Thing:
    """Place a thing anywhere on the canvas; one that is too large for it at the upper or left edge."""
    h, w = thing.mask.shape
    return thing._replace(left=int(rng.random() * max(1, frame.width - w + 1)),
                          top=int(rng.random() * max(1, frame.height - h + 1)))


def settle(rng: np.random.Generator, frame: Frame, thing: Thing) -> list[Thing]:
    """Place a single thing; none if it is too large. Most places are near the middle: so that each answer to where it
    is comes up, the thing goes, if 20 tries find the way, to one of nine parts that are all equally likely.
    """
    part = int(rng.random() * 9)
    for _ in range(20):
        thing = somewhere(rng, frame, thing)
        (h, w), left, top = thing.mask.shape, thing.left, thing.top
        if zone((left + w / 2) / frame.width, (top + h / 2) / frame.height) == part:
            break
    return [thing] if inside(frame, thing) else []


def zone(x: float, y: float) -> int:
    """The part of a picture, of nine numbered row by row, where the point at x and y, as shares of its sides, is."""
    return min(2, int(3 * x)) + 3 * min(2, int(3 * y))


def scatter(rng: np.random.Generator, frame: Frame, things: Sequence[Thing]) -> list[Thing]:
    """Place things anywhere, each apart from those before it; fewer if 20 places for one are all taken."""
    placed: list[Thing] = []
    for thing in things:
        for _ in range(20):
            thing = somewhere(rng, frame, thing)
            if inside(frame, thing) and all(apart(thing, other) for other in placed):
                placed.append(thing)
                break
        else:
            break
    return placed


def spread(rng: np.random.Generator, frame: Frame, things: Sequence[Thing]) -> list[Thing]:
    """Place each thing somewhere in its own cell of a grid, a pixel away from the next cells; none if there are fewer
    cells than things.
    """
    tall, wide = (max(thing.mask.shape[axis] for thing in things) + 1 for axis in (0, 1))
    across, down = (frame.width + 1) // wide, (frame.height + 1) // tall
    if across * down < len(things):
        return []
    wide, tall, placed = (frame.width + 1) // across, (frame.height + 1) // down, []
    for thing, cell in zip(things, sample(rng, range(across * down), len(things))):
        h, w = thing.mask.shape
        placed.append(thing._replace(left=cell % across * wide + int(rng.random() * (wide - w)),
                                     top=cell // across * tall + int(rng.random() * (tall - h))))
    return placed


def inside(frame: Frame, thing: Thing) -> bool:
    """Whether all of a thing is on the canvas."""
    h, w = thing.mask.shape
    return thing.left + w <= frame.width and thing.top + h <= frame.height


def distances(a: Thing, b: Thing) -> tuple[float, float]:
    """How far the centres of two things are from each other, across and down."""
    return (abs(a.left - b.left + (a.mask.shape[1] - b.mask.shape[1]) / 2),
            abs(a.top - b.top + (a.mask.shape[0] - b.mask.shape[0]) / 2))


def apart(a: Thing, b: Thing) -> bool:
    """Whether the boxes of two things have a gap of 12 % of a half and a pixel between them, across or down."""
    (ha, wa), (hb, wb), (across, down) = a.mask.shape, b.mask.shape, distances(a, b)
    return across >= 0.56 * (wa + wb) + 1 or down >= 0.56 * (ha + hb) + 1


def related(things: Sequence[Thing], difference: float) -> bool:
    """Whether of two things' distances, across and down, one is clearly the larger."""
    across, down = distances(*things)
    return abs(across - down) >= difference


def draw_text(rng: np.random.Generator, frame: Frame, text: str) -> list[Thing]:
    """Draw a line of characters of one colour, anywhere; a third of the texts are small if there is room for more.

    A face in which the text is too wide at the smallest size is drawn again; the fixed-width face always fits.
    """
    color = pick(rng, tuple(COLORS))
    rgb, least = drawing.draw_color(rng, color), math.ceil(LETTER_SIZE * frame.pixel)
    for face in (*sample(rng, FACES, 3), "DejaVuSansMono"):
        _, w, h = drawing.text_masks(face, 40, text)
        most = int(40 * min((frame.width - 1) / w, (frame.height - 1) / h))
        if most >= least:
            break
    most = min(most, round(24 * frame.pixel)) if rng.random() < 0.3 else most
    size = int(between(rng, least, max(least, most) + 1))
    masks, w, h = drawing.text_masks(face, size, text)
    while w > frame.width or h > frame.height:
        size -= 1
        masks, w, h = drawing.text_masks(face, size, text)
    left, top = int(rng.random() * (frame.width - w + 1)), int(rng.random() * (frame.height - h + 1))
    return [Thing(character, color, rgb, mask, left + x, top + y, part)
            for part, (character, (mask, x, y)) in enumerate(zip(text, masks), start=1)]


def draw_bars(rng: np.random.Generator, frame: Frame) -> list[Thing]:
    """Draw two to five bars of different colours and clearly different heights: by 12 % and 3 pixels at least.

    They rise from the picture's lower edge or from above a margin, in half of the pictures on a line.
    """
    W, H = frame.width, frame.height
    step = max(math.ceil(3 * frame.pixel), math.ceil(0.12 * H))
    count = 2 + int(rng.random() * (min(5, int(W / frame.pixel / 8), H // step) - 1))
    line = int(max(1, round(frame.pixel * pick(rng, (1, 1, 2))))) if rng.random() < 0.5 else 0
    bottom = H - line - (int(between(rng, 0, 0.12 * H)) if rng.random() < 0.6 else 0)
    free = bottom - step * count
    if free < 0:
        line, bottom, free = 0, H, H - step * count
    heights = [int(step * (i + 1) + extra) for i, extra in enumerate(sorted(between(rng, 0, free + 1)
                                                                            for _ in range(count)))]
    slot = W / count if rng.random() < 0.5 else between(rng, 0.75, 1) * W / count
    start = between(rng, 0, W - slot * count)
    wide = max(3, int(slot * between(rng, 0.45, 0.95)))
    bars = [Thing("", "", np.zeros(3, np.float32), np.ones((line, W), np.float32), 0, bottom)] if line else []
    for i, (color, rank) in enumerate(zip(sample(rng, tuple(COLORS), count), sample(rng, range(count), count))):
        left, tall = int(start + slot * i + (slot - wide) / 2), heights[rank]
        bars.append(Thing("bar", color, drawing.draw_color(rng, color), np.ones((tall, wide), np.float32), left,
                          bottom - tall, 1 if rank == count - 1 else 2 if rank == 0 else 3))
    return bars
