"""Text coloured by the expert that wrote each token, and counts of who was chosen how often."""

import os
from typing import TextIO

import numpy as np

from tiny.generate import ExpertTrace, run_finite
from tiny.tools.terminal import printable

# Backgrounds under black text, in the 256 colours of terminals: near the palette of Okabe and Ito, moved for contrast
# with black, and apart from each other also for eyes without one kind of cone.
COLOURS = (214, 117, 36, 227, 32, 166, 133, 250)
RESET = "\x1b[0m"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def colours_wanted(stream: TextIO) -> bool:
    """Whether to colour: in a terminal that can, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(expert: int) -> str:
    """The code that turns an expert's colour on."""
    return f"\x1b[38;5;16;48;5;{COLOURS[expert % len(COLOURS)]}m"


def digit(expert: int) -> str:
    """An expert's number as one character."""
    return DIGITS[expert % len(DIGITS)]


class Painter:
    """Writes text as it comes: coloured, or plain with the experts' numbers in a line beneath.

    The number is under the first visible character of its token. Full lines break at the next space: textwrap breaks
    whole texts, and here tokens come one at a time.
    """

    def __init__(self, stream: TextIO, colour: bool, width: int = 76):
        self.stream, self.colour, self.width = stream, colour, width
        self.column, self.marks = 0, ""

    def write(self, text: str, expert: int | None = None) -> None:
        """Write a piece of text and flush it; without an expert it is neither coloured nor numbered."""
        out, mark = "", "" if expert is None else digit(expert)
        on, off = (paint(expert), RESET) if self.colour and expert is not None else ("", "")
        for character in printable(text):
            if character == "\n" or character == " " and self.column >= self.width:
                out += off + self.line_end() + on
                continue
            out += character
            self.column += 1
            self.marks += " " if character == " " or not mark else mark
            mark = mark if character == " " else ""
        print(on + out + off if out else "", end="", file=self.stream, flush=True)

    def line_end(self) -> str:
        """End a line, and print the numbers below it, if there are any."""
        marks, self.marks, self.column = self.marks.rstrip(), "", 0
        return f"\n{marks}\n" if marks and not self.colour else "\n"

    def finish(self) -> None:
        """End the last line."""
        print(self.line_end(), end="", file=self.stream, flush=True)


def legend(experts: int, colour: bool) -> str:
    """Which colour is which expert."""
    if not colour:
        return "The number under a token is that of its expert."
    return "experts " + " ".join(f"{paint(e)} {digit(e)} {RESET}" for e in range(experts))


def expert_shares(model, ids: list[int]) -> np.ndarray:
    """How often each expert is chosen for the tokens of a text, both choices counted; rows sum to 1.

    Shapes:  -> (L, E) float64
    """
    trace = ExpertTrace()
    run_finite(model, ids[: model.config.max_seq_len], trace=trace, last_only=True)
    experts = model.config.moe.num_experts
    counts = [np.bincount(layer.ravel(), minlength=experts) for layer in trace.layers]
    return np.array([count / count.sum() for count in counts])
