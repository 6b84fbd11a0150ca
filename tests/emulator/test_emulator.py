"""The emulator against NumPy and hand computation: the language, every mode, the sentences for bad use."""

import functools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler

from kernels.emulator import Module, Report, build
from tiny.config import TinyError

pytestmark = needs_compiler
FOLDER = Path(__file__).parent
MODES = {"plain": {}, "reverse": {"order": "reverse"}, "random": {"order": "random:7"}, "checked": {"check": True},
         "portable": {"portable": True}, "profiled": {"profile": True}}
BF16 = ml_dtypes.bfloat16
X = np.arange(64, dtype=np.float32)
N = np.arange(64, dtype=np.int32)


@functools.cache
def module(file, mode):
    return Module(FOLDER / f"{file}.cu", instances=("scale<float>", "scale<int>") if file == "language" else (),
                  **MODES[mode])


@pytest.fixture(params=MODES)
def run(request):
    """Launch one kernel in one mode, 64 threads in a block unless said otherwise."""
    def launch(kernel, *args, file="language", grid=(1,), block=(64,), shared_bytes=0):
        module(file, request.param).launch(kernel, grid, block, args, shared_bytes)
    return launch


def equal(actual, expected, name="array"):
    assert_close(actual, np.asarray(expected).astype(actual.dtype).reshape(actual.shape), atol=0.0, name=name)


