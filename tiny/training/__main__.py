"""The command line: `python -m tiny.training` trains tiny-mixtral, or tiny-pixtral, or goes on where it stopped.

When the training is done, the same command writes the checkpoint in Mistral's layout, the loss curve, and the card.
With --evaluate MODEL it trains nothing and prints the card of a checkpoint. `tiny-pixtral --from MODEL` trains finished
weights on, for the published prompts and larger pictures, and writes `measured.json` in the place of the card.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from tiny.config import TinyError
from tiny.evals.prompts import EXPLICIT
from tiny.system.whole import write_whole
from tiny.tools.machine import machine
from tiny.tools.terminal import Parser, check_numbers, guarded, program
from tiny.training.run_state import plot_losses
from tiny.training.text.evaluate import evaluate
from tiny.training.text.train import BASELINE, CONTEXT, Recipe, export, train

MODELS = ("tiny-mixtral", "tiny-pixtral")
LIMITS = {"tokens": (1, 1e11), "seed": (0, 2**63), "rate": (1e-9, 1), "stop_after": (1, 2**31),
          "save_minutes": (0, 1e6), "scenes": (1, 2**20), "processes": (1, 64)}


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: run(arguments), "--debug" in arguments, "Close other programs, or ask for fewer tokens.")


def run(arguments: list[str]) -> int:
    """Check the options, and train or evaluate what they ask for; returns the exit status."""
    parser = Parser(prog="python -m tiny.training", description=__doc__)
    parser.add_argument("model", nargs="?", choices=MODELS, default=MODELS[0], help="which model; tiny-mixtral")
    parser.add_argument("--out", type=Path, help="folder of the run; runs/NAME or runs/baseline")
    parser.add_argument("--baseline", action="store_true", help="tiny-mixtral: the short run to compare with")
    parser.add_argument("--tokens", type=float,
                        help=f"tiny-mixtral: tokens to train on, in all; {Recipe.tokens / 1e6:.0f}e6")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--rate", type=float, help=f"tiny-mixtral: highest learning rate; {Recipe.rate}")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps; the same command goes on")
    parser.add_argument("--save-minutes", type=float, default=2.0, help="minutes between two saved states")
    parser.add_argument("--evaluate", metavar="MODEL", help="measure a checkpoint instead: a folder or a name")
    parser.add_argument("--scenes", type=int, default=256, help="tiny-pixtral: scenes of each cell of the table")
    parser.add_argument("--processes", type=int, default=1,
                        help="tiny-pixtral: 2 share its last stages, 3 those of --from; same numbers")
    parser.add_argument("--from", dest="begin", metavar="MODEL",
                        help="tiny-pixtral: train this checkpoint on, for published prompts and larger pictures")
    parser.add_argument("--debug", action="store_true", help="show a traceback for an error")
    options = parser.parse_args(arguments)
    check_numbers(options, LIMITS)
    return run_mixtral(options) if options.model == "tiny-mixtral" else run_pixtral(options)


def run_mixtral(options: argparse.Namespace) -> int:
    """Do what the options ask for with tiny-mixtral; returns the exit status."""
    if options.begin is not None:
        raise TinyError("--from is an option of tiny-pixtral.", "Put tiny-pixtral before it, or leave it out.")
    if options.evaluate is not None:
        print(json.dumps(evaluate(options.evaluate), indent=1))
        return 0
    recipe = BASELINE if options.baseline else Recipe()
    recipe = dataclasses.replace(recipe, seed=options.seed,
                                 rate=recipe.rate if options.rate is None else options.rate)
    if options.tokens is not None:
        recipe = dataclasses.replace(recipe, tokens=int(options.tokens))
    out = options.out or Path("runs") / ("baseline" if options.baseline else "tiny-mixtral")
    trainer = train(recipe, out, options.stop_after, options.save_minutes)
    if trainer.step < len(trainer.sizes):
        return stopped(trainer.step)
    export(trainer, out)
    plot_losses(out / "log.jsonl", out / "loss.png")
    print("the checkpoint is written; measuring it", flush=True)
    card = {"recipe": dataclasses.asdict(recipe), "parameters": len(trainer.parameters), "context": CONTEXT,
            "date": time.strftime("%Y-%m-%d"), "machine": machine(),
            "streams": {domain: len(stream.ids) for domain, stream in trainer.streams.items()}} | evaluate(out)
    write_whole(out / "card.json", json.dumps(card, indent=1) + "\n")
    for domain, loss in card["held_out"].items():
        print(f"{domain:12} {loss['nats_per_token']:.3f} nats a token  "
              f"{loss['bits_per_character']:.3f} bits a character")
    for row in card["rows"]:
        print(f"{row['value']:>16}  {row['what']}")
    return 0


def run_pixtral(options: argparse.Namespace) -> int:
    """The same with tiny-pixtral."""
    # Imported here so that tiny-mixtral is trained without fonts and pictures.
    from tiny.tools.cards import images as image_card
    from tiny.training.images import evaluate as evaluation
    from tiny.training.images import evaluate_more, going_on
    from tiny.training.images import train as image_training

    if options.baseline or options.tokens is not None or options.rate is not None:
        raise TinyError("--baseline, --tokens and --rate are options of tiny-mixtral.",
                        "The recipe of tiny-pixtral is in tiny/training/images/train.py.")
    if options.evaluate is not None:
        print(image_card.console_table(evaluation.evaluate(options.evaluate, options.scenes)))
        return 0
    recipe = dataclasses.replace(image_training.Recipe(), seed=options.seed)
    out = options.out or Path("runs") / ("tiny-pixtral" if options.begin is None else "tiny-pixtral-on")
    if options.begin is not None:
        recipe = going_on.continued(recipe, EXPLICIT)
        if not (out / "state.npz").exists():
            going_on.begin_from(options.begin, recipe, out)
    trainer = image_training.train(recipe, out, options.stop_after, options.save_minutes,
                                  processes=options.processes)
    if trainer.step < trainer.total:
        return stopped(trainer.step)
    image_training.export(trainer, out)
    print("the checkpoint is written; measuring it", flush=True)
    card = image_card.facts(trainer, machine()) | evaluation.evaluate(out, options.scenes)
    lines = [image_card.console_table(card)]
    if options.begin is not None:
        found = evaluate_more.evaluate_more(out, EXPLICIT, max(1, options.scenes // 8))
        card, lines = card | found, [*lines, *evaluate_more.table_lines(found)]
    # the text of the card is about weights that were not trained on
    write_whole(out / ("card.json" if options.begin is None else "measured.json"), json.dumps(card, indent=1) + "\n")
    image_card.plot_stages(out / "log.jsonl", out / "loss.png")
    print("\n".join(lines))
    return 0


def stopped(step: int) -> int:
    """Say that a run is not at its end; returns the exit status."""
    print(f"stopped at step {step:,}; the same command goes on from here")
    return 0


if __name__ == "__main__":
    program(main)
