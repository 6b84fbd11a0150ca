"""The pictures of `is_it_the_same_model.md`: `python -m tutorial.draw_planted` draws them into tutorial/figures/.

They are what `verify check --plot` draws of the dumps in tests/golden/verify, in which a mistake was planted.
"""

import hashlib
from pathlib import Path

from tiny.tools.terminal import Parser, program
from tiny.tools.verify.check import check
from tiny.tools.verify.plot import error_by_layer
from tutorial.draw_figures import FOLDER, save
from tutorial.source import ROOT

DUMPS = ROOT / "tests/golden/verify"
# The picture's name, the embedded model, and the dump.
PICTURES = {"same_model": ("tiny-pixtral", "tiny-pixtral"),
            "same_model_bfloat16": ("tiny-pixtral", "tiny-pixtral-bfloat16"),
            "planted_wo": ("tiny-mixtral", "tiny-mixtral-wo-of-layer-2"),
            "planted_gelu": ("tiny-pixtral", "tiny-pixtral-tanh-gelu")}


def draw(name: str):
    """One picture, from the checkpoint and the dump."""
    model, dump = PICTURES[name]
    figure = error_by_layer(check(model, DUMPS / f"{dump}.npz"))
    figure.set_gid("tiny.tools.verify.plot")
    return figure


def checksum(name: str) -> str:
    """What the picture was drawn from: the SHA-256 of the dump."""
    return hashlib.sha256((DUMPS / f"{PICTURES[name][1]}.npz").read_bytes()).hexdigest()


def main() -> None:
    """Draw all of them."""
    Parser(prog="python -m tutorial.draw_planted", description="Draw the faults that were planted.").parse_args()
    for name in PICTURES:
        file = Path(FOLDER / f"{name}.png")
        save(draw(name), file, checksum(name))
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    program(main)