def lanes(f):
    """f(lane, base of its warp) for 64 threads."""
    return np.array([f(i % 32, i // 32 * 32) for i in range(64)])


# ---- the language

def test_barriers(run):
    y = np.zeros(64, np.int32)
    run("barriers", N, y)
    equal(y, np.full(64, 6101))


def test_shuffles(run):
    y = np.zeros(9 * 64, np.float32)
    run("shuffles", X, y)
    sources = [lanes(lambda n, b: b + 5), lanes(lambda n, b: b + (n - 3 if n >= 3 else n)),
               lanes(lambda n, b: b + (n + 3 if n + 3 < 32 else n)), lanes(lambda n, b: b + (n ^ 9)),
               lanes(lambda n, b: b + n // 8 * 8 + 1), lanes(lambda n, b: b + (n + 3 if n % 8 + 3 < 8 else n)),
               lanes(lambda n, b: b + (n ^ 1)), lanes(lambda n, b: b + (n ^ 2))]
    equal(y[:512], np.concatenate(sources))
    equal(y[512:], lanes(lambda n, b: -(b + max(n - 1, 0))))


def test_votes(run):
    y = np.zeros(7 * 64, np.uint32)
    run("votes", N, y)
    y = y.reshape(7, 64)
    equal(y[0], np.full(64, 0xAAAAAAAA))
    equal(y[1], lanes(lambda n, b: (b == 0) * 2 + 1))
    equal(y[2], lanes(lambda n, b: sum(1 << m for m in range(32) if (b + m) % 3 == (b + n) % 3)))
    equal(y[3], np.full(64, 0xFFFFFFFF))
    equal(y[4], lanes(lambda n, b: sum(range(b, b + 32)) + b + 31))
    equal(y[5], lanes(lambda n, b: 0x22222222 if n % 4 == 1 else 0))
    equal(y[6], lanes(lambda n, b: 0xCCCC if n < 16 else 0xF0F00000))


def test_groups(run):
    y = np.zeros(192, np.float32)
    run("groups", X, y)
    equal(y[:64], np.repeat(X.reshape(8, 8).sum(1), 8))
    equal(y[64:128], np.arange(64) // 8 * 8 + 2 + 1000 * (np.arange(64) % 8) + 10000 * (np.arange(64) // 8))
    down = np.where(N % 8 < 7, N + 1, N)
    ballot = [sum(1 << m for m in range(8) if i // 8 * 8 + m > 5) for i in range(64)]
    equal(y[128:], down + (N // 8 * 8 + 7 > 50) + ballot)


def test_atomics(run):
    i, u = np.array([0, 0, 9, 0, 0, 0], np.int32), np.array([2**32 - 1, 0, 0, 0, 0], np.uint32)
    long, f, d = np.zeros(2, np.uint64), np.zeros(1, np.float32), np.zeros(1, np.float64)
    b, h = np.zeros(1, BF16), np.zeros(1, np.float16)
    run("atomics", i, u, long, f, d, b, h, grid=(2,))
    equal(i[[0, 1, 2, 3, 5]], [8128, -8128, -5, 127, 77])
    assert 1 <= i[4] <= 128
    equal(u, [0, 2**32 - 1, 0, 8, 2])
    equal(long, [128 << 33, 127])
    equal(np.array([f[0], d[0], b[0], h[0]], np.float64), [128, 64, 128, 128])


def test_a_lock_is_passed_on(run):
    mutex, y = np.zeros(1, np.int32), np.zeros(1, np.int32)
    run("lock", mutex, y, block=(256,))
    equal(y, [8])


def test_shared_memory_of_every_kind(run):
    y = np.zeros(128, np.float32)
    run("shared_kinds", X, N, y)
    equal(y, np.concatenate([4 * (63 - X) + 8, np.full(64, 2 * 2016)]))


def test_dynamic_shared_memory_under_several_names(run):
    y = np.zeros(64, np.float32)
    run("dynamic_names", X, y, shared_bytes=256)
    equal(y, np.full(64, 63))


def test_device_and_constant_variables(run):
    y = np.zeros(64, np.float32)
    run("variables", y)
    equal(y, np.full(64, 7))


def test_instances_of_templates(run):
    x, n = X.copy(), N.copy()
    run("scale<float>", x, np.float32(1.5))
    run("scale<int>", n, np.int32(3))
    equal(x, X * 1.5)
    equal(n, N * 3)


def test_halves(run):
    x = np.linspace(0.01, 5, 64, dtype=np.float32)
    y = np.zeros(320, np.float32)
    run("halves", x, y)
    a, b, c, d = x.astype(BF16), BF16(0.3), x.astype(np.float16), np.float16(0.3)
    f = np.float32
    equal(y[:64], ((a.astype(f) * f(b)).astype(BF16).astype(f) + a.astype(f)).astype(BF16).astype(f))
    equal(y[64:128], (c.astype(np.float64) * float(d) + c).astype(f).astype(np.float16).astype(f))
    equal(y[128:192], (a.astype(f) ** 2).astype(BF16).astype(f) + (f(b) ** 2).astype(BF16).astype(f))
    quotient = (c.astype(f) / f(d)).astype(np.float16).astype(f)
    equal(y[192:256], (a.astype(f) - f(b)).astype(BF16).astype(f) + quotient + (a < b) + (c >= d))
    equal(y[256:], a.astype(f) + np.exp(f(d)).astype(np.float16).astype(f))


def test_arithmetic(run):
    y, k = np.zeros(256, np.float32), np.zeros(128, np.int32)
    run("arithmetic", X, y, k)
    x = X.astype(np.float64)
    # Measured 2.4e-4 and 8.0e-6 on numbers up to 3969 and 258: half a unit in the last place.
    assert_close(y[:64], x * x - np.sin(x) + np.cos(x), atol=1e-3, name="fma, sin and cos")
    wanted = (x + 1) ** -0.5 + 3 * x + 1 + 2 ** (x / 64) + np.exp(-x)
    wanted += np.maximum(x, 3) + np.maximum(x, 2) + np.minimum(x, 1)
    assert_close(y[64:128], wanted, atol=1e-4, name="functions")
    assert np.isposinf(y[128:192]).all()
    equal(y[192:], 4 * X + 10)
    ints = [bin(i).count("1") + (32 - (i + 1).bit_length()) + ((i & -i).bit_length()) + 1 + round(i + 0.5) + min(i, 9)
            for i in range(64)]
    equal(k[:64], ints)
    dot = [sum((0x01020304 + i >> 8 * n) & 255 for n in range(4)) + 5 for i in range(64)]
    dot = [value - 256 * ((0x04 + i) > 127) for i, value in enumerate(dot)]
    equal(k[64:], np.array(dot) + 3)


def test_arguments_of_every_kind(run):
    tables = [X.copy(), X + 100]
    y, v, raw = np.zeros(64, np.float32), np.arange(256, dtype=np.uint32), np.arange(64, dtype=np.uint8)
    run("many_types", tables, np.int32(64), np.float64(0.5), np.uint64(3), np.bool_(True), BF16(2), v, raw, y)
    equal(y, X + 100 * (N % 2) + 0.5 + 3 + 1 + 2 + 4 * X + 3 + X)


def test_where_a_thread_is(run):
    y = np.zeros(6 * 12, np.int32)
    run("where", y, grid=(3, 1, 2), block=(2, 3, 2))
    equal(y, np.arange(6)[:, None] * 1000 + np.arange(12))


# ---- tensor cores and assembly

@pytest.mark.parametrize("kernel, m, n, dtype", [("wmma_16", 16, 16, BF16), ("wmma_32", 32, 8, np.float16),
                                                 ("wmma_8", 8, 32, BF16)])
def test_wmma(run, kernel, m, n, dtype):
    rng = np.random.default_rng(m)
    a, b = rng.standard_normal((m, 16)).astype(dtype), rng.standard_normal((n, 16)).astype(dtype)
    c = np.zeros((m, n), np.float32)
    run(kernel, a, b, c, file="tensor", block=(32,))
    # Measured 1.4e-6: sixteen float additions.
    assert_close(c, 1 + a.astype(np.float64) @ b.astype(np.float64).T, atol=6e-6, name=kernel)


@pytest.mark.parametrize("rows", [16, 5, 0])
def test_matrices_through_cp_async_ldmatrix_and_mma(run, rows):
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal((16, 16)).astype(BF16), rng.standard_normal((16, 8)).astype(BF16)
    c = np.full(384, np.nan, np.float32)
    run("mma", a[:max(rows, 1)].copy(), b, c, np.int32(rows), file="tensor", block=(32,))
    a[rows:] = 0  # a copy that is not valid reads nothing and writes zeros
    # Measured 9.6e-7.
    assert_close(c[:128].reshape(16, 8), a.astype(np.float64) @ b.astype(np.float64), atol=4e-6, name="product")
    equal(c[128:].reshape(16, 16), a.astype(np.float32).T)


def test_assembly(run):
    y, u = np.zeros(192, np.float32), np.zeros(192, np.uint32)
    run("assembly", X, y, u, file="tensor")
    equal(y[:64], X + 1)
    assert_close(y[64:128], 2.0 ** (X.astype(np.float64) / 64), atol=4e-7, name="ex2")  # measured 9.6e-8
    equal(y[128:], 2 * (X // 4 * 4) + 3)
    lane = np.arange(64) % 32
    equal(u[:64], lane)
    equal(u[64:128], np.where(lane > 7, 105, 200))
    low, high = (x.astype(BF16).view(np.uint16).astype(np.uint32) for x in (-X, X))
    equal(u[128:], high << 16 | low)


def test_pipeline(run):
    y = np.zeros(64, np.float32)
    run("pipeline", X, y, file="tensor")
    equal(y, X[::-1])


# ---- orders and workers

def test_the_order_is_ours_to_choose():
    seen = {}
    for order in ("forward", "reverse", "random:1", "random:2"):
        y = np.zeros(2, np.int32)
        Module(FOLDER / "language.cu", order=order, workers=1).launch("order_matters", (8,), (64,), (y,))
        seen[order] = y.tolist()
    assert seen["forward"] == [63, 7] and seen["reverse"] == [0, 0]
    again = np.zeros(2, np.int32)
    Module(FOLDER / "language.cu", order="random:1", workers=1).launch("order_matters", (8,), (64,), (again,))
    assert again.tolist() == seen["random:1"] != seen["random:2"]


def test_blocks_over_several_workers():
    n = Module(FOLDER / "language.cu", instances=("scale<float>",), workers=3)
    x = np.arange(64 * 200, dtype=np.float32)
    n.launch("scale<float>", (200,), (64,), (x, np.float32(2)))
    equal(x, 2 * np.arange(64 * 200))
    y = np.zeros(128, np.float32)
    for _ in range(20):
        n.launch("shared_kinds", (64,), (64,), (X, N, y))
    equal(y[:64], 4 * (63 - X) + 8)


# ---- reports without the checked mode

@pytest.mark.parametrize("mode", ["plain", "checked", "portable"])
@pytest.mark.parametrize("kernel, line, what, args", [
    ("asserts", "assert(x[threadIdx.x] < 5);", "assertion failed: x[threadIdx.x] < 5", (N,)),
    ("traps", "if (x[0] == 0) __trap();", "trapped", (np.zeros(1, np.int32),)),
    ("divides", "x[0] = x[1] / x[2];", "division by zero", (np.zeros(4, np.int32),)),
    ("runs_wild", "x[far] = 1;", ("invalid", "out-of-bounds"), (X.copy(), np.uint64(1 << 45))),
    ("recurses", "frame[n % 4096] = n;", "stack overflow", (np.zeros(2, np.int32),))])
def test_errors_are_reports(mode, kernel, line, what, args):
    with pytest.raises(Report) as caught:
        module("language", mode).launch(kernel, (1,), (64 if kernel == "asserts" else 1,), args)
    found = caught.value
    lines = (FOLDER / "language.cu").read_text(encoding="utf-8").splitlines()
    assert any(word in found.what for word in ([what] if isinstance(what, str) else what)), found.what
    assert line in lines[found.line - 1]
    assert str(found).startswith(f"{FOLDER / 'language.cu'}:{found.line}: ") and found.kernel == kernel


def test_a_report_says_which_thread():
    with pytest.raises(Report) as caught:
        module("language", "plain").launch("asserts", (1,), (64,), (N,))
    assert caught.value.thread == (5, 0, 0) and caught.value.block == (0, 0, 0)


# ---- bad use

def kernel_file(tmp_path, text):
    path = tmp_path / "mine.cu"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(TinyError, match="apt install g"):
        Module(FOLDER / "tensor.cu")


def test_a_kernel_that_does_not_compile(tmp_path):
    path = kernel_file(tmp_path, '#include "help.cuh"\n\n__global__ void k(float* x) {\n  x[0] = y;\n}\n')
    (tmp_path / "help.cuh").write_text("#pragma once\n", encoding="utf-8")
    with pytest.raises(TinyError, match=r"mine.cu:4: .y. was not declared"):
        Module(path)
    (tmp_path / "help.cuh").write_text("\n__device__ int f() { return z; }\n", encoding="utf-8")
    with pytest.raises(TinyError, match=r"help.cuh:2: "):
        Module(path)


def test_an_instruction_that_is_not_known(tmp_path):
    text = '__global__ void k() {\n  int a;\n  asm volatile(\n    "wgmma.fence.sync.aligned;");\n}\n'
    with pytest.raises(TinyError, match="mine.cu:3: .*the emulator does not know the PTX instruction wgmma.fence"):
        Module(kernel_file(tmp_path, text))
    Module(kernel_file(tmp_path, "#if __CUDA_ARCH__ >= 900\n" + text + "#endif\n__global__ void other() {}\n"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TinyError, match="cannot be read"):
        Module(tmp_path / "none.cu")


def test_names_of_kernels():
    plain = module("language", "plain")
    with pytest.raises(TinyError, match="has no kernel nothing.\nIt has: barriers, shuffles"):
        plain.launch("nothing", (1,), (1,), ())
    with pytest.raises(TinyError, match="scale is a template"):
        plain.launch("scale", (1,), (1,), ())


def test_parameters():
    found = module("language", "plain").parameters("many_types")
    assert [p.kind for p in found] == ["table", *["scalar"] * 5, "array", "array", "array"]
    assert [p.name for p in found] == ["tables", "n", "d", "l", "flag", "b", "v", "bytes", "y"]
    assert [p.dtype for p in found] == ["float32", "int32", "float64", "uint64", "bool", "bfloat16", "uint32",
                                            "uint8", "float32"]
    assert found[0].const and found[6].const and not found[8].const


@pytest.mark.parametrize("args, says", [
    ((X,), "takes 2 arguments; 1 came"), ((X, 2.0), "is the Python number 2.0"),
    ((X, np.float64(2)), r"is np.float64\(2.0\).\nPass np.float32"), ((2 * X, X), "is a NumPy array float32"),
    ((X.astype(np.float64), np.float32(2)), "is a NumPy array float64"),
    ((X.astype(">f4"), np.float32(2)), "bytes in the other order"),
    ((np.float32(1), np.float32(2)), "arrays are NumPy arrays"),
    ((X[::2], np.float32(2)), "with gaps"), (([X], np.float32(2)), "is a list")])
def test_arguments_that_do_not_fit(args, says):
    with pytest.raises(TinyError, match=says):
        module("language", "plain").launch("scale<float>", (1,), (1,), args)


def test_an_array_that_may_not_be_written():
    x = X.copy()
    x.flags.writeable = False
    with pytest.raises(TinyError, match="may only be read"):
        module("language", "plain").launch("scale<float>", (1,), (1,), (x, np.float32(2)))


@pytest.mark.parametrize("grid, block, shared, says", [
    ((1,), (1025,), 0, r"block \(1025,\)"), ((1,), (1, 1, 65), 0, r"block \(1, 1, 65\)"),
    ((1,), (64, 32), 0, "2,048 threads"), ((1, 65536), (1,), 0, r"grid \(1, 65536\)"), ((0,), (1,), 0, r"grid \(0,\)"),
    ((1,), (1,), 1 << 20, "has 232448 bytes"), ((1,), (1,), -1, "shared_bytes is -1")])
def test_launches_that_no_gpu_takes(grid, block, shared, says):
    with pytest.raises(TinyError, match=says):
        module("language", "plain").launch("scale<float>", grid, block, (X.copy(), np.float32(2)), shared)


def test_static_shared_memory_has_a_limit(tmp_path):
    path = kernel_file(tmp_path, "__global__ void k(float* y) {\n  __shared__ float s[13000];\n"
                                 "  s[threadIdx.x] = y[0];\n  y[1] = s[threadIdx.x + 7];\n}\n")
    with pytest.raises(TinyError, match="52000 bytes of static shared memory"):
        Module(path).launch("k", (1,), (1,), (X.copy(),))


def test_modes_that_are_not_known():
    with pytest.raises(TinyError, match="order"):
        Module(FOLDER / "tensor.cu", order="sideways")
    with pytest.raises(TinyError, match="checks or profiles"):
        Module(FOLDER / "tensor.cu", check=True, profile=True)


# ---- building

def test_what_is_built_is_kept_until_something_changes(tmp_path, monkeypatch):
    shared = build.runtime(build.compiler(), build.cache_folder(), False)  # compiled once for all tests
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(build, "runtime", lambda *_: shared)
    (tmp_path / "cache").mkdir()
    path = kernel_file(tmp_path, '#include "size.cuh"\n__global__ void k(int* y) { *y = SIZE; }\n')
    header = tmp_path / "size.cuh"
    answers = []
    for text in ("#define SIZE 1\n", "#define SIZE 2\n", "#define SIZE 1\n"):
        header.write_text(text, encoding="utf-8")
        y = np.zeros(1, np.int32)
        built = Module(path)
        built.launch("k", (1,), (1,), (y,))
        answers.append((int(y[0]), built.built.library))
    assert [size for size, _ in answers] == [1, 2, 1] and answers[0][1] == answers[2][1] != answers[1][1]
    assert len(list((tmp_path / "cache").glob("mine-*.so"))) == 2


def test_processes_may_build_at_the_same_time(tmp_path):
    path = kernel_file(tmp_path, f"__global__ void k(int* y) {{ *y = {os.getpid()}; }}\n")
    code = ("import sys, numpy as np; from kernels.emulator import Module; y = np.zeros(1, np.int32);"
            f"Module({str(path)!r}).launch('k', (1,), (1,), (y,)); sys.exit(int(y[0] != {os.getpid()}))")
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=FOLDER.parents[1]) for _ in range(3)]
    assert [process.wait() for process in runs] == [0, 0, 0]


# ---- the profile

PROFILED = """__global__ void k(const float* x, float* y, const float4* v) {
  __shared__ float s[32 * 33];
  int i = threadIdx.x;
  s[i * 32] = x[i];
  s[i * 33] = x[i * 2];
  float4 four = v[i];
  __syncthreads();
  y[i] = s[i] + four.x + four.w;
}
"""


def test_the_profile_by_hand(tmp_path):
    profiled = Module(kernel_file(tmp_path, PROFILED), profile=True)
    x, y = np.zeros(64, np.float32), np.zeros(32, np.float32)
    profiled.launch("k", (1,), (32,), (x, y, np.zeros(128, np.float32)))
    rows = {(row.line, row.memory, row.access): row for row in profiled.profile()}
    assert rows[4, "shared", "store"].efficiency == 1 / 32 and rows[5, "shared", "store"].efficiency == 1
    assert rows[4, "global", "load"].efficiency == 1 and rows[5, "global", "load"].efficiency == 0.5
    wide = rows[6, "global", "load"]
    assert (wide.bytes, wide.requests, wide.work, wide.ideal) == (16, 1, 16, 16)
    assert rows[8, "global", "store"].work == 4 and profiled.profile() == []


# ---- files as students and samples have them

D = np.arange(64, dtype=np.float64)
I256 = np.arange(256, dtype=np.int32)
STUDENTS = {  # grid, block, arguments, dynamic shared memory, and what the last array holds afterwards
    "add_one": (3, 32, (X, np.zeros(64, np.float32), np.int32(64)), 0, X + 1),
    "guarded": (1, 32, (np.zeros(1, np.int32), np.zeros(1, np.int32)), 0, [496]),
    "add_double": (1, 64, (D, np.zeros(1)), 0, [2016]),
    "producers": (1, 128, (N, np.zeros(64, np.int32)), 0, N[::-1]),
    "assembly": (1, 64, (X, np.zeros(64, np.float32)), 0, N // 4 * 16 + 6 + N % 32 + 6),
    "narrow_in_wide": (1, 32, (X, np.zeros(32)), 264, D[:32]),
    "groups": (1, 64, (N, np.zeros(65, np.int32)), 0, [*np.cumsum(N.reshape(4, 16), 1).reshape(-1), 2016 - 128]),
    "integers": (1, 32, (np.eye(16, dtype=np.int8), np.arange(256).astype(np.int8).reshape(16, 16),
                         np.zeros((16, 16), np.int32)), 0, np.arange(256).astype(np.int8) + 2.0**25),
    "last_block": (4, 64, (I256, 0 * I256, 0 * I256, np.zeros(1, np.uint32)), 0, [0])}


@pytest.mark.parametrize("mode", ["plain", "reverse", "checked"])
@pytest.mark.parametrize("kernel", STUDENTS)
def test_files_of_students(mode, kernel):
    grid, block, args, shared_bytes, expected = STUDENTS[kernel]
    copies = [arg.copy() for arg in args]
    module("students", mode).launch(kernel, (grid,), (block,), copies, shared_bytes)
    equal([copy for copy in copies if isinstance(copy, np.ndarray)][-1], expected)


@functools.cache
def with_bugs(folder):
    """The file with what stands behind //@ in place of each such line, line for line."""
    path = folder / "students.cu"
    lines = (FOLDER / "students.cu").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.split("//@ ")[-1] for line in lines), encoding="utf-8")
    return Module(path, check=True)


@pytest.mark.parametrize("kernel, what", [
    ("last_block", "data race on `middle`"), ("guarded", "data race on `x`"), ("flag", "endless loop"),
    ("producers", "uninitialised|data race"), ("assembly", "misaligned"), ("narrow_in_wide", "misaligned")])
def test_files_of_students_with_a_bug(kernel, what, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "students"
    folder.mkdir(exist_ok=True)
    grid, block, args, shared_bytes, _ = {**STUDENTS, "flag": (1, 64, (N[:1], N), 0, N)}[kernel]
    with pytest.raises(Report, match=what) as caught:
        with_bugs(folder).launch(kernel, (grid,), (block,), [arg.copy() for arg in args], shared_bytes)
    assert f"// {kernel}" in (FOLDER / "students.cu").read_text(encoding="utf-8").splitlines()[caught.value.line - 1]


def test_a_flag_in_volatile_memory_is_waited_for():
    x = np.zeros(64, np.int32)
    module("students", "checked").launch("flag", (1,), (64,), (np.zeros(1, np.int32), x))
    equal(x, N)


def test_what_is_not_modelled_is_no_report():
    with pytest.raises(TinyError, match="does not model a barrier across") as caught:
        module("students", "plain").launch("across_the_grid", (2,), (32,), (N.copy(),))
    assert not isinstance(caught.value, Report)
    module("students", "plain").launch("across_the_grid", (1,), (32,), (N.copy(),))


@pytest.mark.parametrize("mode", ["plain", "checked"])
def test_a_kernel_that_does_not_end_says_where(mode):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGALRM)).start()
    with pytest.raises(Report, match="endless loop: the kernel is still here") as caught:
        module("students", mode).launch("endless", (1,), (32,), (np.zeros(1, np.int32),))
    assert "// endless" in (FOLDER / "students.cu").read_text(encoding="utf-8").splitlines()[caught.value.line - 1]
