"""Mistakes planted in our own kernels: both oracles catch each, and find nothing in the kernel as it stands.

The emulator may compare with NumPy or watch every access; the interpreter of PTX compares with NumPy, with all warps
together and with one after another. Beside them the whole of `python -m kernels.ptx`.
"""

import re
from typing import NamedTuple

import pytest
from emulator_case import needs_compiler
from oracles import ROOT
from ptx_case import COMPILERS, needs_ptx

import kernels.grouped
import kernels.linear
from kernels.cases import STORAGES, agree, operations
from kernels.emulator import Report
from kernels.launch import Emulator, find_source
from kernels.ptx import __main__ as oracle
from kernels.ptx.block import ORDERS
from kernels.ptx.interpreter import Interpreter
from kernels.ptx.oracle import Kept, tensor_cores
from tiny.config import TinyError

FLOAT, BF16 = STORAGES[0], STORAGES[2]


class Mutation(NamedTuple):
    """A mistake: the text of a file that is replaced, and the case that shows it."""

    file: str
    right: str
    wrong: str
    operation: str
    version: str | None
    storage: tuple
    small: int = 0  # which of the operation's small cases


MUTATIONS = {
    "answers of a group without their weights": Mutation(
        "grouped.cu", "scales[i] * expert_weights[pair]", "scales[i]", "grouped", "v3", BF16),
    "gate and branch of a tile change places": Mutation(
        "grouped.cu", "(row / EACH % 2 ? w3 : w1)", "(row / EACH % 2 ? w1 : w3)", "grouped", "v2", FLOAT),
    "every tile writes where the first does": Mutation(
        "linear_prompt.cu", "(size_t)(first + at) * N + row, N - row", "(size_t)at * N + row, N - row",
        "linear_prompt", "v5", BF16),
    "one number too many": Mutation("rms_norm.cu", "for (int i = 0; i < D; i++) mean +=",
                                    "for (int i = 0; i <= D; i++) mean +=", "rms_norm", "v1", FLOAT, 1),
    "no barrier before partial sums are read": Mutation(
        "rms_norm.cu", "= value;\n  __syncthreads();", "= value;", "rms_norm", "v3", FLOAT),
    "rotation the other way": Mutation("rope.cu", "= odd * c[i] + even * s[i];", "= odd * c[i] - even * s[i];", "rope",
                                       "v2", FLOAT),
    "rows of the cache by token": Mutation("rope.cu", "row = rows[token], angles", "row = token, angles",
                                           "rope_into_cache", None, BF16),
    "a query sees the key behind its own": Mutation(
        "attention.cu", "s > tile.keys - tile.count + i)", "s > tile.keys - tile.count + i + 1)", "attention", "v1",
        FLOAT),
    "sums do not shrink with a new maximum": Mutation(
        "attention.cu", "rows.sum[i] * shrink + weight;", "rows.sum[i] + weight;", "attention", "v2", FLOAT),
    "a tile is overwritten while warps read it": Mutation(
        "attention.cu", "    __syncthreads();  // the last tile has been read\n", "", "attention", "v2", FLOAT),
    "a copy is not waited for": Mutation(
        "attention.cu", "cp_async_wait<1>();  // this thread's", "cp_async_wait<2>();  // this thread's", "attention",
        "v3", BF16),
    "values are not transposed": Mutation("attention.cu", "ldmatrix_x4_trans(value,", "ldmatrix_x4(value,", "attention",
                                          "v3", BF16),
    "splits count alike": Mutation("attention_decode.cu", "sum += peak[1] * expf(peak[0] - highest);",
                                   "sum += peak[1];", "attention_decode", "v2", FLOAT, 2),
    "a key beyond the end of a split": Mutation(
        "attention_decode.cu", "i * READERS < there ? score", "i * READERS <= there ? score", "attention_decode", "v2",
        FLOAT),
    "weights of experts are not normalised": Mutation("route.cu", "expf(own - highest) / total", "expf(own - highest)",
                                                      "route", "v3", FLOAT),
    "places are read before they are there": Mutation(
        "route.cu", "offsets[EXPERTS] = offset + total;\n    }\n  }\n  __syncthreads();",
        "offsets[EXPERTS] = offset + total;\n    }\n  }", "group_by_expert", None, FLOAT),
    "answers of experts without their weights": Mutation(
        "experts.cu", "weight_of(expert_weights, pair) * scaled(answer[r], s2[last]", "scaled(answer[r], s2[last]",
        "experts", "v4", BF16),
    "the scale of the next row": Mutation(
        "swiglu.cuh", "to_float(scale[row])", "to_float(scale[row + 1 - 2 * (row & 1)])", "experts_int8", "v4", FLOAT),
    "a hidden row is written twice": Mutation("experts.cu", "threadIdx.x % 32 == 0 && first + r < F",
                                              "threadIdx.x % 32 == 0", "experts", "v3", FLOAT),
}


