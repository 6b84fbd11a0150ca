"""What chapter 8 says of broken encoders: counted again, on the same questions."""

from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close

import tiny
import tiny.ops
from tiny.rope_2d import rope_2d_table
from tiny.training.images.evaluate import answers_right, draw
from tutorial.source import ROOT

TEXT = " ".join((ROOT / "tutorial/08_the_vision_encoder.md").read_text(encoding="utf-8").replace("\n> ", " ").split())


def model_with(**changed):
    ops = {name: getattr(tiny.ops, name) for name in tiny.ops.__all__}
    return tiny.load("tiny-pixtral", ops=SimpleNamespace(**ops | changed))


def alternating(positions, head_dim, theta):
    """The angles as the paper draws them: a pair of the row, a pair of the column, and so on."""
    order = np.arange(head_dim // 2).reshape(2, -1).T.ravel()
    return tuple(table[:, order] for table in rope_2d_table(positions, head_dim, theta))


def without_mask(q, keys, values, lengths, spans, causal=True, precision="float32"):
    """Attention in which the images of a call are one; of texts as it is."""
    if not causal:
        lengths, spans = [len(q)], [(0, len(q))]
    return tiny.ops.attention(q, keys, values, lengths, spans, causal, precision)


@pytest.mark.slow
@pytest.mark.parametrize("skill, changed, words", [
    ("word3", {"rope_2d_table": alternating},
     "of 40 pictures with a word to read, tiny-pixtral reads {} as it is, and {} with its pairs alternating"),
    ("which_3", {"attention": without_mask}, "is right {} times of 40 with the mask, and {} times without it")])
def test_broken_encoders(skill, changed, words):
    """One prompt at a time, for without the mask the images of all prompts of a call would see each other."""
    counts = [sum(answers_right(model, [asked])[0] for asked in draw(skill, "seen", 40))
              for model in (tiny.load("tiny-pixtral"), model_with(**changed))]
    said = next(pair for pair in ((a, b) for a in range(41) for b in range(41)) if words.format(*pair) in TEXT)
    # Another BLAS may turn an answer whose two best tokens are as good as equal.
    assert_close(counts, said, atol=1, name=f"right answers of 40, {skill}: as it is, broken")
