"""What a run of the reference costs: passes, time and memory, said before it begins."""

import time
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Config
from tiny.numerics import BFLOAT16, linear
from tiny.tools.memory import amount, estimate
from tiny.tools.terminal import note
from tiny.tools.token_cost import token_cost
from tiny.tools.verify.server.reference.passes import TOKENS

TRIAL, LEAST = 4 << 20, 0.2  # numbers of a product that measures the speed, and seconds that are measured
MUCH = 60.0  # seconds from which on a run is announced
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


class Cost(NamedTuple):
    """passes over the weights, tokens in all of them, operations, bytes of memory that a pass holds at once, and of
    weights that it reads
    """

    passes: int
    tokens: int
    operations: float
    memory: int
    stored: int

    def words(self, speed: float) -> str:
        """All of it in words. speed: operations in a second"""
        return (f"{self.passes} passes of the reference, {self.tokens:,} tokens in all: about "
                f"{duration(self.operations / speed)} on this machine and {amount(self.memory)} of memory; each reads "
                f"{amount(self.stored)} of weights")


def cost(model: Any, lengths: list[int], passes: int, faults: int) -> Cost:
    """What it costs to run texts of these lengths with so many faults, in so many passes over the weights."""
    config, mode = model.config, model.weights.mode
    need = estimate(config, model.weights.tensors, max(lengths))
    held = 4 * config.vocab_size * (TOKENS + 4 * sum(lengths))  # logits of a pass, and log-probabilities
    return Cost(passes, faults * sum(lengths), faults * sum(operations(config, length) for length in lengths),
                need.peak(mode) + held, need.stored)


def announce(model: Any, lengths: list[int], passes: int, faults: int) -> None:
    """Say what it costs, before it begins, if that is much. The arguments are those of `cost`."""
    needed, moe = cost(model, lengths, passes, faults), model.config.moe
    rows = max(lengths) * moe.num_experts_per_tok // moe.num_experts if moe else max(lengths)  # that one matrix gets
    fast = speed(rows, model.config.dim)
    if needed.operations / fast > MUCH:
        note(f"{needed.words(fast)}; --quick asks for less")


def operations(config: Config, length: int) -> float:
    """Operations of one pass over a text: each token sees half of the others, on average."""
    return float(length * token_cost(config, length // 2, 4)[1])


def speed(rows: int, width: int) -> float:
    """Operations in a second that NumPy does here, in a product of so many tokens with a matrix of this width, of which
    blocks are converted from bfloat16 first.
    """
    x, weight = np.ones((rows, width), np.float32), np.ones((max(1, TRIAL // width), width), BFLOAT16)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < LEAST:
        linear(x, weight)
        done += 2 * rows * weight.size
    return done / (time.perf_counter() - start)


def duration(seconds: float) -> str:
    """Seconds in words: 2.5 hours."""
    unit, name = next(((unit, name) for unit, name in UNITS if seconds >= 2 * unit), UNITS[-1])
    return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {name}"
