"""Predictions before the first GPU: what they come from is counted right, the model is as it says, the record stays."""

import hashlib
import json

import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler
from oracles import ROOT
from ptx_case import needs_nvrtc

from kernels.cases import operations
from kernels.nvrtc import cubin
from kernels.predict import __main__ as command
from kernels.predict import evidence, model, sass
from tiny.config import TinyError
from tutorial.pages import emulator_record, predictions

ROWS = command.read_record()
FIRST = 39  # rows when the record began; and what they were, by SHA-256
WERE = "83b488fd081044777d7fd9dcff6a59c09f63838424c72e09fffee66996ab79ea"


def find(operation: str, shape: str) -> dict:
    """The last row of an operation's shape."""
    return next(row for row in reversed(ROWS) if (row["operation"], row["shape"]) == (operation, shape))


# ---- the record

def test_rows_of_the_record_never_change():
    """Those that were there when the record began; later ones stay by the next test."""
    assert hashlib.sha256(json.dumps(ROWS[:FIRST]).encode()).hexdigest() == WERE


def test_the_model_of_a_version_stays_as_it_is():
    """From its evidence each row follows again: another model needs another version, and new rows."""
    for row in ROWS:
        if row["model"] == model.VERSION:
            again = model.predict(row["operation"], row["launches"], row["bytes"])
            assert again == {name: row[name] for name in again}, (row["operation"], row["shape"])


def test_every_kernel_in_use_has_a_prediction():
    known = {(row["operation"], row["version"], row["shape"]) for row in ROWS if row["model"] == model.VERSION}
    assert not predictions.current() - known, "run python -m kernels.predict, then make pages"


def test_a_prediction_is_no_less_than_what_an_h100_needs():
    for row in ROWS:
        least = predictions.least_time(row["operation"], row["bytes"], row["flop"])[0]
        assert least < row["low_us"] < row["high_us"], (row["operation"], row["shape"])


# ---- the model

LAUNCH = {"grid": [1, 1792], "block": [256], "registers": 40, "static_shared": 0, "dynamic_shared": 0, "sectors": 10**7,
          "sectors_of_blocks": 10**7, "bank_cycles": 0, "instructions": 0, "matrix": 0, "sass": {"in_flight": 64}}


def same(found: float, expected: float, room: float = 1e-9) -> None:
    assert_close(np.array(found), np.array(expected), atol=room, name="time")


def test_memory_binds_a_kernel_that_reads():
    """320 MB at 3.24 TB/s, for the busiest of 132 multiprocessors, which has 14 of 1,792 blocks; and its launch."""
    found = model.predict("experts", [LAUNCH], 320_000_000)
    expected = 320e6 / 3.24e12 * 1e6 * 14 * 132 / 1792 + 2
    same(found["low_us"], expected, 0.01)
    same(found["high_us"], expected * 3.24 / 2.55, 0.01)
    assert (found["bound"], found["anchor"]) == ("memory", "reads")


def test_too_few_bytes_under_way_take_longer():
    """One block of 8 warps, 512 bytes each, is 4 KB of the 20 that are needed; of a copy half of these."""
    few = LAUNCH | {"grid": [132, 1], "sass": {"in_flight": 16}}
    enough = few | {"sass": {"in_flight": 80}}
    slow, fast = (model.terms(launch, 320e6, False, "sectors")["memory"] for launch in (few, enough))
    same(slow / fast, 20_000 / 4096)
    same(1e6 * fast, 320 / 3.24)
    same(1e6 * model.terms(few, 320e6, True, "sectors")["memory"], 320 / 3.0 * 10_000 / 4096)
    assert round(model.under_way(enough, 160e6, "sectors")) == 10_240, "half of the sectors come from a cache"


@pytest.mark.parametrize(("name", "count", "seconds"), [
    ("bank_cycles", 132 * 1830, 1e-6), ("instructions", 4 * 132 * 1830, 1e-6), ("sectors", 171_875, 1e-6),
    ("matrix", 10**6, 4096e6 / (0.629 * 989e12))])
def test_other_bounds(name, count, seconds):
    launch = LAUNCH | {"grid": [1320], name: count}
    key = {"bank_cycles": "shared memory", "sectors": "L2 cache", "matrix": "tensor cores"}.get(name, name)
    same(1e6 * model.terms(launch, 0, False, "sectors")[key], 1e6 * seconds)
    assert model.kind_of("experts", [launch]) == ("tensor cores" if name == "matrix" else "reads")


