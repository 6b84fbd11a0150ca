"""What ptxas made of a kernel, read from a GPU's own code (SASS): loads by width, tensor cores, bytes under way.

`nvdisasm` prints that code. It comes with a CUDA toolkit, or in the small wheel nvidia-cuda-nvdisasm, and needs no GPU.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from kernels.nvrtc import roots
from tiny.config import TinyError

SECTION = re.compile(r"^//-+ \.text\.(\w+)", re.M)
LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", re.M)
REGISTER = re.compile(r"\bR\d+\b")
PENDING = re.compile(r"DEPBAR\.LE SB\d+, (0x[0-9a-f]+)")
LEAVES = ("BRA", "EXIT", "RET")
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}  # bytes of a lane; 4 if an opcode does not say


def find_nvdisasm() -> str:
    """The program: what the variable NVDISASM names, or else on the PATH, in a wheel, or in a toolkit.

    Raises:  TinyError that says how to get it
    """
    named = os.environ.get("NVDISASM")
    places = [named] if named else [shutil.which("nvdisasm"), *(str(root / "bin/nvdisasm") for root in roots())]
    for place in places:
        if place and os.access(place, os.X_OK) and Path(place).is_file():
            return place
    raise TinyError(f"{named} is no program." if named else "The disassembler nvdisasm is not on this machine.",
                    "pip install nvidia-cuda-nvdisasm, or name the program in the variable NVDISASM.")


def disassemble(cubin: Path) -> dict[str, list[tuple[str, str]]]:
    """The instructions of every kernel of a cubin: opcode and operands. Raises TinyError if it cannot be read.

    "JUMP" stands for what always leaves: a branch, return or exit without a condition.
    """
    done = subprocess.run([find_nvdisasm(), "-c", str(cubin)], capture_output=True, text=True)
    if done.returncode:
        raise TinyError(f"nvdisasm does not read {cubin.name}: {' '.join(done.stderr.split())[:200]}",
                        "Use an nvdisasm as new as NVRTC.")
    _, *parts = SECTION.split(done.stdout)
    return {name: [("JUMP" if opcode in LEAVES and not guard else opcode, operands)
                   for guard, opcode, operands in LINE.findall(text) if opcode != "NOP"]
            for name, text in zip(parts[::2], parts[1::2])}


def width(opcode: str) -> int:
    """Bytes of one lane that a load takes."""
    return next((WIDTHS[word] for word in opcode.split(".") if word in WIDTHS), 4)


def is_load(opcode: str) -> bool:
    """Whether an instruction reads global memory, by an address of it (LDG) or any (LD), or copies from it."""
    return opcode.split(".")[0] in ("LDG", "LD", "LDGSTS")


def in_flight(code: list[tuple[str, str]]) -> int:
    """The most bytes that a lane has asked for and not waited for, at any place of the code.

    Loads come back in their order, and a thread waits at the first instruction that names a register of one. Copies to
    shared memory come back by groups. The code is taken from top to bottom, a loop once.
    """
    loads: list[tuple[int, set[str]]] = []
    groups: list[int] = [0]  # bytes of copies, by group; the last is not closed
    most = 0
    for opcode, operands in code:
        named = set(REGISTER.findall(operands))
        needed = [n for n, (_, registers) in enumerate(loads) if registers & named]
        loads = loads[needed[-1] + 1:] if needed else loads
        if opcode.startswith("LDGSTS"):
            groups[-1] += width(opcode)
        elif is_load(opcode):
            first = int(operands.split(",")[0].strip()[1:]) if REGISTER.match(operands) else 0
            loads.append((width(opcode), {f"R{first + n}" for n in range(max(1, width(opcode) // 4))}))
        elif opcode == "LDGDEPBAR":
            groups.append(0)
        elif pending := PENDING.match(f"{opcode} {operands}"):
            groups = groups[-1 - int(pending[1], 16):]
        elif opcode == "JUMP":
            loads = []
        most = max(most, sum(size for size, _ in loads) + sum(groups))
    return most


def summary(code: list[tuple[str, str]]) -> dict:
    """What the record keeps of a kernel's code.

    loads: how many by bytes of a lane; constant: those that may pass by the coherent cache; generic: those whose
    address may be of any memory; in_flight: see the function
    """
    loads = [opcode for opcode, _ in code if is_load(opcode)]
    return {"instructions": len(code), "loads": dict(sorted(Counter(str(width(opcode)) for opcode in loads).items())),
            "constant": sum("CONSTANT" in opcode for opcode in loads),
            "generic": sum(opcode.split(".")[0] == "LD" for opcode in loads),
            "matrix": sum(opcode.startswith(("HMMA", "IMMA")) for opcode, _ in code), "in_flight": in_flight(code)}
