"""Two short runs of the trainer, with the loss for balance and without: the curves of chapter 10.

`python -m tutorial.pages.training_record` runs both, in minutes, and keeps what they logged. A test begins the first
one again and finds the same losses.
"""

import dataclasses
from datetime import date

import tiny
from tiny.tools.machine import cpu_name
from tiny.tools.terminal import Parser, program
from tiny.training.text import data
from tiny.training.text.train import BASELINE, Recipe, Trainer
from tutorial.pages.records import keep

NAME = "training.json"
STEPS, EVERY = 500, 10
BALANCED = dataclasses.replace(BASELINE, tokens=STEPS * BASELINE.batch_tokens[0], warmup=60 / STEPS)
RECIPES = {"balanced": BALANCED, "free": dataclasses.replace(BALANCED, aux=0.0)}
DRAWN = {"stories": 300_000, "tasks": 250_000}  # tokens of the generated texts: more than a run of this length reads


def streams() -> dict[str, data.Stream]:
    """The training texts, encoded by the tokenizer of tiny-mixtral."""
    model = (tiny.model_folder("tiny-mixtral") / "tokenizer.model").read_bytes()
    return data.build_streams(data.open_tokenizer(model), data.texts(), DRAWN, False)


def run(recipe: Recipe, texts: dict[str, data.Stream], steps: int = STEPS) -> list[dict]:
    """Every few steps: tokens, loss, and the smallest and the largest share of an expert, as running means."""
    trainer, lines = Trainer(recipe, texts), []
    while trainer.step < steps:
        trainer.advance()
        if trainer.step % EVERY == 0:
            shares = trainer.smoothed["shares"]
            lines.append({"tokens": trainer.tokens(), "loss": round(trainer.smoothed["loss"], 3),
                          "smallest": round(float(shares.min()), 4), "largest": round(float(shares.max()), 4)})
    return lines


def main() -> None:
    """Run both and keep what they logged."""
    Parser(prog="python -m tutorial.pages.training_record", description=(__doc__ or "").splitlines()[0]).parse_args()
    texts = streams()
    runs = {name: run(recipe, texts) for name, recipe in RECIPES.items()}
    keep(NAME, {"date": date.today().isoformat(), "machine": cpu_name(), "runs": runs})


if __name__ == "__main__":
    program(main)
