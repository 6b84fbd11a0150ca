"""What a thread computes for itself: whole numbers, floats, comparisons and conversions.

Each function gets the block, the instruction, and which threads run it; it reads registers and sets one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.ptx import numbers
from kernels.ptx.memory import SHARED
from kernels.ptx.numbers import TYPES
from kernels.ptx.parse import Instruction, parts

WORD = np.dtype(np.uint32)


def plain(function: Callable) -> Callable:
    """An instruction that computes one value of its type from operands of its type."""
    def run(block: Any, step: Instruction, active: np.ndarray) -> None:
        operands = [block.read(operand, step.dtype) for operand in step.operands[1:]]
        block.write(step.operands[0], function(*operands), active)
    return run


def approximate(function: Callable) -> Callable:
    """A fast function of a GPU, here accurate: computed in float64, rounded once. A GPU's last bits may differ."""
    def run(block: Any, step: Instruction, active: np.ndarray) -> None:
        operands = [block.read(operand, step.dtype) for operand in step.operands[1:]]
        operands = [numbers.flush(x) for x in operands] if "ftz" in step.words else operands
        result = function(*(x.astype(np.float64) for x in operands)).astype(np.float32)
        block.write(step.operands[0], numbers.flush(result) if "ftz" in step.words else result, active)
    return run


def rough_reciprocal(block: Any, step: Instruction, active: np.ndarray) -> None:
    """rcp.approx.ftz.f64: from the upper half of a float64's bits to the upper half; the lower ones are zero."""
    upper = np.uint64(0xFFFFFFFF00000000)
    x = (block.read(step.operands[1], np.dtype(np.uint64)) & upper).view(np.float64)
    block.write(step.operands[0], (1 / x).view(np.uint64) & upper, active)


def fma(block: Any, step: Instruction, active: np.ndarray) -> None:
    """d = a b + c, rounded once."""
    a, b, c = (block.read(operand, step.dtype) for operand in step.operands[1:])
    found = numbers.fma64(a, b, c) if step.dtype.itemsize == 8 else numbers.fma(a, b, c, down=step.words[1] == "rm")
    block.write(step.operands[0], found, active)


def multiply(block: Any, step: Instruction, active: np.ndarray) -> None:
    """Whole products: d = the lower or upper half of a b, or all of it (wide), and for mad c more."""
    a, b = (block.read(operand, step.dtype) for operand in step.operands[1:3])
    dtype = np.dtype(f"{step.dtype.kind}{2 * step.dtype.itemsize}") if step.words[1] == "wide" else step.dtype
    if step.words[1] == "hi":
        product = numbers.high_half(a, b)
    else:
        product = a.astype(dtype) * b.astype(dtype)
    if step.words[0] == "mad":
        product = product + block.read(step.operands[3], dtype)
    block.write(step.operands[0], product, active)


def bits(function: Callable) -> Callable:
    """An instruction whose other operands, distances and lengths, have 32 bits whatever the first is."""
    def run(block: Any, step: Instruction, active: np.ndarray) -> None:
        value, *others = step.operands[1:]
        operands = [block.read(operand, WORD) for operand in others]
        block.write(step.operands[0], function(block.read(value, step.dtype), *operands), active)
    return run


COMPARE: dict[str, Callable] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "num": lambda a, b: np.True_, "nan": lambda a, b: np.False_}
JOIN = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def compare(block: Any, step: Instruction, active: np.ndarray) -> None:
    """setp: whether a comparison holds, joined with a third predicate if one is given; p|q also gets the opposite.

    With a NaN a comparison is false; with a `u` at its end it is true.
    """
    a, b = (block.read(operand, step.dtype) for operand in step.operands[1:3])
    name, unordered = step.words[1], (a != a) | (b != b)
    holds = COMPARE[name.rstrip("u")](a, b) & ~unordered | unordered & (name[-1] == "u" or name == "nan")
    first, _, second = step.operands[0].partition("|")
    for predicate, value in ((first, holds), (second, ~holds)):
        if predicate not in ("", "_"):
            if len(step.operands) > 3:
                value = JOIN[step.words[2]](value, block.read(step.operands[3], TYPES["pred"]))
            block.write(predicate, value, active)


def select(block: Any, step: Instruction, active: np.ndarray) -> None:
    """selp: a where a predicate holds, otherwise b."""
    a, b = (block.read(operand, step.dtype) for operand in step.operands[1:3])
    block.write(step.operands[0], np.where(block.read(step.operands[3], TYPES["pred"]), a, b), active)


def move(block: Any, step: Instruction, active: np.ndarray) -> None:
    """mov: copy, or put parts together ({low, high} to the right), or take them apart ({ } to the left)."""
    to, values = map(parts, step.operands)
    whole, part = (np.dtype(f"u{step.dtype.itemsize // n}") for n in (1, max(len(to), len(values))))
    read = [block.read(value, part if len(values) > 1 else whole) for value in values]
    bits = np.stack([np.broadcast_to(value, active.shape) for value in read], axis=1)
    for name, value in zip(to, bits.view(part if len(to) > 1 else whole).T):
        if name != "_":
            block.write(name, value, active)


def convert(block: Any, step: Instruction, active: np.ndarray) -> None:
    """cvt: from the last type to the one before it."""
    to, x = TYPES[step.words[-2]], block.read(step.operands[1], step.dtype)
    rounding = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}.get(step.words[1])
    if step.words[-2] == "bf16x2":  # a becomes the upper half
        low = numbers.to_bfloat16(np.atleast_1d(block.read(step.operands[2], step.dtype)))
        x = numbers.to_bfloat16(np.atleast_1d(x)) << np.uint32(16) | low
    elif step.words[-2] == "bf16":
        x = numbers.to_bfloat16(np.atleast_1d(x)).astype(np.uint16)
    elif step.words[-1] == "bf16":
        x = numbers.from_bfloat16(x)
    else:
        x = rounding(x) if rounding else x
        x = np.where(x > 0, np.minimum(x, 1), 0) if "sat" in step.words else x  # a NaN becomes 0
        x = numbers.to_integer(x, to) if step.dtype.kind == "f" and to.kind in "iu" else x.astype(to)
    block.write(step.operands[0], x, active)


def generic(block: Any, step: Instruction, active: np.ndarray) -> None:
    """cvta: between an address in one kind of memory and the same among all addresses; only shared ones change."""
    value = block.read(step.operands[1], step.dtype)
    place = step.dtype.type(SHARED if "shared" in step.words else 0)
    block.write(step.operands[0], value - place if step.words[1] == "to" else value + place, active)
