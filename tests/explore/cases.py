"""What the tests of the page share: the embedded models, and runs of them that are made once."""

import functools

import numpy as np

import tiny
from tiny.tools.demo import STORY
from tiny.tools.explore import pictures, runs

SCENE = 336  # a star and a ring, of which the star is asked about
QUESTION = "what color is the star?"


@functools.cache
def model_of(kind):
    return tiny.load({"text": "tiny-mixtral", "picture": "tiny-pixtral"}[kind])


@functools.cache
def scene(number=1, seed=SCENE):
    """Pictures of a drawn scene, and what is known of it."""
    drawn = pictures.draw(model_of("picture").config, seed, number)
    return [runs.to_picture(image) for image in drawn.images], drawn


@functools.cache
def run_of(kind, **asked):
    """A run of a story, of a question about one picture, or ("pictures") about two."""
    if kind == "text":
        return runs.write(model_of("text"), runs.Ask(STORY, **asked))
    images, _ = scene(2 if kind == "pictures" else 1)
    question = "what color is the star in the first image" if kind == "pictures" else QUESTION
    return runs.write(model_of("picture"), runs.Ask(question, **asked), images)


def whole_trace(run, pixels=()):
    """Every array of one plain pass over all tokens of a run."""
    trace = {}
    run.model(np.array(run.ids), images=pixels, trace=trace)
    return trace


def pixels_of(kind):
    """The preprocessed pictures of a run."""
    if kind == "text":
        return []
    return model_of("picture").tokenizer.encode_chat([runs.user_turn("", scene(2 if kind == "pictures" else 1)[0])])[1]