@pytest.mark.parametrize(("change", "blocks"), [
    ({}, 6), ({"registers": 41}, 5), ({"registers": 32}, 8), ({"block": [1024], "registers": 32}, 2),
    ({"block": [32], "registers": 16}, 32), ({"dynamic_shared": 99 << 10}, 2), ({"static_shared": 75 << 10}, 3)])
def test_blocks_of_a_multiprocessor(change, blocks):
    """NVIDIA's table for compute capability 9.0: 65,536 registers, 64 warps, 32 blocks, 228 KB less 1 for each."""
    assert evidence.resident_blocks(LAUNCH | change) == blocks


# ---- what it comes from

def counted(operation, sizes: dict) -> tuple[int, int]:
    """Sectors and bank cycles of a call as the interpreter of PTX counts them, in every block."""
    launches = evidence.gather(operation, sizes, command.in_use(operation))
    return tuple(sum(launch[name] for launch in launches) for name in ("sectors", "bank_cycles"))


# The share by which the compiled code asks for something else than the source: the parts of 16 bytes together, or
# nothing for a copy of no bytes.
OTHERWISE = {"rms_norm": 0, "add_rms_norm": 0, "rope": 0, "rope_into_cache": 0, "linear": 0, "linear_int8": 0,
             "linear_epilogue": 0, "group_by_expert": 0, "attention": 0.01, "attention_decode": 0.16, "route": 0.01}


@needs_nvrtc
@needs_compiler
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("rms_norm", "group_by_expert") else pytest.mark.thorough)
    for name in OTHERWISE])
def test_two_programs_count_the_same_requests(name, monkeypatch):
    """The emulator's profile of the source, and the interpreter's count of what NVRTC made of it."""
    operation = next(operation for operation in operations() if operation.name == name)
    monkeypatch.setattr(evidence, "ALL", 10**9)
    monkeypatch.setattr(evidence, "compiled", lambda *of: {})
    found = counted(operation, emulator_record.PROFILED[name])
    sums = {"global": 0, "shared": 0}
    for row in emulator_record.profile(operation, command.in_use(operation)):
        sums[row.memory] += row.work
    for ours, theirs in zip(found, sums.values(), strict=True):
        assert abs(ours - theirs) <= OTHERWISE[name] * theirs, (found, sums)


@needs_nvrtc
def test_some_blocks_stand_for_all(monkeypatch):
    """Rows are alike, so five blocks of 60 count what 60 do; a prediction is for another number of them."""
    monkeypatch.setattr(evidence, "compiled", lambda *of: {})
    operation = next(operation for operation in operations() if operation.name == "rms_norm")
    some = counted(operation, {"T": 60, "D": 512})
    monkeypatch.setattr(evidence, "ALL", 60)
    assert counted(operation, {"T": 60, "D": 512}) == some
    assert len(evidence.some_blocks((512, 1, 8))) == 5 and len(evidence.some_blocks((5, 4, 3))) == 60
    for axis, size in enumerate((512, 90, 30)):
        mean = np.mean([block[axis] for block in evidence.some_blocks((512, 90, 30))])
        assert abs(mean - (size - 1) / 2) <= 0.5, "what grows along an axis is neither favoured nor left out"


CODE = """
//--------------------- .text.twice        --------------------------
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0030*/                   LD.E.U16 R12, desc[UR4][R2.64+0x20] ;
        /*0040*/                   FADD R0, R11, 1 ;
        /*0050*/                   LDG.E.64 R14, desc[UR4][R2.64] ;
        /*0060*/              @!P0 BRA `(.L_x_1) ;
        /*0070*/                   HMMA.16816.F32.BF16 R20, R4, R14, R20 ;
        /*0080*/                   EXIT ;
.L_x_1:
        /*0090*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64] ;
        /*00a0*/                   LDGDEPBAR ;
        /*00b0*/                   LDGSTS.E.BYPASS.128 [R3+0x10], desc[UR4][R2.64] ;
        /*00c0*/                   LDGDEPBAR ;
        /*00d0*/                   DEPBAR.LE SB0, 0x1 ;
        /*00e0*/                   LDGSTS.E.128 [R3+0x20], desc[UR4][R2.64] ;
        /*00f0*/                   EXIT ;
        /*0100*/                   NOP;
"""


