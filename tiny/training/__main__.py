"""The command line: `python -m tiny.training` trains tiny-mixtral, or goes on where it stopped.

When the training is done, the same command writes the checkpoint in Mistral's layout, the loss curve, and the card.
With --evaluate MODEL it trains nothing and prints the card of a checkpoint.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from tiny.config import TinyError
from tiny.tools.bench import machine
from tiny.training.evaluate import evaluate
from tiny.training.progress import plot_losses
from tiny.training.train import BASELINE, CONTEXT, Recipe, export, train


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiny.training", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the run; runs/tiny-mixtral or runs/baseline")
    parser.add_argument("--baseline", action="store_true", help="the short run that the card compares with")
    parser.add_argument("--tokens", type=float, help=f"tokens to train on, in all; {Recipe.tokens / 1e6:.0f}e6")
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
    recipe = dataclasses.replace(BASELINE if options.baseline else Recipe(), seed=options.seed, rate=options.rate)
    if options.tokens is not None:
        recipe = dataclasses.replace(recipe, tokens=int(options.tokens))
    out = options.out or Path("runs") / ("baseline" if options.baseline else "tiny-mixtral")
    trainer = train(recipe, out, options.stop_after, options.save_minutes)
    if trainer.step < len(trainer.sizes):
        print(f"stopped at step {trainer.step:,}; the same command goes on from here")
        return 0
    export(trainer, out)
    plot_losses(out / "log.jsonl", out / "loss.png")
    print("the checkpoint is written; measuring it", flush=True)
    card = {"recipe": dataclasses.asdict(recipe), "parameters": len(trainer.parameters), "context": CONTEXT,
            "date": time.strftime("%Y-%m-%d"), "machine": machine(),
            "streams": {domain: len(stream.ids) for domain, stream in trainer.streams.items()}} | evaluate(out)
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    for domain, loss in card["held_out"].items():
        print(f"{domain:12} {loss['nats_per_token']:.3f} nats a token  "
              f"{loss['bits_per_character']:.3f} bits a character")
    for row in card["rows"]:
        print(f"{row['value']:>16}  {row['what']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
