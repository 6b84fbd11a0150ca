"""The command line: `python -m tiny.training` trains tiny-mixtral, or goes on where it stopped."""

import argparse
import dataclasses
import sys
from pathlib import Path

from tiny.config import TinyError
from tiny.training.train import Recipe, train


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiny.training", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-mixtral"), help="folder of the run")
    parser.add_argument("--tokens", type=float, default=Recipe.tokens, help="tokens to train on, in all")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="highest learning rate")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps; the same command goes on")
    parser.add_argument("--save-minutes", type=float, default=2.0, help="minutes between two saved states")
    parser.add_argument("--debug", action="store_true", help="show a traceback for an error")
    options = parser.parse_args(arguments)
    recipe = dataclasses.replace(Recipe(), tokens=int(options.tokens), seed=options.seed, rate=options.rate)
    try:
        trainer = train(recipe, options.out, options.stop_after, options.save_minutes)
    except TinyError as error:
        if options.debug:
            raise
        print(f"{error.cause}\n{error.remedy}", file=sys.stderr)
        return 2
    if trainer.step < len(trainer.sizes):
        print(f"stopped at step {trainer.step:,}; the same command goes on from here")
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
