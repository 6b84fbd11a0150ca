"""What reads and writes memory: loads, stores, atomic operations, and copies that land later."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.ptx.memory import SHARED, Fault
from kernels.ptx.parse import Instruction, parts

WORD = np.dtype(np.uint32)


def place(block: Any, step: Instruction, operand: Any, active: np.ndarray, size: int) -> np.ndarray:
    """The checked address of an access of `size` bytes in each thread, shared ones among all addresses."""
    address = block.address(operand) + (SHARED if "shared" in step.words else 0)
    threads = np.flatnonzero(active)
    block.memory.check(address[threads], threads, size)
    return address


def load(block: Any, step: Instruction, active: np.ndarray) -> None:
    """ld: one, two or four numbers that lie side by side."""
    names, size = parts(step.operands[0]), step.dtype.itemsize
    if step.words[1] == "param":
        source = step.operands[1]
        value = np.frombuffer(block.parameters[source.base], step.dtype, 1, source.offset)
        block.write(names[0], value[0], active)
        return
    address = place(block, step, step.operands[1], active, size * len(names))
    for n, name in enumerate(names):
        block.write(name, block.memory.load(address + n * size, active, step.dtype), active)


def store(block: Any, step: Instruction, active: np.ndarray) -> None:
    """st: likewise."""
    names, size = parts(step.operands[1]), step.dtype.itemsize
    address = place(block, step, step.operands[0], active, size * len(names))
    for n, name in enumerate(names):
        block.memory.store(address + n * size, active, block.read(name, step.dtype))


CHANGE: dict[str, Callable] = {"add": lambda old, new: old + new, "min": min, "max": max, "exch": lambda old, new: new,
          "and": lambda old, new: old & new, "or": lambda old, new: old | new, "xor": lambda old, new: old ^ new}


def atomic(block: Any, step: Instruction, active: np.ndarray) -> None:
    """atom and red: read, change and write one place, thread by thread; atom also returns what was there."""
    returns = step.words[0] == "atom"
    target, *operands = step.operands[1:] if returns else step.operands
    address = place(block, step, target, active, step.dtype.itemsize)
    values = [np.broadcast_to(block.read(operand, step.dtype), active.shape) for operand in operands]
    before = np.zeros(len(active), step.dtype)
    for thread in np.flatnonzero(active):
        alone = block.threads == thread
        before[thread] = old = block.memory.load(address, alone, step.dtype)[thread]
        first, *second = (value[thread] for value in values)
        new = (second[0] if old == first else old) if second else CHANGE[step.words[-2]](old, first)  # second: cas
        block.memory.store(address, alone, np.array(new, step.dtype))
    if returns and step.operands[0] != "_":
        block.write(step.operands[0], before, active)


def begin_copy(block: Any, step: Instruction, active: np.ndarray) -> None:
    """cp.async: read now, but land in shared memory only when a thread waits for the group.

    The fourth operand says how many bytes are read; the others become zero.
    """
    to, source, size, *taken = step.operands
    size = int(size)
    take = np.broadcast_to(block.read(taken[0], WORD) if taken else np.uint32(size), active.shape)
    if (take[active] % 4).any() or (take[active] > size).any():
        raise Fault(f"{take[active].max()} of {size} bytes to copy", int(np.flatnonzero(active)[0]))
    threads = np.flatnonzero(active)
    address, target = block.address(source), block.address(to) + SHARED
    block.memory.check(target[threads], threads, size)
    block.memory.check(address[threads], threads, size)
    words = []
    for n in range(0, size, 4):
        there = active & (take > n)
        value = block.memory.load(address + n, there, WORD) if there.any() else np.uint32(0)
        words.append(np.where(there, value, np.uint32(0)))
    block.copies.append((active.copy(), block.begun.copy(), target, words))


def end_group(block: Any, step: Instruction, active: np.ndarray) -> None:
    """cp.async.commit_group: what a thread has begun since its last group is a group."""
    block.begun[active] += 1


def land(block: Any, step: Instruction, active: np.ndarray) -> None:
    """cp.async.wait_group N: all copies land but those of the thread's last N groups. wait_all: all."""
    everything = step.words[-1] == "wait_all"
    pending = 0 if everything else int(step.operands[0])
    for landing, group, address, words in block.copies:
        due = landing & active & (everything | (group < block.begun - pending))
        if due.any():
            for n, word in enumerate(words):
                block.memory.store(address + 4 * n, due, word)
            landing &= ~due
    block.copies = [copy for copy in block.copies if copy[0].any()]


def nothing(block: Any, step: Instruction, active: np.ndarray) -> None:
    """Fences and prefetches: every write is seen at once here."""
