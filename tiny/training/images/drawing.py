"""How pictures are drawn: colours, backgrounds, alpha masks of shapes and characters, pasted on a canvas of floats.

Shapes come from formulas, characters from Pillow's font rasteriser. Every function is a pure function of its arguments,
the random ones of their `numpy.random.Generator`. Masks are kept once made: making one takes longer than a picture.
"""

import functools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Each name stands for all colours between two: a muted one, and the one of this name in style sheets.
COLORS = {"red": ((220, 40, 40), (255, 0, 0)), "green": ((40, 160, 60), (0, 128, 0)),
          "blue": ((50, 80, 220), (0, 0, 255)), "yellow": ((240, 210, 40), (255, 255, 0)),
          "purple": ((150, 60, 180), (128, 0, 128)), "orange": ((245, 140, 30), (255, 165, 0)),
          "black": ((20, 20, 20), (0, 0, 0)), "pink": ((245, 140, 190), (255, 192, 203))}
SHAPES = ("circle", "ring", "square", "triangle", "diamond", "cross", "star")
VARIED = ("ring", "diamond", "cross", "star")
TILTS = (-8, -4, 0, 0, 4, 8)  # degrees
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold",
         "STIXGeneral", "STIXGeneralBol", "cmr10", "")  # the empty name is Pillow's own font
FINE = 6  # samples of a shape's mask per pixel and axis; half as many for large ones
JITTER = 14  # of a colour's channels, of 255
CONTRAST = 60  # least distance of an object's colour from the background's, of 255


class Thing(NamedTuple):
    """Something in a picture: its name (a shape, a character, "bar", or "" for a line in ink, dark or light as the
    background is not), its colour's name and value, its alpha mask, and where the mask is on the canvas. `inner` is
    the mask of what has the colour, if the rest is an outline. `part` is the place of a character or a bar's rank.

    Shapes:  rgb (3,), mask, inner (h, w)
    """

    name: str
    color: str
    rgb: np.ndarray
    mask: np.ndarray
    left: int
    top: int
    part: int = 0
    inner: np.ndarray | None = None


class Frame(NamedTuple):
    """The canvas of a picture and how it becomes the picture: as it is if there is no lens, else rows canvas columns^T
    with the lens (rows, columns). `pixel` is the size on the canvas of a pixel of the picture.

    Shapes:  rows (H, height), columns (W, width) for a picture of H x W pixels
    """

    width: int
    height: int
    pixel: float = 1.0
    lens: tuple[np.ndarray, np.ndarray] | None = None


# ---- chance: one uniform number each, which is several times as fast as the generator's own choices