def says(launcher, mutation: Mutation, folder, change) -> str:
    """What a launcher finds in the case of a mutation: "" for nothing."""
    operation = next(operation for operation in operations() if operation.name == mutation.operation)
    folder.mkdir()
    try:
        found = agree(Kept(launcher, folder, change), operation, operation.small[mutation.small], mutation.storage,
                      mutation.version)
    except (TinyError, Report) as error:
        return f"{type(error).__name__}: {error}"
    assert "refused" not in found
    return "" if found["ok"] else f"differs from NumPy by {found['error']:.1e}"


def change_of(mutation: Mutation, planted: bool):
    def change(text: str) -> str:
        return text.replace(mutation.right, mutation.wrong) if planted else text

    return change


def caught(mutation: Mutation, tmp_path, planted: bool) -> tuple[list[str], list[str]]:
    """What both oracles say: the interpreter in three orders; the emulator plain and checked."""
    ours = [says(Interpreter(COMPILERS[0], order=order), mutation, tmp_path / order, change_of(mutation, planted))
            for order in ORDERS]
    emulators = [says(Emulator(check=True), mutation, tmp_path / "checked", change_of(mutation, planted))]
    if not emulators[0]:
        emulators.append(says(Emulator(), mutation, tmp_path / "plain", change_of(mutation, planted)))
    return ours, emulators


def compared(test):
    """A test that runs kernels by both, which takes a while."""
    return pytest.mark.thorough(needs_ptx(needs_compiler(test)))


def test_the_page_says_how_many_mistakes_there_are():
    """Ten were asked for; the next test requires of each that both catch it."""
    page = (ROOT / "kernels/README.md").read_text(encoding="utf-8")
    said = re.search(r"Of (\d+) mistakes that are planted in our own files, .*?both catch (\d+)\.", page, re.S)
    assert said and said.groups() == (str(len(MUTATIONS)),) * 2 and len(MUTATIONS) >= 10
    for name, mutation in MUTATIONS.items():
        text = find_source(mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.right) == 1, f"{name}: {mutation.file} no longer has this text once"


@compared
@pytest.mark.parametrize("name", MUTATIONS)
def test_both_oracles_catch_a_mistake_in_a_kernel(name, tmp_path, record_property):
    mutation = MUTATIONS[name]
    ours, emulators = caught(mutation, tmp_path, planted=True)
    record_property("interpreter", ours)
    record_property("emulator", emulators)
    assert any(ours), "the interpreter of PTX found nothing"
    assert any(emulators), "the emulator found nothing"


@compared
@pytest.mark.parametrize("order", ORDERS[1:])
def test_kernels_as_they_stand_are_numpys_in_every_order_of_warps(order):
    """The twins: of each operation the last version, its warps one after another; sums have the same order as ever."""
    launcher = Interpreter(COMPILERS[0], order=order)
    for operation in operations():
        for sizes in operation.small:
            found = agree(launcher, operation, sizes, BF16, operation.versions[-1])
            assert found["ok"] and "error" in found, f"{operation.name} {sizes}: {found}"


@compared
@pytest.mark.parametrize("name", [operation.name for operation in operations()])
def test_every_case_agrees_with_numpy_and_the_emulator(name, monkeypatch):
    """What `python -m kernels.ptx` does: every host function, version, storage and small case.

    Here for the oldest and the newest GPU by NVRTC; the command also takes those between, and nvcc.
    """
    monkeypatch.setattr(oracle, "COMPILERS", ("nvrtc",))
    monkeypatch.setattr(oracle, "ARCHS", (oracle.ARCHS[0], oracle.ARCHS[-1]))
    results = oracle.run_all((name,))
    for run, found in results["runs"].items():
        assert found["cases"] == len(results["rows"]) and found["agree"] == found["cases"], run
    for row in results["rows"]:
        assert row["equal"]["stand-in"] == 1 or tensor_cores(row), row
        assert row["equal"]["stand-in"] > 0.999, row
    versions = next(operation.versions for operation in operations() if operation.name == name)
    assert {row["version"] for row in results["rows"]} == set(versions)


@compared
@pytest.mark.parametrize(("name", "version"), [("linear_prompt", "v5"), ("linear_prompt_int8", "v5"),
                                               ("linear_prompt_epilogue", "v5"), ("grouped", "v3"),
                                               ("grouped_int8", "v3")])
def test_blocks_of_256_rows_are_numpys_as_compiled(name, version, monkeypatch):
    """The small cases of the record are too small for these blocks: here every case takes them."""
    for module in (kernels.linear, kernels.grouped):
        monkeypatch.setattr(module, "tile_rows", lambda tiles, rows: 256)
    operation = next(operation for operation in operations() if operation.name == name)
    launcher = Interpreter(COMPILERS[0])
    for sizes in operation.small:
        found = agree(launcher, operation, sizes, BF16, version)
        assert found["ok"] and "error" in found, f"{sizes}: {found}"
    assert any("TILE_ROWS=256" in defines for _, defines in launcher.texts)
