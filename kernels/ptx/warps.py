"""What the 32 lanes of a warp do together: shuffles, votes, and products of small matrices.

Arrays over the threads of a block become (warps, 32) here. A lane that takes part must be there when the others are.
"""

from typing import Any

import numpy as np

from kernels.ptx.memory import SHARED, Fault
from kernels.ptx.numbers import from_bfloat16
from kernels.ptx.parse import Instruction, parts

HALF, WORD, NUMBER = np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.float32)
LANE = np.arange(32)
ROW, COLUMN = LANE // 4, LANE % 4 * 2  # "group" and twice "thread in group" of the manual


def whole(block: Any, operand: str, dtype: np.dtype = WORD) -> np.ndarray:
    """An operand in every thread, also if it is a number that stands in the code. Shapes:  -> (warps, 32)"""
    return np.broadcast_to(block.read(operand, dtype), block.threads.shape).reshape(-1, 32)


def check_lanes(block: Any, mask: np.ndarray, active: np.ndarray) -> None:
    """Require that all lanes that a mask names run this instruction now, and that these name the same ones.

    Shapes:  mask (warps, 32), active (n,)
    """
    there = active.reshape(-1, 32)
    exists = block.threads.reshape(-1, 32) < block.count
    named = (mask[:, :, None] >> LANE.astype(np.uint32) & np.uint32(1)).astype(bool)  # (warps, lane, named lane)
    wrong = (there[:, :, None] & (named & exists[:, None] != there[:, None])).any(axis=2)
    if wrong.any():
        thread = int(np.flatnonzero(wrong)[0])
        raise Fault(f"the lanes of the mask {int(mask.reshape(-1)[thread]):#010x} are not together", thread)


def full_warps(active: np.ndarray) -> None:
    """Require that warps take part with all their lanes. Shapes:  (n,)"""
    there = active.reshape(-1, 32)
    parted = there.any(axis=1) & ~there.all(axis=1)
    if parted.any():
        thread = int(32 * np.flatnonzero(parted)[0])
        raise Fault("a matrix needs all 32 lanes of the warp, and some are elsewhere", thread)


def shuffle(block: Any, step: Instruction, active: np.ndarray) -> None:
    """shfl.sync: each lane gets a number of another lane of its segment; beyond the segment's end, its own."""
    to, value, distance, clamp, mask = step.operands
    value, distance, clamp = (whole(block, operand).astype(np.int64) for operand in (value, distance, clamp))
    check_lanes(block, whole(block, mask), active)
    segment, clamp = clamp >> 8 & 31, clamp & 31
    first, last = LANE & segment, LANE & segment | clamp & ~segment
    source = {"bfly": LANE ^ distance & 31, "up": LANE - (distance & 31), "down": LANE + (distance & 31),
              "idx": first | distance & ~segment & 31}[step.words[2]]
    inside = source >= last if step.words[2] == "up" else source <= last
    source = np.where(inside, source, LANE)
    there = active.reshape(-1, 32)
    absent = there & ~np.take_along_axis(there, source, axis=1)
    if absent.any():
        raise Fault("a shuffle reads from a lane that is not there", int(np.flatnonzero(absent)[0]))
    name, _, predicate = to.partition("|")
    block.write(name, np.take_along_axis(value, source, axis=1).astype(np.uint32).reshape(-1), active)
    if predicate:
        block.write(predicate, inside.reshape(-1), active)


def vote(block: Any, step: Instruction, active: np.ndarray) -> None:
    """vote.sync: what a predicate is in the lanes, as bits, or whether it holds in any or all."""
    to, predicate, mask = step.operands
    check_lanes(block, whole(block, mask), active)
    there = active.reshape(-1, 32)
    holds = whole(block, predicate, np.dtype(bool))
    if step.words[2] == "ballot":
        result = ((holds & there) << LANE).sum(axis=1).astype(np.uint32)
    else:
        result = (holds & there).any(axis=1) if step.words[2] == "any" else (holds | ~there).all(axis=1)
    block.write(to, np.repeat(result, 32), active)


def meet(block: Any, step: Instruction, active: np.ndarray) -> None:
    """bar.warp.sync: the lanes of the mask wait for each other. Threads that are least far go first: they are here."""
    check_lanes(block, whole(block, step.operands[0]), active)


def load_matrices(block: Any, step: Instruction, active: np.ndarray) -> None:
    """ldmatrix: 8 x 8 matrices of 16-bit numbers; lane 8 m + r points at row r of matrix m.

    A lane gets two neighbours of each, those at (ROW, COLUMN) of the matrix or of its transpose, in one register.
    """
    full_warps(active)
    names, pointers = parts(step.operands[0]), block.address(step.operands[1]).reshape(-1, 32) + SHARED
    points = active & (block.threads % 32 < 8 * len(names))
    block.memory.check(pointers.reshape(-1)[points], block.threads[points], 16)
    for m, name in enumerate(names):
        pair = []
        for n in (0, 1):
            row, column = (COLUMN + n, ROW) if "trans" in step.words else (ROW, COLUMN + n)
            place = pointers[:, 8 * m + row] + 2 * column
            pair.append(block.memory.load(place.reshape(-1), active, HALF).astype(np.uint32))
        block.write(name, pair[0] | pair[1] << np.uint32(16), active)


def multiply_matrices(block: Any, step: Instruction, active: np.ndarray) -> None:
    """mma.m16n8k16: D (16, 8) = A (16, 16) B (16, 8) + C, of bfloat16, added in float32, spread over a warp.

    The manual leaves the order and the rounding of the sum open; here it is added in float64 and rounded once.
    """
    full_warps(active)
    to, left, right, plus = step.operands
    a, b, c = (np.zeros((len(active) // 32, rows, columns)) for rows, columns in ((16, 16), (16, 8), (16, 8)))
    for n, name in enumerate(left):
        word, row, column = whole(block, name), ROW + n % 2 * 8, COLUMN + n // 2 * 8
        a[:, row, column], a[:, row, column + 1] = from_bfloat16(word & 0xFFFF), from_bfloat16(word >> 16)
    for n, name in enumerate(right):
        word, row = whole(block, name), COLUMN + n * 8
        b[:, row, ROW], b[:, row + 1, ROW] = from_bfloat16(word & 0xFFFF), from_bfloat16(word >> 16)
    for n, name in enumerate(plus):
        c[:, ROW + n // 2 * 8, COLUMN + n % 2] = whole(block, name, NUMBER)
    product = (a @ b + c).astype(np.float32)
    for n, name in enumerate(to):
        block.write(name, product[:, ROW + n // 2 * 8, COLUMN + n % 2].reshape(-1), active)
