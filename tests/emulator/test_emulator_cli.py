"""`python -m kernels.emulator`: values of arguments, reports, exit statuses, and every bad use in two lines."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler
from oracles import ROOT

from kernels.emulator import listing
from kernels.emulator.__main__ import main
from kernels.emulator.values import DTYPES, read_value, read_values
from tiny.config import TinyError

SOURCE = r"""#include <cuda_bf16.h>
#ifndef FACTOR
#define FACTOR 2.0f
#endif
extern "C" __global__ void saxpy(const float* x, float* y, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
extern "C" __global__ void overrun(const float* x, float* y) {
  int i = threadIdx.x;
  y[i] = x[i];
  y[i] = x[i + 1];
}
extern "C" __global__ void widen(const __nv_bfloat16* x, float* y) {
  y[threadIdx.x] = __bfloat162float(x[threadIdx.x]);
}
extern "C" __global__ void narrow(const float* x, __nv_bfloat16* y) {
  y[threadIdx.x] = __float2bfloat16(x[threadIdx.x]);
}
extern "C" __global__ void rows(const float* const* x, float* y) {
  y[threadIdx.x] = x[0][threadIdx.x] + x[1][threadIdx.x];
}
extern "C" __global__ void wild(float* y) { *reinterpret_cast<float*>(threadIdx.x + 8ull) = y[0]; }
extern "C" __global__ void waits_for_ever(const int* flag, int* y) {
  while (*reinterpret_cast<const volatile int*>(flag) == 0) { }
  y[0] = 1;
}
extern "C" __global__ void columns(const float* x, float* y) {
  extern __shared__ float tile[];
  int t = threadIdx.x;
  tile[32 * t] = x[32 * t];
  __syncthreads();
  y[t] = FACTOR * tile[32 * t];
}
template <class T> __global__ void scale(T* x, T by) { x[threadIdx.x] *= by; }
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.cu"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def line_of(text: str) -> int:
    return SOURCE.splitlines().index(next(line for line in SOURCE.splitlines() if text in line)) + 1


def call(capfd, *argv) -> tuple[int, str, str]:
    status = main([str(a) for a in argv])
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err, err
    return status, out, err


def fails(capfd, *argv, says: str) -> str:
    """A use that must fail: status 2, nothing on standard output, a line of cause and one of remedy."""
    status, out, err = call(capfd, *argv)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (status, out) == (2, ""), (status, out, err)
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("remedy: "), err
    assert says in lines[0] and len(lines[1]) > 20, err
    return lines[1]


# ---- values

def test_fills():
    (zeros, ones, count, seven, half), unwritten = read_values(
        ["float32[2,3]:zeros", "uint8[4]:ones", "int64[2,2]:arange", "float16[3]:7", "bfloat16[5]:arange"], seed=0)
    assert zeros.shape == (2, 3) and not zeros.any() and ones.tolist() == [1] * 4 and unwritten == []
    assert count.tolist() == [[0, 1], [2, 3]] and seven.tolist() == [7] * 3 and half.tolist() == [0, 1, 2, 3, 4]
    for value, name in ((zeros, "float32"), (ones, "uint8"), (count, "int64"), (seven, "float16"), (half, "bfloat16")):
        assert value.dtype == DTYPES[name] and value.flags.c_contiguous


def test_random_values_follow_the_seed_and_the_place():
    texts = ["float32[1000]:random", "float32[1000]:random", "bfloat16[1000]:random", "int32[1000]:random",
             "bool[100]:random"]
    first, again, other = (read_values(texts, seed=seed)[0] for seed in (3, 3, 4))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again))
    assert first[0].tobytes() != first[1].tobytes() != other[1].tobytes()
    assert abs(first[0].mean()) < 0.1 and abs(first[0].std() - 1) < 0.1 and abs(first[2].astype(float).std() - 1) < 0.1
    assert 0 == first[3].min() < first[3].max() == 99 and set(first[4].tolist()) == {False, True}


def test_empty_is_poisoned_and_counts_as_unwritten():
    values, unwritten = read_values(["float32[4]:zeros", "float32[4]:empty", "int32[4]:empty",
                                     "float32[2]:empty+float32[3]:empty"], seed=0)
    assert unwritten == [1, 2, 3] and np.isnan(values[1]).all() and values[2].min() > 1 << 29
    assert [part.shape for part in values[3]] == [(2,), (3,)]


