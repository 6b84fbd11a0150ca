"""The numbers of chapter 10, each from where it comes: tiny-mixtral's card, its recipe, and two recorded trainings."""

import json
import math

import numpy as np

import tiny
from tiny.tools.memory import parameters
from tiny.training.text.train import Recipe
from tutorial.drawings.chapter_10 import errors_of_differences, recorded
from tutorial.pages.training_record import RECIPES, STEPS

card = json.loads((tiny.model_folder("tiny-mixtral") / "card.json").read_text(encoding="utf-8"))
page = (tiny.model_folder("tiny-mixtral") / "README.md").read_text(encoding="utf-8")
recipe, runs = Recipe(), recorded()
speed = "5,818"
assert f"{speed} tokens a second" in page and "1.5 hours on one core" in page
weights, vocabulary = parameters(recipe.config())[0], recipe.vocab_size
assert weights == card["parameters"]

# What the two pictures are said to show.
ends = [round(100 * runs[name][-1][share]) for name in ("balanced", "free") for share in ("smallest", "largest")]
assert ends == [10, 17, 3, 34] and len(runs["balanced"]) * 10 == STEPS
assert max(abs(a["loss"] - b["loss"]) for a, b in zip(runs["balanced"], runs["free"])) < 0.02
coarse, fine = (errors_of_differences(dtype, 10.0 ** -np.arange(1, last))
                for dtype, last in ((np.float32, 7), (np.float64, 12)))
assert coarse.argmin() == 1 and round(1e5 * coarse.min()) == 3 and fine.argmin() == 4 and fine.min() < 1e-10

NUMBERS = {f"{weights:,}", f"{vocabulary:,}", str(vocabulary), f"{math.log(vocabulary):.2f}", f"{recipe.aux}",
           f"{RECIPES['balanced'].tokens:,}", f"{100 / recipe.num_experts}", "0.01", "0.00001", "100,000", speed,
           "1,024", f"{card['held_out']['stories']['nats_per_token']:.3f}", "1.5"}
