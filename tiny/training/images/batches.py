"""From scenes to batches: the size and the kinds of a step's scenes, and the sequences of their questions.

Several questions are asked of one picture without one giving another away: each follows the picture as if it were
the only one. It sees the picture and itself, and its positions count on from the end of the picture.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tiny.image import normalise
from tiny.training.images import scenes
from tiny.training.images.prompts import before_answer
from tiny.training.images.questions import Question

BOS, EOS, INST, END_INST, IMG = 1, 2, 3, 4, 10
LEAD = 0.1  # weight of what a reply says before its final answer: it does not depend on the question
SEVERAL = {"pair": 2, "triple": 3}  # Kinds of scenes with several images.
NEVER = {(40, 56), (56, 40), (56, 56), (40, 72), (72, 40), (72, 56), (56, 72)}  # Sizes that only measurements use.


class Batch(NamedTuple):
    """Texts about pictures, all of one length T', packed.

    labels are those of all patches; mask is additive, 0 or -infinity

    Shapes:  ids, targets, weights, positions (B T',), mask (B, T', T') [text, key, query], images n x (3, H, W) in the
             order of their [IMG] tokens, labels (heads, N)
    """

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    images: list[np.ndarray]
    labels: np.ndarray


def sizes(sides: Sequence[int]) -> list[tuple[int, int]]:
    """The sizes of training pictures, (width, height): sides up to three to one, without those that are never shown."""
    return [(w, h) for w in sides for h in sides if max(w, h) <= 3 * min(w, h) and (w, h) not in NEVER]


class Plan(NamedTuple):
    """What the scenes of a step have in common: their size, and the shares of kinds with one number of images."""

    width: int
    height: int
    kinds: dict[str, float]


def draw_plan(rng: np.random.Generator, kinds: Mapping[str, float], sides: Sequence[int], small: float = 0.5) -> Plan:
    """Settle the size and the kinds of the scenes of a step.

    Order:   a kind, which settles the number of images; a size, in inverse proportion to its patches raised to `small`,
             so that large ones do not take most of the time; then the kinds with as many images that fit it. Beyond
             two to one only numbers and words are drawn, and less often
    """
    # (1) one image, or two, or three
    names, shares = list(kinds), np.array(list(kinds.values()))
    drawn = names[rng.choice(len(names), p=shares / shares.sum())]
    each = SEVERAL.get(drawn, 1)
    # (2) a size
    options = sizes(sides)
    weights = np.array([(w * h) ** -small * (0.3 if max(w, h) > 2 * min(w, h) else 1) for w, h in options])
    width, height = options[rng.choice(len(options), p=weights / weights.sum())]
    # (3) the kinds that fit
    wide = max(width, height) > 2 * min(width, height)
    fitting = {kind: share for kind, share in kinds.items() if SEVERAL.get(kind, 1) == each
               and scenes.fits(kind, width, height) and (not wide or kind.startswith(("number", "word")))}
    return Plan(width, height, fitting or {"number1": 1.0})


def draw_scenes(rng: np.random.Generator, plan: Plan, images: int) -> list[scenes.Scene]:
    """Draw scenes by a plan, about this many images in all."""
    each = SEVERAL.get(next(iter(plan.kinds)), 1)
    return scenes.draw_batch(rng, plan.kinds, images // each, plan.width, plan.height)


def images_and_labels(drawn: Sequence[scenes.Scene]) -> tuple[list[np.ndarray], np.ndarray]:
    """All images of some scenes as the encoder takes them, and the labels of their patches.

    Shapes:  -> n x (3, H, W) float32, (heads, N) int
    """
    images = [normalise(image.astype(np.float32)) for scene in drawn for image in scene.images]
    labels = [labels for scene in drawn for labels in scene.labels]
    return images, np.concatenate(labels, axis=1).astype(np.int64)


def answer_batch(rng: np.random.Generator, drawn: Sequence[scenes.Scene], tokenizer, asked: Mapping[str, float],
                 questions: int, patch_size: int) -> Batch:
    """Ask several questions of each scene; their answers, each with its EOS, are what is learnt.

    Order:   of each scene: BOS, [INST], its images, then a block for each question: its words, [/INST], the answer.
             What fills up a shorter text is neither seen nor learnt
    """
    # (1) the tokens before the questions, the same for all scenes, as they are of one size
    first = drawn[0].images
    grids = [(image.shape[1] // patch_size, image.shape[0] // patch_size) for image in first]
    prefix = [BOS, INST] + [i for columns, rows in grids for i in tokenizer.image_tokens(columns, rows)]
    # (2) the blocks of each scene; the last token of a block is only a target
    texts = [[(tokenizer.encode(question.text), tokenizer.encode(question.answer))
              for question in choose(rng, scene.questions, asked, questions)] for scene in drawn]
    n, T = len(prefix), len(prefix) + max(sum(len(q) + 1 + len(a) for q, a in blocks) for blocks in texts)
    ids, targets, positions, owners = np.full((4, len(drawn), T), EOS, np.int64)
    weights = np.zeros((len(drawn), T), np.float32)
    ids[:, :n], positions[:, :n], owners[:, :n], owners[:, n:] = prefix, np.arange(n), 0, -1
    for row, blocks in enumerate(texts):
        start = n
        for number, (question, answer) in enumerate(blocks, 1):
            block = [*question, END_INST, *answer, EOS]
            stop = start + len(block) - 1
            ids[row, start:stop], targets[row, start:stop] = block[:-1], block[1:]
            # (3) the target of [/INST] is the first token of the answer
            weights[row, start + len(question) : stop] = 1
            lead = len(tokenizer.encode(before_answer(tokenizer.decode(answer))))
            weights[row, start + len(question) : start + len(question) + lead] = LEAD
            positions[row, start:stop], owners[row, start:stop] = np.arange(n, n + len(block) - 1), number
            start = stop
    images, labels = images_and_labels(drawn)
    return Batch(ids.reshape(-1), targets.reshape(-1), weights.reshape(-1), positions.reshape(-1),
                 question_mask(owners), images, labels)


def choose(rng: np.random.Generator, questions: Sequence[Question], asked: Mapping[str, float],
           most: int) -> list[Question]:
    """Some of a scene's questions, in random order. `asked` has weights of skills, 1 where it has none: a weight below
    1 is the chance that the question is asked at all, one above 1 puts it before others.
    """
    weights = np.array([asked.get(question.skill, 1.0) for question in questions])
    order = np.argsort(-(rng.random(len(weights)) ** (1 / weights)))
    kept = [i for i in order if rng.random() < weights[i]] or order
    return [questions[i] for i in kept[:most]]


def question_mask(owners: np.ndarray) -> np.ndarray:
    """What a token sees: the tokens before it, those of its own question and those before all questions.

    Shapes:  owners (B, T'), the number of the question that a token belongs to, 0 before the questions
             -> (B, T', T') float32, [text, key, query], 0 or -infinity
    """
    order = np.arange(owners.shape[1])
    keys, queries = owners[:, :, None], owners[:, None]
    seen = (order[:, None] <= order) & ((keys == 0) | (keys == queries))
    return np.where(seen, np.float32(0), np.float32(-np.inf))
