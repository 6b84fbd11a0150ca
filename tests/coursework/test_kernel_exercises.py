"""Exercises about kernels: a hole in a .cu file, judged by the emulator, whose words the student is told."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from answers import EXERCISES, Answer, submit
from answers import RIGHT as ANSWERED
from compare import assert_close
from emulator_case import needs_compiler

from kernels.launch import Emulator
from tutorial.drawings import steps
from tutorial.grader import emulated, wall
from tutorial.grader.emulated import Emulated, Reported
from tutorial.make_coursework import carve, is_finished, is_written, same_as_book, write
from tutorial.pages import chapters
from tutorial.source import ROOT, source_of, steps_of

NORM = replace(EXERCISES["5.1"], id="11.9", title="Normalise a row", function="kernels/rms_norm.cu:rms_norm_v1",
               steps=[1, 2, 3], one_way=False)
RIGHT = """
float sum = 0.0f;
for (int i = D - 1; i >= 0; i--) sum += to_float(row[i]) * to_float(row[i]);
float root = sqrtf(sum / D + eps);
STORE* mine = out + (size_t)token * D;
for (int i = 0; i < D; i++) mine[i] = from_float<STORE>(to_float(row[i]) / root * to_float(weight[i]));
"""
DEFINES = ("STORE=float", "WEIGHT=float")


def norm(D=40):
    """The kernel on two rows, and the right answer."""
    rng = np.random.default_rng(11)
    x, weight = rng.standard_normal((2, D), np.float32), rng.standard_normal(D, np.float32)
    arguments = [x, weight, np.full((2, D), np.nan, np.float32), np.int32(2), np.int32(D), np.float32(1e-5)]
    _, _, out = emulated.run("kernels/rms_norm.cu", "rms_norm_v1", (1,), (32,), arguments, DEFINES)
    return out, x / np.sqrt((x.astype(float) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight


def submission(folder, lines):
    """A folder with one answer, in the place of the book's file."""
    write(carve([NORM], {"11.9": lines}), folder, True)
    return Emulated(NORM, folder)


def test_a_hole_in_a_kernel(tmp_path):
    text = carve([NORM])["rms_norm.cu"]
    hole = '#error "Exercise 11.9: Normalise a row (rms_norm_v1 in rms_norm.cu)."'
    assert hole in text and "// (1) mean of squares" in text and "mean /= D" not in text
    assert text.endswith((ROOT / NORM.path).read_text()[-4000:]), "the rest is the book's"
    assert not is_finished(NORM, text) and is_finished(NORM, text.replace("#error", "// #error").encode())
    write({"rms_norm.cu": text}, tmp_path, False)
    assert not is_written(NORM, tmp_path) and not same_as_book(NORM, tmp_path)
    book = (ROOT / NORM.path).read_text()
    for change, same in ((lambda text: text, True), (lambda text: text.replace("  // (1) mean of squares\n", ""), True),
                         (lambda text: text.replace("mean /= D;", "mean = mean / D;"), False)):
        write({"rms_norm.cu": change(book)}, tmp_path, True)
        assert same_as_book(NORM, tmp_path) == same and is_written(NORM, tmp_path)


def test_functions_of_a_kernel_file_are_found():
    assert set(steps_of("kernels/rms_norm.cu:rms_norm_v1")) == {1, 2, 3}
    last = source_of("kernels/rms_norm.cu:rms_norm_v1#2-3").text.splitlines()
    assert last[0].startswith("// (2)") and last[-1] == "}" and len(last) == 7
    for name, first in (("rms_norm_v3", 'extern "C" __global__ void __launch_bounds__(1024)'),
                        ("block_sum", "__device__ __forceinline__ float block_sum(float value) {")):
        text = source_of(f"kernels/rms_norm.cu:{name}").text.splitlines()
        assert text[0] == first and text[-1] == "}"
    assert "```cpp\n" in chapters.include("kernels/rms_norm.cu:block_sum")
    assert source_of("kernels/swiglu.cuh:silu").text.count("\n") == 0  # it ends in its first line
    for nothing in ("none", "sqrtf"):
        with pytest.raises(ValueError, match=f"defines no {nothing}"):
            source_of(f"kernels/rms_norm.cu:{nothing}")