def test_scalars():
    values, _ = read_values(["int32:-7", "float32:0.5", "uint64:0x10", "bool:1", "float32:nan", "bfloat16:3"], seed=0)
    assert [type(value) for value in values[:4]] == [np.int32, np.float32, np.uint64, np.bool_]
    assert values[:4] == [-7, 0.5, 16, True] and np.isnan(values[4]) and values[5] == 3


@pytest.mark.parametrize("text, says", [
    ("float32", "not a type"), ("float32[4]", "not a type"), ("float33[4]:zeros", "no type"), ("", "not a type"),
    ("float32[4]:fives", "neither"), ("int32:0.5", "neither"), ("int32:random", "needs a number"),
    ("uint8:256", "does not fit"), ("int32:-3000000000", "does not fit"), ("float32[x]:zeros", "not a type"),
    ("float32[-4]:zeros", "not a type"), ("float32[4]:", "not a type"), ("float64[20000,20000]:zeros", "limit"),
    ("float32[4]:zeros+int32:3", "arrays only"), ("float32[2]:empty+float32[2]:ones", "empty and another"),
    ("nowhere.npy", "No such file")])
def test_bad_values(text, says):
    with pytest.raises(TinyError, match=says) as caught:
        read_values([text], seed=0)
    assert caught.value.remedy


def test_sizes_are_limited_together(monkeypatch):
    monkeypatch.setattr("kernels.emulator.values.LARGEST", 1000)
    half = "uint8[501]:zeros"
    assert len(read_values([half], seed=0)[0]) == 1
    with pytest.raises(TinyError, match="limit"):
        read_values([half, half], seed=0)


def test_stored_arrays(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for name, stored in (("plain", array), ("fortran", np.asfortranarray(array)), ("big", array.astype(">f4"))):
        np.save(tmp_path / f"{name}.npy", stored)
        read = read_value(str(tmp_path / f"{name}.npy"), np.random.default_rng(0))
        assert read.dtype == np.float32 and read.dtype.isnative and read.flags.c_contiguous and read.flags.writeable
        assert_close(read, array, atol=0.0, name=name)
    np.save(tmp_path / "bf16.npy", array.astype(ml_dtypes.bfloat16))
    assert read_value(str(tmp_path / "bf16.npy"), np.random.default_rng(0)).dtype == ml_dtypes.bfloat16
    np.save(tmp_path / "scalar.npy", np.int32(7))
    assert type(read_value(str(tmp_path / "scalar.npy"), np.random.default_rng(0))) is np.int32


def test_damaged_and_hostile_files(tmp_path):
    """Nothing is unpickled, and a header that promises more than the file holds allocates nothing."""
    class Loud:
        def __reduce__(self):
            return (pytest.fail, ("It was unpickled.",))
    np.save(tmp_path / "pickle.npy", np.array([Loud()], object), allow_pickle=True)
    whole = io.BytesIO()
    np.save(whole, np.zeros(100, np.float32))
    (tmp_path / "short.npy").write_bytes(whole.getvalue()[:-50])
    (tmp_path / "huge.npy").write_bytes(whole.getvalue().replace(b"(100,), ", b"(10**9,)"))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }"
    (tmp_path / "wide.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    np.savez(tmp_path / "zip.npz", a=np.zeros(3, np.float32))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.save(tmp_path / "complex.npy", np.zeros(3, np.complex64))
    (tmp_path / "none.npy").write_bytes(b"")
    (tmp_path / "folder.npy").mkdir()
    for path in sorted(tmp_path.glob("*.npy")):
        with pytest.raises(TinyError) as caught:
            read_value(str(path), np.random.default_rng(0))
        assert path.name in caught.value.cause and caught.value.remedy


# ---- runs

@needs_compiler
def test_plain_run(study, capfd, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100, dtype=np.float32))
    status, out, err = call(capfd, study, "--kernel", "saxpy", "--grid", "2", "--block", "64",
                            "--arg", tmp_path / "x.npy", "--arg", "float32[100]:ones", "--arg", "float32:0.5",
                            "--arg", "int32:100", "--order", "random:7", "--save", tmp_path / "out.npz")
    assert (status, err) == (0, "")
    kept = np.load(tmp_path / "out.npz")
    assert sorted(kept) == ["arg0", "arg1"]
    assert_close(kept["arg1"], 1 + 0.5 * np.arange(100, dtype=np.float32), atol=0.0, name="y")
    lines = out.splitlines()
    assert lines[0].startswith("saxpy: grid 2x1x1, block 64x1x1, order random:7, ") and lines[0].endswith(" ms")
    assert lines[2].split() == ["x", "float32", "100", "0", "99", "0"]
    assert lines[3].split() == ["y", "float32", "100", "1", "50.5", "0"]