def pick(rng: np.random.Generator, items: Sequence):
    """Draw one item, all equally likely."""
    return items[int(rng.random() * len(items))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number from [low, high)."""
    return low + rng.random() * (high - low)


def sample(rng: np.random.Generator, items: Sequence, count: int) -> list:
    """Draw `count` different items in random order."""
    items = list(items)
    for i in range(count):
        j = i + int(rng.random() * (len(items) - i))
        items[i], items[j] = items[j], items[i]
    return items[:count]


# ---- colours

def draw_color(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw a colour that the name stands for: a third near the muted one, a third near the pure one, a third between.

    Shapes:  -> (3,) float32, 0 to 255
    """
    way = between(rng, -1, 2)
    muted, pure = COLORS[name]
    way = min(max(way, 0.0), 1.0)
    return np.array([min(max(a + (b - a) * way + between(rng, -JITTER, JITTER), 0), 255)
                     for a, b in zip(muted, pure)], np.float32)


def draw_background(rng: np.random.Generator) -> list[float]:
    """Draw a background: 15 % dark, 47 % light grey or white, 25 % a light tint, 13 % middle grey.

    One dark one in five is pure black, one light grey one in five pure white.
    """
    kind = rng.random()
    if kind < 0.15:
        grey = between(rng, 0, 70)
        return [0.0] * 3 if kind < 0.03 else [grey] * 3 if kind < 0.09 else [between(rng, 0, 70) for _ in range(3)]
    if kind < 0.62:
        return [255.0 if kind < 0.245 else between(rng, 225, 255)] * 3
    return [between(rng, 200, 255) for _ in range(3)] if kind < 0.87 else [between(rng, 130, 190)] * 3


def contrast(background: Sequence[float], things: Sequence[Thing]) -> bool:
    """Whether all things stand out: each at CONTRAST from the background and black never on dark; characters, which
    are thin, also in luminance.

    Differs: nothing here measures human vision; the rule leaves out pictures that a reader would call bad.
    """
    r, g, b = background
    for thing in things:
        if not thing.name:
            continue
        x, y, z = (float(value) for value in thing.rgb)
        if (r - x) ** 2 + (g - y) ** 2 + (b - z) ** 2 < CONTRAST**2 or (thing.color == "black" and g <= 70):
            return False
        if len(thing.name) == 1 and abs(0.299 * (r - x) + 0.587 * (g - y) + 0.114 * (b - z)) < 50:
            return False
    return True


# ---- masks

def draw_shape(rng: np.random.Generator, shape: str, half_pixels: int) -> np.ndarray:
    """Draw a shape's mask, a little tilted and of varying proportions as far as its symmetry and definition allow.

    Shapes:  -> (h, w) float32, 0 to 1
    """
    tilt = 0 if shape in ("circle", "ring") else pick(rng, TILTS)
    return shape_mask(shape, half_pixels, tilt, pick(rng, (-1, 0, 1)) if shape in VARIED else 0)


@functools.cache
def shape_mask(shape: str, half_pixels: int, tilt: int, variant: int) -> np.ndarray:
    """The alpha mask of a shape of radius half_pixels / 2, cut to its own rows and columns.

    The variants -1, 0 and 1 differ in proportions: a ring's hole, a cross's arms, a star's waist, a diamond's width.

    Shapes:  -> (h, w) float32, 0 to 1
    """
    r = half_pixels / 2
    n, fine = 2 * math.ceil(1.15 * r), FINE if r < 16 else FINE // 2
    axis = (((np.arange(n * fine) + 0.5) / fine - n / 2) / r).astype(np.float32)
    angle = math.radians(tilt)
    u = axis * math.cos(angle) + axis[:, None] * math.sin(angle)
    v = axis[:, None] * math.cos(angle) - axis * math.sin(angle)
    inside = covers(shape, u, v, variant)
    mask = inside.reshape(n, fine, n, fine).mean(axis=(1, 3), dtype=np.float32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.ascontiguousarray(mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1])


def covers(shape: str, u: np.ndarray, v: np.ndarray, more: int) -> np.ndarray:
    """Whether a shape of radius 1 covers the points (u, v), v downwards; `more` is the variant, -1, 0 or 1.

    Shapes:  u, v (n, n) -> (n, n) bool
    """
    a, b = abs(u), abs(v)
    if shape == "circle":
        return u * u + v * v <= 1
    if shape == "ring":
        return (u * u + v * v <= 1) & (u * u + v * v >= (0.6 + 0.15 * more) ** 2)
    if shape == "square":
        return np.maximum(a, b) <= 0.87
    if shape == "triangle":
        return (v <= 0.85) & (a <= (v + 1) / 1.85)
    if shape == "diamond":
        return a / (0.88 + 0.17 * more) + b / 1.1 <= 1
    if shape == "cross":
        return (np.maximum(a, b) <= 1) & (np.minimum(a, b) <= 0.32 + 0.08 * more)
    return star(u, v, 0.45 + 0.07 * more)


def star(u: np.ndarray, v: np.ndarray, inner: float) -> np.ndarray:
    """A five-pointed star: every direction is folded into the 36 degrees between a tip, at 1.1, and a notch, at
    `inner`, where the star is on one side of the line that joins both.

    Shapes:  u, v (n, n) -> (n, n) bool
    """
    fifth = 2 * math.pi / 5
    turn = np.mod(np.arctan2(u, -v) + fifth / 2, fifth) - fifth / 2
    length = np.hypot(u, v)
    x, y = length * np.cos(turn), length * abs(np.sin(turn))
    notch_x, notch_y = inner * math.cos(fifth / 2), inner * math.sin(fifth / 2)
    return (x - 1.1) * notch_y - y * (notch_x - 1.1) <= 0


@functools.cache
def load_font(face: str, size: int):
    """A face of Matplotlib's, or Pillow's own, at a size in pixels."""
    if not face:
        return ImageFont.load_default(size)
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", face + ".ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def glyph(face: str, size: int, character: str) -> tuple[np.ndarray, int, int, float]:
    """The alpha mask of a character, its offsets right of the pen and below the base line, and the pen's advance.

    Shapes:  -> (h, w) float32, 0 to 1
    """
    font = load_font(face, size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character, anchor="ls"))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return np.asarray(image, np.float32) / np.float32(255), left, top, font.getlength(character)


