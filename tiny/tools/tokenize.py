"""The command `tokenize`: the tokens of a text, with their ids."""

import argparse
import json
import sys

import tiny
from tiny.tools.session import read_text
from tiny.tools.terminal import clean
from tiny.tools.terminal.coloured_text import RESET, colours_wanted, paint

ALTERNATE = (0, 3)  # two of the colours of the experts, easily told apart


def main(args: argparse.Namespace) -> None:
    """Coloured alternately in a terminal; else one line for each token, its id and its piece; or JSON."""
    tokenizer = tiny.load_tokenizer(tiny.model_folder(args.model))
    ids = tokenizer.encode(read_text(args.text))
    pieces = tokenizer.pieces(ids)
    if args.json:
        print(json.dumps({"ids": ids, "pieces": pieces}))
    elif colours_wanted(sys.stdout):
        for row in (pieces, ids):
            print("".join(f"{paint(ALTERNATE[n % 2])} {clean(str(cell))} {RESET}" for n, cell in enumerate(row)))
        print(f"{len(ids)} tokens, without BOS; \u2581 is a space")
    else:
        for id, piece in zip(ids, pieces):
            print(f"{id}\t{clean(piece)}")