@needs_compiler
def test_check_reports_a_line_and_keeps_the_arrays(study, capfd, tmp_path):
    status, out, err = call(capfd, study, "--kernel", "overrun", "--block", "8", "--arg", "float32[8]:arange", "--arg",
                            "float32[8]:empty", "--check", "--save", tmp_path / "out.npz")
    assert (status, err) == (1, "")
    assert out.startswith(f"{study}:{line_of('x[i + 1]')}: out-of-bounds read of 4 bytes") and out.count("\n") == 1
    kept = np.load(tmp_path / "out.npz")["arg1"]
    assert kept[0] == 1 and kept[7] == 7  # thread 7 had stored x[7] before it read past the end


@needs_compiler
def test_check_without_a_report(study, capfd):
    status, out, err = call(capfd, study, "--kernel", "rows", "--block", "8", "--check", "--arg",
                            "float32[8]:ones+float32[8]:arange", "--arg", "float32[8]:empty")
    assert (status, err) == (0, "") and "checked: nothing to report" in out
    assert "x_0" in out and "x_1" in out and out.splitlines()[-1].split() == ["y", "float32", "8", "1", "8", "0"]


@needs_compiler
def test_profile(study, capfd):
    status, out, err = call(capfd, study, "--kernel", "columns", "--block", "32", "--arg", "float32[32,32]:random",
                            "--arg", "float32[32]:empty", "--smem", "4096", "--profile", "-D", "FACTOR=3.0f")
    assert (status, err) == (0, "")
    first = line_of("void columns")
    # 32 lanes read 4 bytes each from 32 sectors, where 4 would do, and write to one bank of 32.
    assert out.splitlines()[1].split() == [str(first + 3), "global", "load", "4", "1", "32", "4", "12", "%"]
    assert "global memory: 36 sectors, 22 % used; shared memory: 64 cycles, 3 % used.\n" in out
    shown = out.splitlines()[-7:]
    source = SOURCE.splitlines()[first - 1:first + 6]
    assert [line[29:] for line in shown] == [f"  {first + i:4d}  {line}" for i, line in enumerate(source)]
    assert shown[3][:29].split() == ["32", "12", "%", "32", "3", "%"] and not shown[4][:29].strip()


@needs_compiler
def test_instance_of_a_template(study, capfd):
    status, out, err = call(capfd, study, "--kernel", "scale<float>", "--block", "8", "--arg", "float32[8]:arange",
                            "--arg", "float32:2")
    assert (status, err) == (0, "") and out.splitlines()[2].split()[-3:] == ["0", "14", "0"]


@needs_compiler
def test_bfloat16(study, capfd, tmp_path):
    numbers = np.array([0.5, -2, 3, 1e30], np.float32).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "typed.npy", numbers)
    np.save(tmp_path / "bits.npy", numbers.view(np.uint16))
    for name in ("typed", "bits"):
        status, out, err = call(capfd, study, "--kernel", "widen", "--block", "4", "--arg", tmp_path / f"{name}.npy",
                                "--arg", "float32[4]:empty", "--save", tmp_path / "out.npz")
        assert status == 0 and ("uint16" in err) == (name == "bits"), err
        assert_close(np.load(tmp_path / "out.npz")["arg1"], numbers.astype(np.float32), atol=0.0, name=name)
    status, out, err = call(capfd, study, "--kernel", "narrow", "--block", "4", "--arg", "float32[4]:arange", "--arg",
                            "bfloat16[4]:empty", "--save", tmp_path / "out.npz")
    assert status == 0 and "bfloat16" in err
    assert np.load(tmp_path / "out.npz")["arg1"].view(ml_dtypes.bfloat16).tolist() == [0, 1, 2, 3]


# ---- what cannot be run

@needs_compiler
@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_wild_pointer_is_a_report(study, capfd, more):
    status, out, err = call(capfd, study, "--kernel", "wild", "--block", "1", "--arg", "float32[1]:ones", *more)
    assert (status, err) == (1, "") and out.startswith(f"{study}:{line_of('threadIdx.x + 8ull')}: ")
    assert ("out-of-bounds write" in out) == bool(more)


