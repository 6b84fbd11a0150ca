"""The list of all instructions: kind, form, and what it does.

A form is a pattern of the whole opcode. What matches none is refused by its name before the kernel runs, so that no
word of an opcode is ever passed over.
"""

import re
from collections.abc import Callable

import numpy as np

from kernels.ptx import access, arithmetic, numbers, warps
from kernels.ptx.parse import Instruction
from tiny.config import TinyError

INT, BITS, FLOAT = r"[su](?:16|32|64)", r"b(?:16|32|64)", r"f(?:32|64)"
ANY = rf"(?:b8|{INT}|{BITS}|u8|s8|f32|f64)"
HINTS = r"(?:\.L1::\w+|\.L2::\w+|\.ca|\.cg|\.cs|\.lu|\.wb|\.wt)*"
SCOPE = r"(?:\.weak|\.volatile|(?:\.(?:relaxed|acquire|release|acq_rel))(?:\.(?:cta|cluster|gpu|sys))?)?"


def each(kind: str, form: str, make: Callable, functions: dict[str, Callable]) -> list[tuple]:
    """One form for each of several names, which stand in the place of NAME."""
    return [(kind, form.replace("NAME", name), make(function)) for name, function in functions.items()]


# Nothing is done here by what changes the place of threads: see `Block.go`.
FORMS: list[tuple[str, str, Callable | None]] = [
    *each("float", rf"NAME(?:\.rn)?\.{FLOAT}", arithmetic.plain, {
        "add": np.add, "sub": np.subtract, "mul": np.multiply}),
    *each("float", rf"NAME\.{FLOAT}", arithmetic.plain, {"neg": np.negative, "abs": np.abs}),
    *each("float", rf"NAME\.{FLOAT}", arithmetic.plain, {
        "max": numbers.larger, "min": numbers.smaller, "copysign": lambda sign, x: np.copysign(x, sign)}),
    ("float", r"fma\.(?:r[nm]\.f32|rn\.f64)", arithmetic.fma),
    ("function", rf"div\.rn\.{FLOAT}", arithmetic.plain(np.divide)),
    *each("function", r"NAME\.rn\.f32", arithmetic.plain, {"rcp": lambda x: np.float32(1) / x, "sqrt": np.sqrt}),
    ("function", r"rcp\.approx\.ftz\.f64", arithmetic.rough_reciprocal),
    *each("function", r"NAME\.approx(?:\.ftz)?\.f32", arithmetic.approximate, {
        "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "sqrt": np.sqrt,
        "rsqrt": lambda x: 1 / np.sqrt(x), "rcp": lambda x: 1 / x, "div": np.divide}),
    ("function", r"div\.full(?:\.ftz)?\.f32", arithmetic.approximate(np.divide)),
    *each("integer", rf"NAME\.{INT}", arithmetic.plain, {
        "add": np.add, "sub": np.subtract, "max": np.maximum, "min": np.minimum, "div": numbers.quotient,
        "rem": numbers.remainder}),
    *each("integer", r"NAME\.s(?:16|32|64)", arithmetic.plain, {"neg": np.negative, "abs": np.abs}),
    *each("integer", rf"NAME\.(?:{BITS}|pred)", arithmetic.plain, {
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}),
    ("integer", rf"(?:mul|mad)\.lo\.{INT}", arithmetic.multiply),
    ("integer", r"(?:mul|mad)\.wide\.[su](?:16|32)", arithmetic.multiply),
    ("integer", r"(?:mul|mad)\.hi\.[su](?:16|32)", arithmetic.multiply),
    ("integer", rf"shl\.{BITS}", arithmetic.bits(numbers.shift_left)),
    ("integer", rf"shr\.(?:{BITS}|{INT})", arithmetic.bits(numbers.shift_right)),
    ("integer", r"bfi\.b(?:32|64)", arithmetic.plain(numbers.insert_field)),
    ("integer", r"bfe\.[su]32", arithmetic.bits(numbers.extract_field)),
    ("integer", r"popc\.b32", arithmetic.plain(lambda x: np.bitwise_count(x).astype(np.uint32))),
    ("integer", r"prmt\.b32", arithmetic.plain(numbers.permute_bytes)),
    *each("integer", r"shf\.NAME\.wrap\.b32", arithmetic.plain, {
        "l": numbers.funnel_left, "r": numbers.funnel_right}),
    ("choose", r"setp\.(?:eq|ne|lt|le|gt|ge|lo|ls|hi|hs)(?:\.(?:and|or|xor))?"
               rf"\.(?:{INT}|{BITS})", arithmetic.compare),
    ("choose", r"setp\.(?:(?:eq|ne|lt|le|gt|ge)u?|num|nan)(?:\.(?:and|or|xor))?"
               rf"\.{FLOAT}", arithmetic.compare),
    ("choose", rf"selp\.{ANY}", arithmetic.select),
    ("move", rf"mov\.(?:{ANY}|pred)", arithmetic.move),
    ("move", r"cvta(?:\.to)?\.(?:global|shared)\.u64", arithmetic.generic),
    ("move", rf"cvt\.(?:{INT}|[su]8)\.(?:{INT}|[su]8)", arithmetic.convert),
    ("move", rf"cvt\.rn\.{FLOAT}\.(?:{INT}|[su]8)", arithmetic.convert),
    ("move", rf"cvt\.r[nzmp]i\.(?:{INT}|f32)\.f32", arithmetic.convert),
    ("move", rf"cvt\.r[nzmp]i\.(?:{INT}|f64)\.f64", arithmetic.convert),
    ("move", r"cvt\.f64\.f32|cvt\.rn\.f32\.f64", arithmetic.convert),
    ("move", r"cvt\.sat\.f32\.f32", arithmetic.convert),
    ("move", r"cvt\.rn\.(?:bf16|bf16x2|f16)\.f32", arithmetic.convert),
    ("move", r"cvt\.f32\.b?f16", arithmetic.convert),
    ("load", rf"ld\.param\.{ANY}", access.load),
    ("load", rf"ld{SCOPE}(?:\.global|\.shared)?(?:\.nc)?{HINTS}(?:\.v[24])?\.{ANY}", access.load),
    ("store", rf"st{SCOPE}(?:\.global|\.shared)?{HINTS}(?:\.v[24])?\.{ANY}", access.store),
    ("atomic", rf"(?:atom|red){SCOPE}(?:\.global|\.shared)?\.(?:add|min|max|exch|cas|and|or|xor)"
               r"\.[busf](?:32|64)", access.atomic),
    ("copy", r"cp\.async\.c[ag]\.shared\.global(?:\.L2::\w+)?", access.begin_copy),
    ("copy", r"cp\.async\.commit_group", access.end_group),
    ("copy", r"cp\.async\.wait_(?:group|all)", access.land),
    ("warp", r"shfl\.sync\.(?:bfly|idx|up|down)\.b32", warps.shuffle),
    ("warp", r"vote\.sync\.(?:ballot\.b32|any\.pred|all\.pred)", warps.vote),
    ("warp", r"bar\.warp\.sync", warps.meet),
    ("load", r"ldmatrix\.sync\.aligned\.m8n8\.x[124](?:\.trans)?\.shared\.b16", warps.load_matrices),
    ("matrix", r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32", warps.multiply_matrices),
    ("barrier", r"(?:bar|barrier)\.sync(?:\.aligned)?", None),
    ("fence", r"(?:membar|fence)[.\w]*", access.nothing),
    ("fence", r"prefetch[.\w:]*", access.nothing),
    ("branch", r"bra(?:\.uni)?|ret(?:\.uni)?|exit", None)]
KINDS = {kind: n for n, kind in enumerate(dict.fromkeys(kind for kind, _, _ in FORMS))}


def lookup(step: Instruction) -> tuple[str, Callable | None]:
    """The kind of an instruction and what it does.

    Raises:  TinyError, by its name and line, if FORMS has no such instruction
    """
    for kind, pattern, run in FORMS:
        if re.fullmatch(pattern, step.opcode):
            return kind, run
    raise TinyError(f"The interpreter does not have the instruction {step.opcode} ({step.source}, line {step.line} of "
                    "the PTX).", "Write the kernel without it, or add it to FORMS of kernels/ptx/instructions.py.")
