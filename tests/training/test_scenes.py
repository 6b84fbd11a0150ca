"""The scenes that teach seeing: labels and answers agree with what an independent look at the pixels finds.

Nothing here asks the renderer what it drew: foreground is what differs from the commonest colour of the edges, things
are told apart by flooding, shapes by polygons of Pillow's, texts by comparing with Pillow's own setting of the answer.
"""

import itertools
import math
import os
import re
from collections import Counter

import matplotlib
import numpy as np
import pytest
from compare import assert_close
from PIL import Image, ImageDraw, ImageFont

from tiny.training.images import drawing, placing, questions, scenes
from tiny.training.images.drawing import COLORS, SHAPES
from tiny.training.images.scenes import HEADS

ROW = {head: row for row, head in enumerate(HEADS)}
OBJECTS = [f"objects{n}" for n in range(1, 6)]
SIZES = [(64, 48), (32, 48), (80, 32), (56, 56)]


class Quiet:
    """A generator without noise: its normal numbers are zero, the others those of the seed."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed).random

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)


@pytest.fixture
def plain(monkeypatch):
    """Pictures are their canvases, and nothing has an outline."""
    monkeypatch.setattr(drawing, "draw_frame", lambda rng, width, height: drawing.Frame(width, height))
    monkeypatch.setattr(drawing, "outlined", lambda thing: thing)


def drawn(kinds, count, sizes=SIZES):
    """Yield (kind, scene), each with its own seed; the sizes that the kind fits take turns."""
    for kind in kinds:
        fitting = [size for size in sizes if scenes.fits(kind, *size)]
        for seed in range(count):
            yield kind, scenes.draw(Quiet(seed), kind, *fitting[seed % len(fitting)])


# ---- an independent look

def difference(image):
    """Return how far each pixel is from the commonest colour of the upper, left and right edge, and that colour."""
    edge = np.concatenate((image[0], image[:, 0], image[:, -1]))
    colors, counts = np.unique(edge, axis=0, return_counts=True)
    ground = colors[counts.argmax()]
    return np.abs(image.astype(np.int64) - ground).sum(axis=2), ground


def name_of(pixel):
    """Return the colour name nearest to a pixel: each stands for a line between two colours."""
    def distance(name):
        a, b = (np.array(end, np.float64) for end in COLORS[name])
        along = np.clip((pixel - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        return np.linalg.norm(pixel - a - along * (b - a))
    return min(COLORS, key=distance)


class Island:
    """A connected set of foreground pixels: which they are, its box's middle, its colour's name."""

    def __init__(self, image, apart, places):
        self.y, self.x = np.array(sorted(places)).T
        strong = apart[self.y, self.x] >= 0.95 * apart[self.y, self.x].max()
        self.color = name_of(np.median(image[self.y[strong], self.x[strong]], axis=0))
        self.middle = (self.x.min() + self.x.max() + 1) / 2, (self.y.min() + self.y.max() + 1) / 2
        self.solid = apart[self.y, self.x] > 0.5 * apart[self.y, self.x].max()

    def mask(self):
        """Return the box of the pixels that are covered by more than half."""
        y, x = self.y[self.solid], self.x[self.solid]
        box = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), bool)
        box[y - y.min(), x - x.min()] = True
        return box


def islands(image):
    """Return the islands of a picture."""
    apart, _ = difference(image)
    left, found = {(int(y), int(x)) for y, x in np.argwhere(apart > 3)}, []
    while left:
        reached, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            reached.add((y, x))
            near = left.intersection(itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)))
            left -= near
            edge += near
        found.append(Island(image, apart, reached))
    return found


def polygon(shape, more):
    """Return the corners of a shape about (0, 0); `more` from -1 to 1 makes it slim or stout."""
    if shape == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "diamond":
        return [(0, -1), (0.8 + 0.15 * more, 0), (0, 1), (-0.8 - 0.15 * more, 0)]
    if shape == "cross":
        a = 0.32 + 0.08 * more
        return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
                (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    if shape == "star":
        lengths = [1, 0.41 + 0.06 * more] * 5
        return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(lengths)]
    return [(math.sin(i / 20), math.cos(i / 20)) for i in range(126)]


SIDE = 48


def templates():
    """Yield (shape, mask), every mask stretched to SIDE x SIDE."""
    for shape, more, tilt in itertools.product(SHAPES, (-1, 0, 1), (-8, -4, 0, 4, 8)):
        turn = math.radians(tilt)
        corners = np.array([(x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn))
                            for x, y in polygon(shape, more)])
        image = Image.new("1", (8 * SIDE, 8 * SIDE))
        pen, low, high = ImageDraw.Draw(image), corners.min(axis=0), corners.max(axis=0)
        scaled = (corners - low) / (high - low) * (8 * SIDE - 1)
        pen.polygon([tuple(corner) for corner in scaled], fill=1)
        if shape == "ring":
            hole = np.array([-1, 1]) * (0.6 + 0.15 * more) * 4 * SIDE + 4 * SIDE
            pen.ellipse([hole[0], hole[0], hole[1], hole[1]], fill=0)
        yield shape, np.asarray(image)[4::8, 4::8]


@pytest.fixture(scope="module")
def look():
    """Return the function that tells an island's shape: that of the template which shares most with its mask."""
    names, masks = zip(*templates())
    masks = np.stack(masks)

    def shape_of(island):
        mask = island.mask()
        rows, columns = (((np.arange(SIDE) + 0.5) * n / SIDE).astype(int) for n in mask.shape)
        mask = mask[rows][:, columns]
        shared = (masks & mask).sum(axis=(1, 2)) / (masks | mask).sum(axis=(1, 2))
        return names[shared.argmax()]

    return shape_of


