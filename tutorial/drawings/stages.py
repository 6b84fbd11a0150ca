"""What the versions of two kernels move, counted by the emulator: `python -m tutorial.drawings.stages` counts again.

The counts are kept in tutorial/pages/records/stages.json, so that a picture needs no compiler; a test counts them too.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from kernels import attention, cases, rms_norm
from kernels.emulator import Module
from kernels.launch import Emulator
from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, program
from tutorial.source import ROOT

RECORD = ROOT / "tutorial/pages/records/stages.json"
TILE = ROOT / "tutorial/drawings/tile.cu"
VERSIONS = ("v1", "v2", "v3")
NORM, ATTENTION = {"T": 32, "D": 256}, {"T": 128, "H": 2, "G": 1, "d": 64}  # sizes: float32, and bfloat16


class Counting(Emulator):
    """The emulator with its counters on."""

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """A kernel of a module that counts."""
        if (path, defines) not in self.modules:
            self.modules[path, defines] = Module(path, defines=defines, profile=True)
        return functools.partial(self.modules[path, defines].launch, kernel)

    def counts(self) -> dict[str, int]:
        """Bytes in sectors of global memory, the requests for them, and cycles of the banks of shared memory."""
        rows = [row for module in self.modules.values() for row in module.profile()]
        far = [row for row in rows if row.memory == "global"]
        return {"bytes": 32 * sum(row.work for row in far), "requests": sum(row.requests for row in far),
                "cycles": sum(row.work for row in rows if row.memory == "shared")}


def count() -> dict[str, dict]:
    """The counts of every version, and of the tile with two strides."""
    found: dict[str, dict] = {"rms_norm": {}, "attention": {}, "tile": {}}
    T, H, G, d = ATTENTION.values()
    for version in VERSIONS:
        launcher, draw = Counting(), cases.Draw(np, "float32", cases.FLOAT)
        x, weight = launcher.put(draw.activations(*NORM.values())), launcher.put(draw.weights(NORM["D"]))
        rms_norm.rms_norm(launcher, x, weight, 1e-5, version=version)
        found["rms_norm"][version] = launcher.counts()
        launcher, draw = Counting(), cases.Draw(np, "bfloat16", cases.BFLOAT16)
        arrays = [launcher.put(draw.activations(T, n, d)) for n in (H, G, G)]
        attention.attention_prefill(launcher, *arrays, (T,), ((0, T),), True, precision="bfloat16", version=version)
        found["attention"][version] = launcher.counts()
    for stride in (32, 33):
        module = Module(TILE, defines=(f"STRIDE={stride}",), profile=True)
        module.launch("turn", (1,), (1024,), [np.arange(1024, dtype=np.float32), np.empty(1024, np.float32)])
        found["tile"][str(stride)] = sum(row.work for row in module.profile()
                                         if (row.memory, row.access) == ("shared", "load"))
    return found


def read() -> dict[str, dict]:
    """The record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    """Count, and write the record."""
    Parser(prog="python -m tutorial.drawings.stages", description="Count what kernels move.").parse_args(argv)
    text = json.dumps(count(), indent=1) + "\n"
    write_whole(RECORD, text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    program(main)
