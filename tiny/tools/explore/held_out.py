"""A number on texts or pictures that no model was trained on. It stands beside every comparison: one text deceives."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.sampling import log_softmax
from tiny.tools.explore import pictures
from tiny.tools.explore.runs import Ask, OutOfRange, to_picture, write
from tiny.training.images import scenes
from tiny.training.text import stories

SEED = 5  # of the stories and scenes: always the same ones
TOKENS = 1024  # of texts in one pass, about
WORDS = 24  # tokens of an answer at most
SKILLS, PAIRS = ("color_of", "left_of", "tallest", "num2"), ("m_color",)  # asked about one picture, and about two


class Measured(NamedTuple):
    """A loss, lower is better, or how many answers are right; `of` tokens or questions."""

    kind: str
    value: float
    of: int


def loss(model: Mixtral, count: int = 20, check: Callable[[], None] = lambda: None) -> Measured:
    """The mean of -log of the probability of each token of stories, whose openings no training story has."""
    rng = np.random.default_rng(SEED)
    texts = [[model.tokenizer.bos_id, *model.tokenizer.encode(stories.generate(rng, held_out=True).text)]
             for _ in range(count)]
    texts = [ids[: model.config.max_seq_len] for ids in texts]
    total, tokens = 0.0, 0
    while texts:
        check()
        number = max(1, int(np.count_nonzero(np.cumsum([len(ids) for ids in texts]) <= TOKENS)))
        batch, texts = texts[:number], texts[number:]
        lengths, ids = [len(one) for one in batch], np.concatenate(batch)
        with np.errstate(all="ignore"):
            logprobs = log_softmax(model(ids, lengths=lengths))
        rows = np.setdiff1d(np.arange(len(ids)), np.cumsum(lengths) - 1)  # nothing follows the last token of a text
        total, tokens = total - logprobs[rows, ids[rows + 1]].sum(), tokens + len(rows)
    return Measured("loss", float(total / tokens), tokens)


def count_right(model: Mixtral, count: int = 12, blind: bool = False, pairs: bool = False,
          check: Callable[[], None] = lambda: None) -> Measured:
    """How many questions about new scenes are answered in the words that are right; blind, about plain pictures."""
    size, skills = patch_size(model), PAIRS if pairs else SKILLS
    rng, found = np.random.default_rng(SEED), 0
    for n in range(count):
        scene, question = scenes.draw_asked(rng, skills[n % len(skills)], pictures.COLUMNS * size, pictures.ROWS * size)
        with suppress(OutOfRange):  # Who can write nothing is not right.
            run = write(model, Ask(question.text, WORDS, blind=blind), [to_picture(one) for one in scene.images],
                        check=check)
            found += says(run.text, question.answer)
    return Measured("right", found, count)


def patch_size(model: Mixtral) -> int:
    """Pixels of a side of a patch. Raises TinyError for a model that reads text only."""
    if model.config.vision is None:
        raise TinyError("Questions about pictures are to be counted, and this model reads text only.",
                        "Measure its loss on texts.")
    return model.config.vision.patch_size


def says(text: str, answer: str) -> bool:
    """Whether a text has the words of an answer, one behind the other; our small model writes nothing else."""
    words, wanted = ([word.strip(".,!?") for word in said.lower().split()] for said in (text, answer))
    return any(words[n : n + len(wanted)] == wanted for n in range(len(words)))


def hiding(model: Mixtral, count: int = 12,
           check: Callable[[], None] = lambda: None) -> tuple[Measured, Measured, Measured]:
    """Right answers to "what color is this thing": with all patches, with those of the thing hidden from the words, and
    with as many others hidden.
    """
    found, rng, size = np.zeros(3, int), np.random.default_rng(SEED), patch_size(model)
    asked = 0
    while asked < count:
        scene, question = scenes.draw_asked(rng, "color_of", pictures.COLUMNS * size, pictures.ROWS * size)
        things, of = pictures.things_of(scene, size), pictures.COLUMNS * pictures.ROWS
        name = next((word for word in question.text.split() if word.strip("?") in things), "").strip("?")
        if not name or 2 * len(things[name]) > of:
            continue
        asked += 1
        for n, hide in enumerate(([], things[name], pictures.as_many_others(things[name], of, asked))):
            run = write(model, Ask(question.text, WORDS, hide=tuple(hide)), [to_picture(scene.images[0])], check=check)
            found[n] += says(run.text, question.answer)
    everything, thing, others = (Measured("right", int(number), count) for number in found)
    return everything, thing, others