# ---- labels

def solid_patches(island, image):
    """Return the numbers of the patches of which an island covers a quarter or more."""
    across = image.shape[1] // scenes.PATCH
    inside = Counter((island.y[island.solid] // 8 * across + island.x[island.solid] // 8).tolist())
    return [patch for patch, count in inside.items() if count >= 16]


def test_labels_of_shapes_agree_with_the_picture(plain, look):
    seen = 0
    for kind, scene in drawn(OBJECTS, 40):
        (image,), (labels,) = scene.images, scene.labels
        found = islands(image)
        assert len(found) == int(kind[-1])
        height, width, _ = image.shape
        for island in found:
            x, y = island.middle
            others = [other for other in found if other is not island]
            zones = {1 + int(3 * (x + dx) / width) + 3 * int(3 * (y + dy) / height)
                     for dx in (-0.6, 0.6) for dy in (-0.6, 0.6)}
            for patch in solid_patches(island, image):
                seen += 1
                label = dict(zip(HEADS, labels[:, patch].tolist()))
                shape = scenes.WHAT[label["what"]]
                assert shape in SHAPES and scenes.COLOR_NAMES[label["color"]] == island.color
                assert min(island.mask().shape) < 14 or shape == look(island)
                assert label["zone"] in zones and label["count"] == len(found) and not label["place"] + label["rank"]
                if len(found) == 2:
                    for head, i in (("side", 0), ("level", 1)):
                        apart = others[0].middle[i] - island.middle[i]
                        assert label[head] in ((1,) if apart > 2.6 else (2,) if apart < -2.6 else (0, 1, 2))
                else:
                    assert label["side"] == label["level"] == 0
    assert seen > 1500


def test_patches_are_labelled_where_something_is():
    """Blurred, resized and outlined pictures too: a patch that shows nothing is background, one that shows much not: a
    quarter of its pixels, so that of two letters that share it one covers 6 %.
    """
    counts = Counter()
    for kind, scene in drawn(set(scenes.SMALLEST) - {"bars"}, 40):
        for image, labels in zip(scene.images, scene.labels):
            apart, _ = difference(image)
            height, width = apart.shape
            patches = apart.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 64)
            nothing, much = patches.max(axis=1) <= 2, (patches > apart.max() / 2).sum(axis=1) >= 16
            assert labels.shape == (8, len(patches)) and labels.dtype == np.int8
            assert not labels[:, nothing].any(), kind
            assert labels[ROW["what"], much].all() and labels[ROW["color"], much].all(), kind
            assert ((labels[ROW["what"]] > 0) == (labels[ROW["color"]] > 0)).all()
            counts += Counter(nothing=int(nothing.sum()), much=int(much.sum()))
    assert counts["nothing"] > 5000 and counts["much"] > 3000


def test_labels_are_classes_of_their_heads():
    for _, scene in drawn(scenes.SMALLEST, 20):
        for labels in scene.labels:
            assert (labels >= 0).all() and (labels.max(axis=1) < list(HEADS.values())).all()
    assert HEADS == {"what": 45, "color": 9, "place": 7, "zone": 10, "side": 3, "level": 3, "rank": 4, "count": 6}


def test_labels_of_text_read_it_from_left_to_right():
    """In the order of their places, the labelled characters are the answer; each lies right of the one before it."""
    complete = 0
    for kind, scene in drawn([kind for kind in scenes.SMALLEST if kind.startswith(("number", "word"))], 40):
        (labels,), width = scene.labels, scene.images[0].shape[1]
        answer = scene.questions[0].answer
        columns = np.arange(labels.shape[1]) % (width // 8)
        places = sorted(set(labels[ROW["place"]].tolist()) - {0})
        for place in places:
            here = labels[ROW["place"]] == place
            assert {scenes.WHAT[what] for what in labels[ROW["what"], here]} == {answer[place - 1]}, (kind, answer)
        means = [columns[labels[ROW["place"]] == place].mean() for place in places]
        assert all(a <= b for a, b in itertools.pairwise(means))
        complete += places == list(range(1, len(answer) + 1))
    assert complete > 240  # narrow letters beside broad ones may own no patch


def test_a_patch_belongs_to_what_covers_most_of_it():
    """Two masks in one patch, by hand: 6 of 64 pixels against 5; then less than 6 %, which is background."""
    def thing(name, color, rows, columns, left, alpha=1.0):
        mask = np.full((rows, columns), alpha, np.float32)
        return drawing.Thing(name, color, np.zeros(3, np.float32), mask, left, 0)
    frame = drawing.Frame(16, 8)
    labels = scenes.draw_labels(frame, [thing("7", "red", 5, 1, 0), thing("a", "blue", 6, 1, 5)], 16, 8)
    assert labels[:2].tolist() == [[scenes.WHAT.index("a"), 0], [scenes.COLOR_NAMES.index("blue"), 0]]
    for alpha, what in ((0.63, 0), (0.65, scenes.WHAT.index("a"))):  # of 6 / 64: 0.059, 0.061
        labels = scenes.draw_labels(frame, [thing("a", "blue", 6, 1, 5, alpha)], 16, 8)
        assert labels[0].tolist() == [what, 0]


def test_sides_that_are_no_multiple_of_a_patch_have_no_labels():
    scene = scenes.draw(np.random.default_rng(0), "objects1", 60, 48)
    assert scene.labels == [] and scene.images[0].shape == (48, 60, 3)


# ---- answers

def answers(scene):
    """Return the answers of a scene by skill."""
    return {question.skill: question.answer for question in scene.questions}


def named(island, look):
    return f"{'an' if island.color == 'orange' else 'a'} {island.color} {look(island)}"


def test_answers_about_one_shape(plain, look):
    placed = 0
    for _, scene in drawn(["objects1"], 200):
        (island,), told = islands(scene.images[0]), answers(scene)
        if min(island.mask().shape) < 14:
            continue
        height, width, _ = scene.images[0].shape
        assert told["shape"] == look(island) and told["color"] == island.color and told["count_1"] == "1"
        assert told["caption1"] == named(island, look)
        if "where" in told:
            placed += 1
            column = ["left", "center", "right"][int(3 * island.middle[0] / width)]
            row = ["top", "middle", "bottom"][int(3 * island.middle[1] / height)]
            assert told["where"] == ("center" if (row, column) == ("middle", "center") else f"{row} {column}")
            assert max(island.mask().shape) <= 0.5 * min(height, width) + 1
    assert placed > 30


def asked_about(question, names):
    """Return which names a question mentions, in its order."""
    return [word for word in re.findall(r"[a-z]+", question.text.lower()) if word in names]


def test_answers_about_several_shapes(plain, look):
    checked = Counter()
    for kind, scene in drawn(OBJECTS[1:], 100):
        found = islands(scene.images[0])
        assert answers(scene)[f"count_{kind[-1]}"] == str(len(found)) == kind[-1]
        if min(min(island.mask().shape) for island in found) < 14:
            continue
        by_color, by_shape = ({key: [i for i in found if of(i) == key] for key in map(of, found)}
                              for of in (lambda island: island.color, look))
        for question in scene.questions:
            checked[question.skill] += 1
            if question.skill == "shape_of":
                (island,) = by_color[asked_about(question, COLORS)[0]]
                assert question.answer == look(island)
            elif question.skill == "color_of":
                (island,) = by_shape[asked_about(question, SHAPES)[0]]
                assert question.answer == island.color
            elif question.skill in ("left_of", "above"):
                axis = question.skill == "above"
                (a,), (b,) = (by_shape[name] for name in asked_about(question, SHAPES))
                if re.search("right of|below|under", question.text):
                    a, b = b, a
                assert question.answer == ("yes" if a.middle[axis] < b.middle[axis] else "no")
                assert abs(a.middle[axis] - b.middle[axis]) > 2.5
            elif question.skill == "caption2":
                a, b = found
                dx, dy = (abs(a.middle[i] - b.middle[i]) for i in (0, 1))
                assert abs(dx - dy) > 2.5
                first, second = sorted(found, key=lambda island: island.middle[0 if dx > dy else 1])
                relation = "left of" if dx > dy else "above"
                assert question.answer == f"{named(first, look)} {relation} {named(second, look)}"
            elif question.skill == "caption_many":
                assert question.answer == f"{kind[-1]} objects"
    assert min(checked[skill] for skill in ("shape_of", "color_of", "left_of", "above", "caption2")) > 10, checked


def heights(image):
    """Return the height in pixels of each bar, by its colour; a row of one colour, which is not a bar, is left out."""
    apart, _ = difference(image)
    lines = [(apart[y] > 3).all() and len(np.unique(image[y], axis=0)) == 1 for y in range(len(image))]
    image, apart = image[~np.array(lines)], apart[~np.array(lines)]
    tall = {}
    for x in range(image.shape[1]):
        rows = np.flatnonzero(apart[:, x] > 3)
        if len(rows):
            color = name_of(image[rows[-1], x].astype(np.float64))
            tall[color] = max(tall.get(color, 0), len(rows))
    return tall


def test_answers_and_labels_of_bars(plain):
    for _, scene in drawn(["bars"], 150):
        (image,), (labels,), told = scene.images, scene.labels, answers(scene)
        tall = heights(image)
        order = sorted(tall, key=tall.get)
        assert told == {"tallest": order[-1], "shortest": order[0], "caption_many": f"{len(order)} bars"}
        steps = np.diff(sorted(tall.values()))
        assert 2 <= len(order) <= 5 and steps.min() >= max(3, 0.12 * len(image)) - 1e-9 and min(tall.values()) >= 3
        bars = labels[ROW["what"]] == scenes.WHAT.index("bar")
        ranks = {color: 1 if color == order[-1] else 2 if color == order[0] else 3 for color in order}
        for color, rank in labels[[ROW["color"], ROW["rank"]]][:, bars].T:
            assert rank == ranks[scenes.COLOR_NAMES[color]]
        assert not labels[:, ~bars].any() and bars.any()


def test_answers_about_several_pictures(plain, look):
    checked = Counter()
    for _, scene in drawn(["pair", "triple"], 150):
        found = [islands(image)[0] for image in scene.images]
        if min(min(island.mask().shape) for island in found) < 14:
            continue
        shapes = [look(island) for island in found]
        for question in scene.questions:
            skill, three = question.skill.removesuffix("_3"), question.skill.endswith("_3")
            assert three == (len(found) == 3)
            checked[question.skill] += 1
            if skill == "same":
                assert question.answer == ("yes" if shapes[0] == shapes[1] else "no")
            elif skill == "which":
                (shape,) = asked_about(question, SHAPES)
                assert shapes.count(shape) == 1
                assert question.answer == ("first", "second", "third")[shapes.index(shape)]
            elif skill == "caption_images":
                *most, last = (named(island, look) for island in found)
                assert question.answer == f"{', '.join(most)} and {last}"
            else:
                words = re.findall("one|two|three|first|second|third|[123]", question.text)
                index = ["one", "two", "three", "first", "second", "third", "1", "2", "3"].index(words[-1]) % 3
                assert question.answer == (shapes[index] if skill == "m_shape" else found[index].color)
    assert len(checked) == 9 and min(checked.values()) > 20, checked


def set_by_pillow(text, sizes=range(14, 49)):
    """Yield the mask of a text in every face and size, cut to its own box, as Pillow sets the whole line."""
    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    for face, size in itertools.product(drawing.FACES, sizes):
        font = ImageFont.load_default(size) if not face else ImageFont.truetype(
            os.path.join(folder, face + ".ttf"), size, layout_engine=ImageFont.Layout.BASIC)
        image = Image.new("L", (size * len(text) + 20, 2 * size))
        ImageDraw.Draw(image).text((10, size // 4), text, fill=255, font=font)
        yield np.asarray(image.crop(image.getbbox()), np.float64) / 255


def likeness(mask, text):
    """Return the largest correlation of a mask with any setting of a text of its size, to a pixel each way."""
    best = 0.0
    for other in set_by_pillow(text):
        if abs(other.shape[0] - mask.shape[0]) <= 1 and abs(other.shape[1] - mask.shape[1]) <= 1:
            h, w = (min(a, b) for a, b in zip(mask.shape, other.shape))
            best = max(best, np.corrcoef(mask[:h, :w].ravel(), other[:h, :w].ravel())[0, 1])
    return best


def test_answers_about_text_are_what_is_set(plain, monkeypatch):
    """The picture is the answer's setting in some face and size, and much less that of other characters."""
    monkeypatch.setattr(drawing, "hardened", lambda thing: thing)
    for kind, scene in drawn(["number2", "number3", "word4"], 5, [(64, 32)]):
        apart, _ = difference(scene.images[0])
        rows, columns = np.flatnonzero((apart > 3).any(axis=1)), np.flatnonzero((apart > 3).any(axis=0))
        mask = (apart / apart.max())[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
        told, (island, *_) = answers(scene), sorted(islands(scene.images[0]), key=lambda island: -len(island.y))
        text = next(iter(told.values()))
        other = chr(ord(text[-1]) ^ 1)  # the digit or letter beside it
        assert likeness(mask, text) > 0.99 > 0.05 + likeness(mask, text[:-1] + other), (kind, text)
        assert told["text_color"] == island.color
        assert told["caption_text"] == f"the {kind[:-1]} {text} in {island.color}"


def test_characters_stand_as_in_a_whole_line():
    """Narrow, broad, tall and deep letters in every face: set one by one, they are where Pillow sets them together."""
    for face, expected in zip(drawing.FACES, set_by_pillow("mijlgd", (40,)), strict=True):
        placed, width, height = drawing.text_masks(face, 40, "mijlgd")
        line = np.zeros((height, width), np.float32)
        for mask, x, y in placed:
            box = line[y:y + mask.shape[0], x:x + mask.shape[1]]
            np.maximum(box, mask, out=box)
        left, top, right, bottom = Image.fromarray(line).getbbox()
        line = line[top:bottom, left:right]
        assert line.shape == expected.shape, face
        # Where letters touch, Pillow blends them and the larger is taken here: 0.99999 in one face, 1 in the others.
        assert np.corrcoef(line.ravel(), expected.ravel())[0, 1] > 0.9999, face


def test_shapes_and_colors_repeat_in_some_pictures():
    """So that counting is not telling names apart: in a fifth of the pictures of three each is drawn for itself."""
    rng = np.random.default_rng(8)
    names = [placing.draw_names(rng, SHAPES, 3) for _ in range(3000)]
    repeated = sum(len(set(three)) < 3 for three in names)  # 0.2 (1 - 6/7 5/7) = 0.078
    assert 170 < repeated < 300 and {name for three in names for name in three} == set(SHAPES)


# ---- balance, wordings, words

@pytest.fixture(scope="module")
def many():
    """Return the questions of 300 scenes of every kind, with noise and all."""
    rng = np.random.default_rng(1)
    return [question for kind in scenes.SMALLEST for scene in scenes.draw_batch(rng, {kind: 1.0}, 300, 64, 64)
            for question in scene.questions]


def test_answers_are_balanced(many):
    """No answer of a skill comes up much more often than the others, for any wording: bounds of 5 deviations."""
    answers_of = {}
    for question in many:
        answers_of.setdefault(question.skill, Counter())[question.answer] += 1
    sizes = {"shape": 7, "color": 8, "where": 9, "shape_of": 7, "color_of": 8, "left_of": 2, "above": 2, "num1": 10,
             "text_color": 8, "tallest": 8, "shortest": 8, "same": 2, "which": 2, "m_shape": 7, "m_color": 8,
             "which_3": 3, "m_shape_3": 7, "m_color_3": 8}
    for skill, size in sizes.items():
        counts, total = answers_of[skill], sum(answers_of[skill].values())
        slack = 5 * (total * (1 / size) * (1 - 1 / size)) ** 0.5 + (0.08 * total if skill == "where" else 0)
        assert len(counts) == size and total > 80, (skill, counts)
        assert max(abs(count - total / size) for count in counts.values()) <= slack, (skill, counts)


def test_no_wording_gives_a_relation_away(many):
    """Neither the wording nor the order in which two shapes are named says whether a relation holds."""
    for skill in ("left_of", "above", "same", "which"):
        by_wording, by_order = {}, Counter()
        for question in many:
            if question.skill == skill:
                form = re.sub("|".join(SHAPES), "_", question.text.lower().rstrip(" ?."))
                by_wording.setdefault(form, Counter())[question.answer] += 1
                names = asked_about(question, SHAPES)
                by_order[names == sorted(names), question.answer] += len(names) == 2
        assert len(by_wording) >= 4
        for form, counts in by_wording.items():
            total, most = sum(counts.values()), max(counts.values())
            assert most - total / 2 <= 2.5 * total**0.5, (form, counts)
        if skill in ("left_of", "above"):
            for order in (False, True):
                yes, no = by_order[order, "yes"], by_order[order, "no"]
                assert abs(yes - no) <= 5 * (yes + no) ** 0.5


def test_two_shapes_are_named_in_either_order():
    """Also if one always lies left of and above the other."""
    a, b = (questions.Seen(name, "red", place, place, 6.0, 0) for name, place in (("star", 10), ("ring", 30)))
    rng, asked = np.random.default_rng(9), Counter()
    for _ in range(400):
        for skill, answer, blanks in questions.of_two(rng, a, b):
            asked[skill, answer] += bool(blanks)
            assert not blanks or (answer == "yes") == (blanks == {"a": "star", "b": "ring"})
    assert all(abs(asked[skill, answer] - 200) < 50 for skill in ("left_of", "above") for answer in ("yes", "no"))


def test_every_question_is_worded_in_many_ways(many):
    texts = {}
    for question in many:
        texts.setdefault(question.skill, []).append(question.text)
    assert set(texts) == {skill for skill in scenes.SKILLS if not skill.startswith("held_")}
    for skill, wordings in texts.items():
        ends, forms = Counter(text[-1] for text in wordings), {re.sub(r"\W|colou?r", "", t.lower()) for t in wordings}
        assert len(forms) >= 4 and any(text.endswith(" ?") for text in wordings), skill
        assert ends["?"] and sum(count for end, count in ends.items() if end.isalnum()), (skill, ends)
        assert any(text[0].isupper() for text in wordings) and any(text[0].islower() for text in wordings)
        if "color" in skill:
            assert any("colour" in text for text in wordings) and any(re.search("color", text) for text in wordings)
    assert all(len(set(wordings)) == len(wordings) >= 4 for wordings in questions.WORDINGS.values())


def test_the_vocabulary_is_small_and_complete(many):
    words = {word for question in many for word in re.findall("[a-z]+", question.text.lower())}
    words |= {word for question in many if not re.match("word|caption_text", question.skill)
              for word in re.findall("[a-z]+", question.answer)}
    assert words <= questions.VOCABULARY and len(questions.VOCABULARY) < 200
    assert not questions.VOCABULARY & {*questions.LISTED, *questions.HELD_OUT}
    assert not any(re.search(r"\ba orange|\ban [^o]", question.answer) for question in many)


def test_held_out_words_are_never_shown_in_training():
    listed, held = (Counter(len(word) for word in words) for words in (questions.LISTED, questions.HELD_OUT))
    assert held == {4: 4, 5: 5, 6: 3} and sum(listed.values()) == len(set(questions.LISTED)) == 85
    assert not set(questions.LISTED) & set(questions.HELD_OUT)
    rng = np.random.default_rng(2)
    for letters in (3, 4, 5, 6):
        words = [questions.draw_word(rng, letters) for _ in range(2000)]
        assert not set(words) & {*questions.HELD_OUT, *questions.VOCABULARY}
        assert 850 < sum(word in questions.LISTED for word in words) < 1150
        assert all(re.fullmatch(f"[a-z]{{{letters}}}", word) for word in words)
    for letters in (4, 5, 6):
        kind = f"word{letters}"
        shown = {answers(scenes.draw(rng, kind, 64, 24, held_out=True))[kind] for _ in range(60)}
        assert shown == {word for word in questions.HELD_OUT if len(word) == letters}


def test_random_letters_that_form_a_held_out_word_are_drawn_again(monkeypatch):
    """A generator that first spells "bear", then "left", which questions use, then "left" with another end."""
    letters = [0.9, *"bear", *"left", *"lefs"]
    numbers = iter([(ord(one) - 97 + 0.5) / 26 if isinstance(one, str) else one for one in letters])
    rng = Quiet(0)
    rng.random = lambda: next(numbers)
    assert questions.draw_word(rng, 4) == "lefs" and next(numbers, None) is None


# ---- repeatable, in bounds

def test_a_seed_gives_the_same_bytes():
    def bytes_of(seed):
        drawn = scenes.draw_batch(np.random.default_rng(seed), dict.fromkeys(scenes.SMALLEST, 1.0), 40, 64, 48)
        return [(b"".join(image.tobytes() for image in [*scene.images, *scene.labels]), scene.questions)
                for scene in drawn]
    first = bytes_of(7)
    bytes_of(8)
    assert first == bytes_of(7) != bytes_of(9)


@pytest.mark.parametrize("kind", scenes.SMALLEST)
def test_the_smallest_size_holds_a_scene_and_no_smaller_one_does(kind):
    width, height = scenes.smallest(kind)
    rng = np.random.default_rng(3)
    for w, h in [(width, height), (width, 3 * height + 5), (3 * width + 5, height)] * 40:
        scene = scenes.draw(rng, kind, w, h)
        assert all(image.shape == (h, w, 3) and image.dtype == np.uint8 for image in scene.images)
        assert len(scene.images) == {"pair": 2, "triple": 3}.get(kind, 1)
    several = kind in OBJECTS[1:]  # these may be lower or narrower, but not both
    for w, h in ((width - several, height - 1), (width - 1, height - several)):
        assert not scenes.fits(kind, w, h)
        with pytest.raises(ValueError, match=f"at least {width} x {height}"):
            scenes.draw(rng, kind, w, h)


@pytest.mark.parametrize("size", [(16, 32), (24, 48), (32, 32), (17, 90), (80, 24)])
def test_cells_of_16_pixels_are_enough_for_shapes(size, plain):
    """As many shapes as asked for, in narrow pictures too, and none touches another."""
    for kind in OBJECTS[1:]:
        for seed in range(30 if scenes.fits(kind, *size) else 0):
            assert len(islands(scenes.draw(Quiet(seed), kind, *size).images[0])) == int(kind[-1])
    assert scenes.fits("objects2", *size) and not scenes.fits("objects5", 40, 40)


def test_unknown_kinds_and_skills_say_so():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one of objects1, .* 'object1'"):
        scenes.draw(rng, "object1", 64, 64)
    with pytest.raises(ValueError, match="No word of 3 letters is held out"):
        scenes.draw(rng, "word3", 64, 64, held_out=True)
    with pytest.raises(ValueError, match="for the skill word6"):
        scenes.draw_asked(rng, "word6", 40, 40)


@pytest.mark.parametrize("skill", scenes.SKILLS)
def test_each_skill_is_asked_on_its_kinds(skill):
    scene, question = scenes.draw_asked(np.random.default_rng(4), skill, 64, 48)
    assert question.skill == skill and len(scene.labels) == len(scene.images)
    assert not skill.startswith("held_") or question.answer in questions.HELD_OUT


def test_kinds_come_in_their_shares():
    batch = scenes.draw_batch(np.random.default_rng(5), {"objects1": 3, "bars": 1, "pair": 0}, 400, 32, 32)
    counts = Counter("shape" in answers(scene) for scene in batch)
    assert len(batch) == 400 and abs(counts[True] - 300) < 45 and all(len(scene.images) == 1 for scene in batch)


# ---- the drawing

def test_pixels_by_hand():
    """A half-covered pixel is half the thing's colour; a line under it is in ink; nothing else changes."""
    canvas = np.full((2, 3, 3), 200, np.float32)
    drawing.paste(canvas, np.array([[0.5, 1.0]], np.float32), 1, 0, np.array([0, 100, 250], np.float32))
    expected = np.full((2, 3, 3), 200.0)
    expected[0, 1:] = [[100, 150, 225], [0, 100, 250]]
    assert_close(canvas, expected, atol=1e-5, name="canvas")


def test_masks_of_shapes_have_the_areas_of_geometry():
    """A radius of 20 pixels: areas to 1 %, from formulas for the whole figures."""
    star = 5 * 1.1 * 0.45 * math.sin(math.pi / 5)
    areas = {"circle": math.pi, "ring": math.pi * (1 - 0.36), "square": 1.74**2, "triangle": 1.85,
             "diamond": 2 * 1.1 * 0.88, "cross": 4 * 0.64 - 0.64**2, "star": star}
    for shape, area in areas.items():
        for tilt in (0, 8):
            assert_close(drawing.shape_mask(shape, 40, tilt, 0).sum() / 400, area, atol=0, rtol=0.01, name=shape)


def test_pictures_vary_in_noise_frame_and_outline(monkeypatch):
    """Of 600 pictures a quarter is noisy, a tenth blurred or resized, a fifth has hard edges, a twentieth outlines."""
    seen = Counter()

    def spy(name):
        original = getattr(drawing, name)

        def counted(*arguments):
            result = original(*arguments)
            seen[name] += name != "draw_frame" or result.lens is not None
            return result
        monkeypatch.setattr(drawing, name, counted)

    for name in ("draw_frame", "hardened", "outlined"):
        spy(name)
    rng = np.random.default_rng(10)
    for _ in range(600):
        edge = scenes.draw(rng, "objects1", 24, 24).images[0][[0, -1]].reshape(-1, 3)
        seen["noisy"] += len(np.unique(edge, axis=0)) > 20
    expected = {"noisy": 150, "draw_frame": 60, "hardened": 120, "outlined": 30}
    assert all(abs(seen[name] - count) < 5 * count**0.5 for name, count in expected.items()), seen


def test_resampling_keeps_means_and_places():
    """Rows sum to one, as many rows and columns as asked for, and a ramp stays a ramp inside."""
    for count, samples, reach in ((10, 10, 1.4), (10, 8, 1.0), (16, 20, 1.25)):
        matrix = drawing.resampling(count, samples, reach)
        assert matrix.shape == (count, samples)
        assert_close(matrix.sum(axis=1), np.ones(count), atol=1e-6, name="sums")
        ramp = matrix @ (np.arange(samples, dtype=np.float32) + np.float32(0.5))
        inside = slice(2, -2)
        # Between samples a triangle of unequal weights is off by a little where the count changes.
        assert_close(ramp[inside], ((np.arange(count) + 0.5) * samples / count)[inside], atol=0.1, name="ramp")


def test_backgrounds_and_things_stand_apart():
    """Over many pictures all sorts of background come up, and every thing differs from its own by CONTRAST."""
    rng, sorts = np.random.default_rng(6), Counter()
    for _ in range(3000):
        ground = np.array(drawing.draw_background(rng))
        sorts["black"] += bool((ground == 0).all())
        sorts["white"] += bool((ground == 255).all())
        sorts["dark"] += bool((ground <= 70).all())
        sorts["middle"] += bool(((ground >= 130) & (ground <= 190)).all())
        assert ((ground <= 70) | (ground >= 130)).all()
    assert 40 < sorts["black"] < 150 and 200 < sorts["white"] < 340
    assert 370 < sorts["dark"] < 530 and sorts["middle"] > 300
    thing = drawing.Thing("star", "pink", np.array([255, 192, 203], np.float32), np.ones((1, 1), np.float32), 0, 0)
    assert drawing.contrast([255, 255, 255], [thing]) and not drawing.contrast([230, 200, 220], [thing])
    assert not drawing.contrast([255, 255, 255], [thing._replace(name="a")])  # characters need more
    black = thing._replace(color="black", rgb=np.zeros(3, np.float32))
    assert not drawing.contrast([70, 70, 70], [black]) and drawing.contrast([130, 130, 130], [black])


def test_radii_are_those_of_the_recipe():
    """One shape: at least 7 pixels, up to 0.48 of the shorter side, one in ten from 0.40; several: smaller the more."""
    rng = np.random.default_rng(7)
    radii = np.array([placing.draw_radius(rng, drawing.Frame(80, 64), 1) for _ in range(2000)]) / 2
    assert radii.min() == 7 and 0.45 * 64 < radii.max() <= 0.48 * 64 + 0.5
    assert 0.45 < (radii <= 0.24 * 64 + 0.5).mean() < 0.70 and 0.09 < (radii >= 0.40 * 64).mean() < 0.20
    for count, (least, share) in placing.RADII.items():
        several = [placing.draw_radius(rng, drawing.Frame(80, 64), count) / 2 for _ in range(300)]
        assert min(several) == least and (count == 1 or max(several) <= share * 64 + 0.5)
