"""The recorded trainings of chapter 10 begin as a training begins today."""

import numpy as np
import pytest
from compare import assert_close

from tutorial.drawings.chapter_10 import recorded
from tutorial.pages.training_record import EVERY, RECIPES, run, streams


@pytest.mark.thorough
def test_the_first_steps_are_those_of_the_record():
    texts = streams()
    for name, recipe in RECIPES.items():
        for line, kept in zip(run(recipe, texts, 2 * EVERY), recorded()[name]):
            assert line["tokens"] == kept["tokens"]
            for what, atol in (("loss", 2e-3), ("smallest", 2e-3), ("largest", 2e-3)):
                # Another BLAS adds in another order, and choices near a tie change.
                assert_close(np.array(line[what]), np.array(kept[what]), atol, name=f"{what} of the run {name}")
