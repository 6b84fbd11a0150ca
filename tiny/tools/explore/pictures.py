"""Pictures to ask about: scenes as those of the training, drawn anew, of which we know what each patch shows."""

from typing import NamedTuple

import numpy as np

from tiny.config import Config, TinyError
from tiny.training.images import scenes

COLUMNS, ROWS = 8, 6  # patches of a scene
KINDS = {1: "objects2", 2: "pair", 3: "triple"}  # by the number of pictures


class Drawn(NamedTuple):
    """A scene, its questions, and the patches of each thing in it, counted over all of its pictures.

    Shapes:  images (height, width, 3) uint8
    """

    images: list[np.ndarray]
    questions: list[tuple[str, str]]
    things: dict[str, list[int]]


def draw(config: Config, seed: int, pictures: int = 1) -> Drawn:
    """Draw a scene for a model; the same seed gives the same one.

    Raises:  TinyError for a model that reads text only, or an unknown number of pictures
    """
    if config.vision is None or pictures not in KINDS or not 0 <= seed < 2**53:
        raise TinyError(f"A scene of {pictures} pictures is asked for, with seed {seed}.",
                        f"Ask a model that sees for {min(KINDS)} to {max(KINDS)} of them.")
    size = config.vision.patch_size
    scene = scenes.draw(np.random.default_rng(seed), KINDS[pictures], COLUMNS * size, ROWS * size)
    asked = {question.text: question.answer for question in scene.questions}
    return Drawn(scene.images, list(asked.items()), things_of(scene, size))


def things_of(scene: scenes.Scene, size: int) -> dict[str, list[int]]:
    """The patches of each thing, of a model whose patches have so many pixels: those on which its labels lie.

    Labels are of patches of 8 pixels. A model with other ones gets none, unless several of them make one of its own.
    """
    found: dict[str, list[int]] = {}
    times, rest = divmod(size, scenes.PATCH)
    first = 0
    for image, labels in zip(scene.images, scene.labels):
        height, width = (side // size for side in image.shape[:2])
        if not rest:
            what = labels[0].reshape(height, times, width, times).transpose(0, 2, 1, 3).reshape(height * width, -1)
            for number in sorted(set(what.ravel().tolist()) - {0}):
                patches = first + np.flatnonzero((what == number).any(axis=1))
                found.setdefault(scenes.WHAT[number], []).extend(patches.tolist())
        first += height * width
    return found


def as_many_others(patches: list[int], of: int, seed: int = 0) -> list[int]:
    """A control: as many patches, drawn from the others; fewer if there are not so many."""
    others = sorted(set(range(of)) - set(patches))
    return sorted(np.random.default_rng(seed).choice(others, min(len(patches), len(others)), replace=False).tolist())