def test_loads_and_bytes_under_way_are_read_from_the_code_of_a_gpu(tmp_path, monkeypatch):
    """34 bytes are asked for; the sum needs the second load, so the first has come too, and 2 + 8 are left."""
    monkeypatch.setattr(sass, "find_nvdisasm", lambda: "/bin/cat")
    monkeypatch.setattr(sass.subprocess, "run", lambda *args, **options: type("Done", (), {
        "returncode": 0, "stdout": CODE, "stderr": ""}))
    code = sass.disassemble(tmp_path / "twice.cubin")["twice"]
    assert sass.summary(code) == {"instructions": 16, "loads": {"16": 5, "2": 1, "8": 1}, "constant": 1, "generic": 1,
                                  "matrix": 1, "in_flight": 34}
    assert sass.in_flight(code[9:]) == 32, "the first of three copies has come when the third begins"


def found_nvdisasm() -> bool:
    try:
        return bool(sass.find_nvdisasm())
    except TinyError:
        return False


@needs_nvrtc
@pytest.mark.skipif(not found_nvdisasm(), reason="nvdisasm is not here: pip install nvidia-cuda-nvdisasm, or NVDISASM.")
def test_the_code_of_an_h100():
    """Weights of `linear` pass by the coherent cache, 16 bytes a lane; attention has products of matrices."""
    types = ("STORE=__nv_bfloat16", "WEIGHT=__nv_bfloat16")
    linear = sass.summary(sass.disassemble(cubin(ROOT / "kernels/linear.cu", 90, types))["linear_v3"])
    assert linear["constant"] >= 8 and not linear["generic"] and set(linear["loads"]) >= {"16"}
    attention = sass.disassemble(cubin(ROOT / "kernels/attention.cu", 90, types))["attention_v3"]
    assert sass.summary(attention)["matrix"] > 100 and not any(opcode.startswith("LDL") for opcode, _ in attention)


def test_without_a_disassembler_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("NVDISASM", raising=False)
    monkeypatch.setattr(sass, "roots", lambda: [])
    with pytest.raises(TinyError, match="nvdisasm is not on this machine") as caught:
        command.main([])
    assert "pip install nvidia-cuda-nvdisasm" in caught.value.remedy
    monkeypatch.setenv("NVDISASM", str(tmp_path / "absent"))
    with pytest.raises(TinyError, match="absent is no program"):
        sass.find_nvdisasm()


# ---- the command and the page

def test_the_command_adds_rows_and_changes_none(tmp_path, monkeypatch, capsys):
    row = find("rms_norm", "Mixtral, 1 token")
    monkeypatch.setattr(command, "find_nvdisasm", lambda: "nvdisasm")
    monkeypatch.setattr(command, "code_of", lambda operation, sizes, version: str(sizes))
    monkeypatch.setattr(command, "row_of", lambda operation, shape, code: row | {"shape": shape, "code": code})
    path = tmp_path / "predictions.json"
    assert command.main(["rms_norm", "--record", str(path)]) == 0
    first = command.read_record(path)
    assert [row["shape"] for row in first] == list(operations()[0].published)
    assert command.main(["rms_norm", "rope_into_cache", "--record", str(path)]) == 0
    assert command.read_record(path)[: len(first)] == first and len(command.read_record(path)) == len(first) + 1
    assert "1 predictions added" in capsys.readouterr().out


def test_measured_stands_beside_predicted(tmp_path, monkeypatch):
    """With a made-up measurement: the middle of one range, and three times that of another."""
    rows = [find("rms_norm", "Mixtral, 1 token"), find("experts", "Mixtral, 1 token")]
    table = [{name: row[name] for name in ("operation", "version", "shape")}
             | {"us": factor * (row["low_us"] + row["high_us"]) / 2} for row, factor in zip(rows, (1, 3))]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"table": table}))
    assert "not yet run" in predictions.floors_table() or predictions.MEASURED.exists()
    monkeypatch.setattr(predictions, "MEASURED", path)
    monkeypatch.setattr(predictions, "predictions", lambda: {tuple(row[name] for name in (
        "operation", "version", "shape")): row for row in rows})
    text = predictions.floors_table()
    assert text.count("| 1.00 |") == 1 and text.count("| 3.00 |") == 1
    assert text.endswith("the median of 2 rows is 2.00, the worst 3.00.")