@needs_compiler
@pytest.mark.parametrize("walled", [True, False])
def test_right_kernels_pass(tmp_path, walled, monkeypatch):
    """The book's, and another; behind the wall and without one, as a student's own machine may be."""
    if walled and wall.find_wall().program is None:
        pytest.skip(f"There is no wall to test here: {wall.find_wall().reason}.")
    if not walled:
        monkeypatch.setattr(emulated.wall, "find_wall", lambda: wall.Wall(None, "not wanted"))
    out, expected = norm()
    assert_close(out, expected, 1e-6, name="the book's kernel")
    one = submission(tmp_path / "mine", RIGHT)
    out, expected = norm()
    one.stop()
    assert_close(out, expected, 1e-6, name="another one")
    assert emulated.FILES == {}


@needs_compiler
@pytest.mark.parametrize("old, new, words", [
    ("i < D; i++) mine", "i <= D; i++) mine", r"rms_norm.cu:\d+: out-of-bounds"),
    ("float sum = 0.0f;", "float sum = 0.0f", r"rms_norm.cu.*expected"),
    ("i--) sum", "i) sum", r"rms_norm.cu:\d+: endless loop")])
def test_what_the_emulator_says_is_told(tmp_path, old, new, words, monkeypatch):
    monkeypatch.setattr(emulated, "SECONDS", 3)
    assert old in RIGHT
    one = submission(tmp_path / "wrong", RIGHT.replace(old, new))
    try:
        with pytest.raises(Reported, match=words) as caught:
            norm()
        assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)
    finally:
        one.stop()


@needs_compiler
def test_what_a_kernel_moves_is_counted():
    """A tile of 1,024 numbers, 8 in a sector, written by rows and read by columns: each of 32 warps meets one bank."""
    x = np.zeros(1024, np.float32)
    found = emulated.counts("tutorial/drawings/tile.cu", "turn", (1,), (1024,), [x, x], ("STRIDE=32",))
    assert found == {"global load": 128, "global store": 128, "shared store": 32, "shared load": 1024}


class Noting(Emulator):
    """The emulator, which notes what it launches."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def call(self, function, *given):
        if self.recorded is None:
            self.names.append(function.args[0])
        super().call(function, *given)


@needs_compiler
def test_what_one_more_token_costs_is_what_the_picture_shows():
    """The keys and values of a row of the cache: 2 x 4 layers x 2 heads x 32 numbers of 4 bytes, for each row."""
    record, counts = steps.read(), steps.crossings(steps.on_the_device, 64)
    assert counts == record["on the device"]["64"] == record["on the device"]["1024"] == {"up": 4, "down": 4 * 2048}
    rows = steps.CAPACITIES
    sent = [record["one by one"][str(n)]["up"] for n in rows]
    assert steps.crossings(steps.one_by_one, rows[0])["up"] == sent[0]
    assert np.diff(sent).tolist() == (2 * 4 * 2 * 32 * 4 * np.diff(rows)).tolist()
    names = []
    steps.one_more_token(steps.on_the_device(Noting(names)), 64, names.clear)
    assert names == [name for name, _ in record["launches"]]


def test_without_a_compiler_a_try_says_so(tmp_path):
    folder = submit(tmp_path / "student", Answer("11.1", "", ANSWERED["11.1"]))
    ran = subprocess.run([sys.executable, "-m", "tutorial.attempt", "11.1", "--impl", str(folder)], cwd=ROOT,
                         env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr == ""
    assert "Not tried: The emulator compiles kernels with g++" in ran.stdout


@needs_compiler
def test_a_kernel_behind_the_wall_reaches_nothing(tmp_path):
    """What it is compiled to runs where there is no network and nothing to write but a folder that goes away."""
    if wall.find_wall().program is None:
        pytest.skip(f"There is no wall to test here: {wall.find_wall().reason}.")
    (tmp_path / "secret").write_text("here")
    hostile = f'static bool tried = system("touch {tmp_path}/written; cp {tmp_path}/secret {tmp_path}/got");\n{RIGHT}'
    one = submission(tmp_path / "mine", hostile)
    try:
        norm()
    except Reported:
        pass  # It may not compile; what counts is that nothing is reached.
    finally:
        one.stop()
    assert not (tmp_path / "written").exists() and not (tmp_path / "got").exists()
