"""The command line: `python -m tiny.training` trains tiny-mixtral, or goes on where it stopped.

When the training is done, the same command writes the checkpoint in Mistral's layout, the loss curve, and the card.
With --evaluate MODEL it trains nothing and prints the card of a checkpoint.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from tiny.config import TinyError
from tiny.training.evaluate import evaluate
from tiny.training.progress import plot_losses
from tiny.training.train import Recipe, export, train


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiny.training", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-mixtral"), help="folder of the run")
    parser.add_argument("--tokens", type=float, default=Recipe.tokens, help="tokens to train on, in all")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="highest learning rate")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps; the same command goes on")
    parser.add_argument("--save-minutes", type=float, default=2.0, help="minutes between two saved states")
    parser.add_argument("--evaluate", metavar="MODEL", help="measure a checkpoint instead: a folder or tiny-mixtral")
    parser.add_argument("--debug", action="store_true", help="show a traceback for an error")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except TinyError as error:
        if options.debug:
            raise
        print(f"{error.cause}\n{error.remedy}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit status."""
    if options.evaluate:
        print(json.dumps(evaluate(options.evaluate), indent=1))
        return 0
    recipe = dataclasses.replace(Recipe(), tokens=int(options.tokens), seed=options.seed, rate=options.rate)
    trainer = train(recipe, options.out, options.stop_after, options.save_minutes)
    if trainer.step < len(trainer.sizes):
        print(f"stopped at step {trainer.step:,}; the same command goes on from here")
        return 0
    export(trainer, options.out)
    plot_losses(options.out / "log.jsonl", options.out / "loss.png")
    print("the checkpoint is written; measuring it", flush=True)
    card = {"recipe": dataclasses.asdict(recipe), "parameters": len(trainer.parameters)} | evaluate(options.out)
    (options.out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    for domain, loss in card["held_out"].items():
        print(f"{domain:12} {loss['nats_per_token']:.3f} nats a token  {loss['bits_per_character']:.3f} bits a character")
    for row in card["rows"]:
        print(f"{row['value']:>16}  {row['what']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