def text_masks(face: str, size: int, text: str) -> tuple[list[tuple[np.ndarray, int, int]], int, int]:
    """The masks of a line of text, each with its left and top in the line's own box, and the box's width and height."""
    pen, placed = 0.0, []
    for character in text:
        mask, x, y, advance = glyph(face, size, character)
        placed.append((mask, round(pen) + x, y))
        pen += advance
    left, top = min(x for _, x, _ in placed), min(y for _, _, y in placed)
    placed = [(mask, x - left, y - top) for mask, x, y in placed]
    return (placed, max(x + mask.shape[1] for mask, x, _ in placed),
            max(y + mask.shape[0] for mask, _, y in placed))


# ---- the canvas

@functools.cache
def resampling(count: int, samples: int, reach: float) -> np.ndarray:
    """The matrix that takes `samples` values of an axis to `count` values, each a mean under a triangle of half-width
    `reach` samples.

    Shapes:  -> (count, samples) float32, each row of sum one
    """
    centres = (np.arange(count) + 0.5) * (samples / count)
    weights = np.maximum(0, 1 - abs(np.arange(samples) + 0.5 - centres[:, None]) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def draw_frame(rng: np.random.Generator, width: int, height: int) -> Frame:
    """Draw the canvas of a picture: 90 % are the picture, 5 % are blurred, 5 % resized by 0.8 to 1.25."""
    kind = rng.random()
    if kind > 0.10:
        return Frame(width, height)
    if kind > 0.05:
        reach = pick(rng, (1.4, 2.0))
        return Frame(width, height, 1.0, (resampling(height, height, reach), resampling(width, width, reach)))
    scale = pick(rng, (0.8, 0.9, 1.1, 1.25))  # pixels of the canvas for one of the picture
    w, h, reach = math.ceil(width * scale), math.ceil(height * scale), max(1.0, scale)
    return Frame(w, h, scale, (resampling(height, h, reach), resampling(width, w, reach)))


def paste(canvas: np.ndarray, mask: np.ndarray, left: int, top: int, rgb: np.ndarray) -> None:
    """Blend a colour into the canvas under an alpha mask.

    Shapes:  canvas (height, width, 3) float32, written; mask (h, w), rgb (3,)
    """
    box = canvas[top:top + mask.shape[0], left:left + mask.shape[1]]
    box += mask[:, :, None] * (rgb - box)


def hardened(thing: Thing) -> Thing:
    """The same thing with edges that are not smoothed: a pixel is covered or it is not. Thin strokes have to stay."""
    least = 0.4 if len(thing.name) == 1 else 0.5
    inner = None if thing.inner is None else (thing.inner > least).astype(np.float32)
    return thing._replace(mask=(thing.mask > least).astype(np.float32), inner=inner)


def outlined(thing: Thing) -> Thing:
    """The same thing, not yet placed, with a line of one pixel around it: its mask grows by a pixel on each side."""
    inner = np.pad(thing.mask, 1)
    mask = inner.copy()
    for axis in (0, 1):
        mask = np.maximum(mask, np.maximum(np.roll(mask, 1, axis), np.roll(mask, -1, axis)))
    return thing._replace(mask=mask, inner=inner)


def draw_picture(rng: np.random.Generator, frame: Frame, things: Sequence[Thing]) -> np.ndarray:
    """Draw a background on which all things stand out, paste them in order, and bring the canvas to its picture; a
    quarter of the pictures get noise.

    Shapes:  -> (H, W, 3) uint8
    """
    background = draw_background(rng)
    while not contrast(background, things):
        background = draw_background(rng)
    canvas = np.empty((frame.height, frame.width, 3), np.float32)
    canvas[:] = background
    ink = np.array([between(rng, 215, 255) if background[1] < 100 else between(rng, 0, 40)] * 3, np.float32)
    for thing in things:
        if thing.inner is not None:
            paste(canvas, thing.mask, thing.left, thing.top, ink)
        mask = thing.mask if thing.inner is None else thing.inner
        paste(canvas, mask, thing.left, thing.top, thing.rgb if thing.name else ink)
    if frame.lens:
        rows, columns = frame.lens
        canvas = columns @ (rows @ canvas.reshape(frame.height, -1)).reshape(-1, frame.width, 3)
    if rng.random() < 0.25:
        canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(0.025 * 255)
    canvas += 0.5
    return np.clip(canvas, 0, 255.5, out=canvas).astype(np.uint8)
