"""The numbers of chapter 9, each from where it comes: tiny-pixtral's card, Wilson's formula, the release of Pixtral."""

import numpy as np

from tiny.tools.cards.images import MARGIN, scores_of
from tiny.training.images.evaluate import SCENES
from tiny.training.images.score import Z, blind_score
from tutorial.drawings.chapter_09 import FEW, scores_of_card, shares

left, counts = scores_of_card()["left_of"], scores_of(shares(), "count_1", "seen")
ten = blind_score(np.ones(10, bool), np.zeros(10, bool))
assert (FEW, round(100 * MARGIN), round(100 * ten[0, 1])) == (16, 30, 72)

NUMBERS = {f"{1024:,}", f"{5120:,}", f"{64 * 64:,}",  # widths of encoder and decoder, patches of the largest image
           f"{Z:.2f}", f"{Z**2:.2f}", "100", str(SCENES), "0.97", "0.03", "125",
           str(8 * 6 + 12 * 7 - 1),  # the last patch of case_b: pictures of 8 x 6 and 12 x 7 patches
           "1927", "1998",  # years of papers
           *(f"{100 * share:.1f}" for share in (*left[:2, 0], shares()["count_1"]["blind"], counts[1, 0]))}
