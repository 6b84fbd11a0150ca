"""What the emulator shows of every kernel: how near it comes to NumPy, and how well its lines use memory.

    python -m tutorial.pages.emulator_record     measure again: write records/emulator.json, for kernels/README.md
"""

import functools
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from kernels.cases import BF16, BFLOAT16, STORAGES, Draw, Operation, agree, one, operations
from kernels.emulator import Module, Row
from kernels.launch import Emulator
from tiny.system.whole import write_whole
from tiny.tools.machine import machine
from tiny.tools.terminal import Parser, program

RECORD = Path(__file__).parent / "records/emulator.json"
# Published widths and few tokens: what a line does to a sector shows in one block as in a thousand.
PROFILED: dict[str, dict] = {
    "rms_norm": {"T": 2, "D": 4096}, "add_rms_norm": {"T": 2, "D": 4096}, "rope": {"T": 4, "n": 8, "d": 128},
    "rope_into_cache": {"T": 4, "H": 8, "G": 2, "d": 128}, "route": {"T": 8, "D": 4096, "E": 8, "K": 2},
    "group_by_expert": {"T": 512, "E": 8, "K": 2}, "experts": {"T": 1, "D": 512, "F": 1024, "E": 8, "K": 2},
    "experts_int8": {"T": 1, "D": 512, "F": 1024, "E": 8, "K": 2}, "feed_forward": {"T": 1, "D": 512, "F": 1024},
    "linear": {"T": 1, "D": 4096, "N": 64}, "linear_int8": {"T": 1, "D": 4096, "N": 64},
    "linear_epilogue": {"T": 1, "D": 4096, "N": 64}, "linear_prompt": {"T": 128, "D": 4096, "N": 128},
    "linear_prompt_int8": {"T": 128, "D": 4096, "N": 128}, "linear_prompt_epilogue": {"T": 128, "D": 4096, "N": 128},
    **dict.fromkeys(("grouped", "grouped_int8"), {"T": 128, "D": 256, "F": 128, "E": 2, "K": 2}),
    "grouped_dense": {"T": 128, "D": 256, "F": 128}, "attention": one(128, 4, 1, 128),
    "attention_decode": one(1, 8, 2, 128, 1024), "embed": {"T": 2, "V": 8, "D": 4096}, "splice": {"T": 16, "D": 512},
    "rope_table": {"T": 4, "d": 128}, "rope_2d_table": {"grids": ((3, 2),), "d": 64}, "advance": {"B": 16},
    "place": {"T": 64, "parts": ((0, 64, 0),)},
    "place_tiles": {"lengths": (256,), "spans": ((0, 256),), "causal": True, "queries": 8},
    "patch_embed": {"grids": ((2, 2),), "C": 3, "p": 16, "D": 64}, "adapter": {"T": 4, "hidden": 512, "D": 512},
    "sample": {"B": 1, "V": 4096, "temperature": 0.8, "top_p": 0.5}}


class Profiler(Emulator):
    """An emulator that counts what every access would cost."""

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """A kernel that is watched as it runs."""
        if (path, defines) not in self.modules:
            self.modules[path, defines] = Module(path, defines=defines, profile=True)
        return functools.partial(self.modules[path, defines].launch, kernel)

    def rows(self) -> list[Row]:
        """What was counted, by file, line and kind of access."""
        return [row for module in self.modules.values() for row in module.profile()]


def profile(operation: Operation, version: str | None) -> list[Row]:
    """The accesses of one version in bfloat16, at published widths."""
    launcher = Profiler()
    arguments = operation.make(Draw(np, BF16, BFLOAT16), **PROFILED[operation.name])
    placed = tuple([launcher.put(item) for item in argument] if isinstance(argument, list) else
                   launcher.put(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments)
    operation.call(launcher, placed, BF16, version)
    return launcher.rows()


def efficiency(rows: list[Row]) -> dict[str, float]:
    """Ideal through actual work by kind of memory."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        sums[row.memory][0] += row.ideal
        sums[row.memory][1] += row.work
    return {memory: ideal / work for memory, (ideal, work) in sums.items() if work}


def errors(operation: Operation, version: str | None) -> dict[str, float]:
    """The largest error by precision, over all small cases and storages that the version takes."""
    found: dict[str, float] = {}
    for storage in STORAGES:
        for sizes in operation.small:
            result = agree(Emulator(), operation, sizes, storage, version)
            if "error" in result:
                found[storage[0]] = max(found.get(storage[0], 0.0), result["error"])
    return found


def measure_kernels() -> dict:
    """All of it, as the record keeps it."""
    rows = [{"operation": operation.name, "version": version, "errors": errors(operation, version),
             "efficiency": efficiency(profile(operation, version))}
            for operation in operations() for version in operation.versions]
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "rows": rows}


def main() -> None:
    """Measure the kernels in the emulator."""
    parser = Parser(prog="python -m tutorial.pages.emulator_record", description=main.__doc__)
    parser.parse_args()
    write_whole(RECORD, json.dumps(measure_kernels(), indent=1) + "\n")


if __name__ == "__main__":
    program(main)