@pytest.mark.parametrize("more, says", [([], "--check"), (["--check"], "defect")])
def test_a_crash_is_told_in_two_lines(study, capfd, monkeypatch, more, says):
    """The emulator names the line of a bad address; what else can end a process is told too."""
    monkeypatch.setattr("kernels.emulator.__main__.run_kernel", lambda *_: os.kill(os.getpid(), signal.SIGFPE))
    remedy = fails(capfd, study, "--kernel", "saxpy", "--block", "1", *more, says="divided by zero")
    assert says in remedy


@needs_compiler
def test_a_kernel_that_never_ends_is_stopped(study, capfd):
    assert main([str(study), "--kernel", "waits_for_ever", "--block", "1", "--arg", "int32[1]:zeros", "--arg",
                 "int32[1]:zeros", "--time-limit", "0.5"]) == 1
    assert "endless loop: the kernel is still here when its time is up" in capfd.readouterr().out


@needs_compiler
@pytest.mark.parametrize("more, says", [
    (["--kernel", "saxpi"], "no kernel saxpi"), ([], "kernels"),
    (["--kernel", "saxpy", "--arg", "float32[4]:ones"], "argument"),
    (["--kernel", "narrow", "--arg", "float64[4]:ones", "--arg", "bfloat16[4]:ones"], "float64"),
    (["--kernel", "narrow", "--arg", "float32:1", "--arg", "bfloat16[4]:ones"], "array"),
    (["--kernel", "scale<nonsense>", "--arg", "float32[4]:ones", "--arg", "float32:2"], "nonsense")])
def test_bad_launches(study, capfd, more, says):
    fails(capfd, study, "--block", "4", *more, says=says)


@needs_compiler
def test_a_file_that_does_not_compile(tmp_path, capfd):
    path = tmp_path / "wrong.cu"
    path.write_text('extern "C" __global__ void f(float* y) {\n  y[0] = undeclared;\n}\n', encoding="utf-8")
    fails(capfd, path, "--kernel", "f", "--block", "1", "--arg", "float32[1]:zeros", says="wrong.cu:2")


@pytest.mark.parametrize("argv, says", [
    ("", "required"), ("nowhere.cu --block 1", "no file nowhere.cu"), ("FILE", "--block"),
    ("FILE --block 8,8,8,8", "8,8,8,8"), ("FILE --block -1", "block"), ("FILE --block eight", "eight"),
    ("FILE --block 1 --order sideways", "sideways"), ("FILE --block 1 --check --profile", "profile"),
    ("FILE --block 1 --smem some", "--smem"), ("FILE --block 1 -D 2=3", "2=3"), ("FILE --block 1 --seed -1", "--seed"),
    ("FILE --block 1 --save no/such/folder.npz", "--save"), ("FILE --block 1 --time-limit nan", "--time-limit"),
    ("FILE --block 1 --nonsense", "nonsense"), ("FILE --block 1 --arg float33[2]:ones", "float33")])
def test_bad_options(study, capfd, argv, says):
    fails(capfd, *(str(study) if a == "FILE" else a for a in argv.split()), says=says)


@pytest.mark.parametrize("sizes, says", [
    ("--block 1025", "--block 1025,1,1"), ("--block 32,33", "--block"), ("--block 1,1,65", "--block"),
    ("--block 0", "--block"), ("--block 1 --grid 1,70000", "--grid"), ("--block 1 --grid 0", "--grid"),
    ("--block 1 --smem -1", "--smem"), ("--block 1 --smem 300000", "--smem")])
def test_launches_beyond_the_limits(study, capfd, sizes, says):
    fails(capfd, study, "--kernel", "overrun", *sizes.split(), says=says)


@needs_compiler
def test_as_a_program(study):
    """The same through a shell: streams and statuses are those of a process."""
    command = [sys.executable, "-m", "kernels.emulator", study, "--block", "8", "--arg", "float32[8]:ones", "--arg",
               "float32[8]:ones", "--kernel"]
    good = subprocess.run([*command, "overrun", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert good.returncode == 1 and good.stdout.startswith(f"{study}:{line_of('x[i + 1]')}: ") and good.stderr == ""
    bad = subprocess.run([*command, "absent"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stdout == "" and bad.stderr.startswith("error: ")


# ---- the listing

def test_listing_shows_the_kernel_and_the_functions_it_called():
    source = SOURCE.splitlines()
    first = line_of("void columns")
    assert list(listing.extent(source, "columns")) == list(range(first, first + 7))
    assert list(listing.extent(source, "scale<float>")) == [len(source)]
    assert list(listing.extent(source, "absent")) == list(range(1, len(source) + 1))
    assert listing.share(1, 3) == "33 %" and listing.share(0, 0) == ""
