"""From the text of a PTX module to one kernel: its parameters, registers, shared memory, and a list of instructions.

PTX is a text: `@!%p1 add.s32 %r3, %r1, 7;` is an opcode whose last word is the type, operands with the destination
first, and perhaps a predicate that guards it. `.loc FILE LINE` says from which line of the source the next ones come.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kernels.ptx.numbers import TYPES
from tiny.config import TinyError

ENTRY = r"\.entry\s+{}\s*\((.*?)\)([^{{}}]*)\n\{{(.*?)\n\}}"
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(\[\d*\])?")
PLACE = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")
LABEL = re.compile(r"\s*([$\w]+):\s*")
GUARD = re.compile(r"@(!?)(%\w+)\s+")
ADDRESS = re.compile(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\d+))?\s*\]")
DYNAMIC = 16  # bytes: where the shared memory begins that a launch asks for


class Address(NamedTuple):
    """[base + offset]: the base is a register, a name of shared memory, or a parameter."""

    base: str
    offset: int


@dataclass
class Instruction:
    """One instruction: what it is called, its operands, and where it comes from.

    operands: names and numbers as text, an Address, or a tuple of them for { ... }
    guard: the predicate without which a thread skips it, "" if there is none; `unless` turns it round
    """

    opcode: str
    operands: list
    guard: str
    unless: bool
    line: int
    source: str
    kind: str = ""
    run: Callable[..., None] | None = None
    target: int = -1
    words: list[str] = field(init=False)
    dtype: Any = field(init=False)

    def __post_init__(self):
        self.words = self.opcode.split(".")
        self.dtype = TYPES.get(self.words[-1], np.dtype(np.uint32))


@dataclass
class Kernel:
    """One kernel, ready to run: registers and shared memory by name, and its code."""

    name: str
    parameters: list[str]
    registers: dict[str, np.dtype]
    shared: dict[str, int]
    shared_bytes: int
    code: list[Instruction]


def read_kernel(text: str, name: str, lookup: Callable[[Instruction], tuple[str, Callable | None]]) -> Kernel:
    """Find a kernel in the text of a module; `lookup` gives each instruction its kind and what it does.

    Raises:  TinyError if there is no such kernel, or for an instruction that the interpreter does not have
    """
    bare = re.sub(r"//[^\n]*", "", text)
    found = re.search(ENTRY.format(re.escape(name)), bare, re.S)
    if not found:
        known = ", ".join(re.findall(r"\.entry (\w+)", bare))
        raise TinyError(f"The PTX has no kernel {name}.", f"It has {known or 'none'}; name one of them.")
    files = {number: Path(path).name for number, path in re.findall(r'\.file\s+(\d+)\s+"([^"]+)"', text)}
    before, body = bare[: bare.find(".entry")], found[3]
    shared, size = shared_places(before + body)
    parameters = [part.split()[-1] for part in found[1].split(",") if part.strip()]  # .param .u64 .ptr .align 1 NAME
    kernel = Kernel(name, parameters, {}, shared, size, [])
    labels: dict[str, int] = {}
    for line, source, statement in statements(body, bare[: found.start(3)].count("\n") + 1):
        while label := LABEL.match(statement):
            labels[label[1]] = len(kernel.code)
            statement = statement[label.end():].lstrip(" \t{}")
        number, _, place = source.partition(":")
        source = f"{files.get(number, name)}:{place}" if place else name
        if statement.startswith("."):
            declare(kernel, statement, line)
        elif statement:
            instruction = read_instruction(statement, line, source)
            instruction.kind, instruction.run = lookup(instruction)
            kernel.code.append(instruction)
    for instruction in kernel.code:
        if instruction.words[0] == "bra":
            instruction.target = labels[instruction.operands[0]]
    return kernel


def statements(body: str, first: int) -> list[tuple[int, str, str]]:
    """The statements of a body, each with its line of PTX and, from `.loc`, "FILE:LINE" of the source."""
    found, pending, source = [], "", ""
    for number, line in enumerate(body.split("\n"), first):
        if place := PLACE.match(line):
            source = f"{place[1]}:{place[2]}"
            continue
        *whole, pending = f"{pending} {line}".split(";")
        # Braces at the front open and close scopes; those of operands come later.
        found += [(number, source, statement.lstrip(" \t{}")) for statement in whole]
    return found


def shared_places(text: str) -> tuple[dict[str, int], int]:
    """Where each array of shared memory begins, and the bytes of those whose size is known.

    The arrays without a size are those that a launch asks for: all of them begin behind the others.
    """
    places, end, asked = {}, 0, []
    for align, kind, name, count in SHARED.findall(text):
        if count == "[]":
            asked.append(name)
        else:
            places[name] = -(-end // int(align)) * int(align)
            end = places[name] + TYPES[kind].itemsize * int(count.strip("[]") or 1)
    end = -(-end // DYNAMIC) * DYNAMIC
    return {**places, **dict.fromkeys(asked, end)}, end


def declare(kernel: Kernel, statement: str, line: int) -> None:
    """Take up a directive: registers, one by one or numbered. Shared memory has been placed; hints do not matter."""
    word, *rest = statement.split(None, 2)
    if word == ".reg":
        dtype = TYPES[rest[0][1:]]
        bits = dtype if dtype.kind == "b" else np.dtype(f"u{dtype.itemsize}")
        for name in rest[1].split(","):
            stem, _, count = name.strip().rstrip(">").partition("<")
            names = [f"{stem}{n}" for n in range(int(count))] if count else [stem]
            kernel.registers.update(dict.fromkeys(names, bits))
    elif word not in (".shared", ".pragma"):
        raise TinyError(f"{kernel.name}, line {line} of the PTX: the interpreter does not know {word}.",
                        "Write the kernel without it, or add it to kernels/ptx.")


def read_instruction(statement: str, line: int, source: str) -> Instruction:
    """One instruction from its text.

    >>> read_instruction("@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+-8]", 1, "").operands
    [('%f1', '%f2'), Address(base='%rd1', offset=-8)]
    """
    guard = GUARD.match(statement)
    opcode, *rest = statement[guard.end() if guard else 0:].split(None, 1)
    parts = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]]+", "".join(rest))
    return Instruction(opcode, [read_operand(part) for part in parts], guard[2] if guard else "",
                       bool(guard and guard[1]), line, source)


def read_operand(text: str) -> str | Address | tuple:
    """One operand: a name or number, an address, or several in braces."""
    if text[0] == "{":
        return tuple(part.strip() for part in text[1:-1].split(","))
    if address := ADDRESS.fullmatch(text):
        return Address(address[1], int(address[2] or 0))
    return text


def parts(operand: Any) -> tuple:
    """The registers of a vector, or the one."""
    return operand if isinstance(operand, tuple) else (operand,)
