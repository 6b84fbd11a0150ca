"""Budgets of memory, line by line: what shipped kernels ask of global and shared memory, by the emulator's counters.

A line of global accesses has a budget of sectors of 32 bytes, one of shared accesses a budget of cycles of the banks:
the fewest that its bytes can take, and a ninth more.
"""

from pathlib import Path

import pytest
from emulator_case import needs_compiler

from kernels.cases import Operation, one, operations
from kernels.ops import SHIPPED
from tutorial.pages import emulator_record

pytestmark = needs_compiler
BUDGET = 0.9  # the share of the sectors, or of the cycles, that a line must use
# The widths of Mixtral 8x7B and few tokens: a sector is used or not in one block as in a thousand.
SIZES = {"rms_norm": {"T": 8, "D": 4096}, "attention": one(32, 4, 1, 128),
         "attention_decode": one(1, 8, 2, 128, 256),
         **{name: {"T": 1, "D": 512, "F": 256, "E": 8, "K": 2} for name in ("experts", "experts_int8")},
         "feed_forward": {"T": 1, "D": 512, "F": 256},
         **{name: {"T": 1, "D": 4096, "N": 32} for name in ("linear", "linear_int8", "linear_epilogue")},
         **{name: {"T": 128, "D": 128, "N": 128} for name in ("linear_prompt", "linear_prompt_int8",
                                                              "linear_prompt_epilogue")},
         **{name: {"T": 128, "D": 128, "F": 128, "E": 2, "K": 2} for name in ("grouped", "grouped_int8")},
         "grouped_dense": {"T": 128, "D": 128, "F": 128},
         "patch_embed": {"grids": ((16, 8),), "C": 3, "p": 16, "D": 128},
         "adapter": {"T": 128, "hidden": 128, "D": 128}}
# Lines of shipped kernels beyond the budget: file, source, kind of memory; the share that was measured, and why.
EXCEPTIONS = {
    ("attention.cu", "*reinterpret_cast<unsigned*>(to + c) = pack(", "global"):
        (0.50, "Four lanes write 16 bytes of a row, which the L2 cache joins; once for each tile of queries."),
    ("attention_decode.cu", "store16(row + c + e, {part[e]", "shared"):
        (0.50, "Lanes are 8 numbers apart and write 4 of them at a time; once at the end of a split."),
    ("linear.cu", "load_beside(x + (min(t, last) * D + i), part);", "global"):
        (0.50, "Beside 16 bytes of int8 a lane needs 32 of x, which it reads in halves; the L1 cache has them."),
    **{("sample.cu", line, "shared"): (share, "Into which bin a token falls is chance; those of one bin take turns.")
       for line, share in (("atomicAdd(&bins.sums", 0.34), ("atomicAdd(&bins.count", 0.52),
                           ("atomicMin(&bins.lowest", 0.52), ("atomicMax(&bins.highest", 0.52))},
    **{("sample.cu", line, "global"): (share, "The bins of a part that hold tokens stand among empty ones.")
       for line, share in (("atomicAdd(to + i", 0.48), ("atomicMin(to + i", 0.49), ("atomicMax(to + i", 0.49))},
    ("positions.cu", "spans[2 * n + 1]++;", "global"):
        (0.50, "The ends of spans stand beside their beginnings; one line of 8 bytes a sequence, once in a step."),
    ("experts.cu", "load_beside(x + i, part);", "global"):
        (0.50, "As in linear.cu, for int8."),
    ("route.cu", "order[place] = pair;", "global"):
        (0.36, "The pairs of a warp go to as many places as there are experts: that is what sorting means."),
}
# The line of each first version that wastes most: the share that was measured.
FIRST = {"rms_norm": 0.12, "rope": 0.50, "route": 0.22, "attention": 0.10, "attention_decode": 0.06, "experts": 0.08,
         "linear": 0.06, "linear_int8": 0.03, "grouped": 0.09}


@pytest.fixture(scope="module", autouse=True)
def few_tokens():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulator_record, "PROFILED", {**emulator_record.PROFILED, **SIZES})
        yield


def shipped() -> list[tuple[Operation, str | None]]:
    """Every operation with the versions in use; those that stand beside the seam's have one, or ship the last."""
    found = []
    for operation in operations():
        use = SHIPPED.get(operation.name, operation.versions[-1])
        found += [(operation, version) for version in (use.values() if isinstance(use, dict) else [use])]
    return found


def source(row: emulator_record.Row) -> str:
    return Path(row.file).read_text(encoding="utf-8").splitlines()[row.line - 1].strip()


def exception(row: emulator_record.Row) -> tuple | None:
    """The entry of EXCEPTIONS that a line of the profile has, if any."""
    return next((key for key in EXCEPTIONS
                 if (key[0], key[2]) == (Path(row.file).name, row.memory) and key[1] in source(row)), None)


def test_lines_of_shipped_kernels_keep_their_budgets():
    over, used = [], set()
    for operation, version in shipped():
        rows = emulator_record.profile(operation, version)
        assert {row.memory for row in rows} >= {"global"} and all(row.line for row in rows), operation.name
        for row in rows:
            key = exception(row)
            if row.efficiency >= BUDGET:
                continue
            if key and round(row.efficiency, 2) == EXCEPTIONS[key][0]:
                used.add(key)
            else:
                over.append(f"{operation.name} {version}, {Path(row.file).name}:{row.line}: {row.efficiency:.2f} of "
                            f"its {row.memory} {row.access}s of {row.bytes} bytes: {source(row)}")
    assert not over, "\n".join(over)
    assert used == EXCEPTIONS.keys(), f"no longer needed: {EXCEPTIONS.keys() - used}"


@pytest.mark.parametrize("name", FIRST)
def test_first_versions_are_far_beyond_them(name):
    """What the later versions cure: the same counters show it in the line that wastes most."""
    operation = next(operation for operation in operations() if operation.name == name)
    worst = max(emulator_record.profile(operation, "v1"), key=lambda row: row.work - row.ideal)
    assert worst.memory == "global" and round(worst.efficiency, 2) == FIRST[name], source(worst)
