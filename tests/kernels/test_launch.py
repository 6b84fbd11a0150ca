"""Launchers: every argument is checked, for both devices, and every line of the GPU path runs with a pretended CuPy."""

import json
import shutil
import sys

import ml_dtypes
import numpy as np
import pytest
import strict_device
from compare import assert_close
from emulator_case import needs_compiler

from kernels import launch, nvrtc, signature
from tiny.config import TinyError

FLOAT, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
SOURCE = """
#include <cuda_bf16.h>
#define COUNT 4
#ifndef STORE
#define STORE float
#endif
// __global__ void not_a_kernel(int x);
/* extern "C" __global__ void not_one_either(int x) */
extern "C" __global__ void __launch_bounds__(256) scale(
    const STORE* __restrict__ x, STORE* out,  // rows
    int n, float factor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = (STORE)((float)x[i] * factor);
}
extern "C" __global__ void gather(const STORE* const* rows, const long long *ids, float* out, unsigned width) {
  const STORE* row = rows[ids[blockIdx.x]];
  for (unsigned i = threadIdx.x; i < width; i += blockDim.x) out[blockIdx.x * width + i] = (float)row[i];
}
extern "C" __global__ void reverse(const float* x, float* out, int n) {
  extern __shared__ __align__(16) unsigned char smem[];
  float* row = (float*)smem;
  row[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = row[n - 1 - threadIdx.x];
}
extern "C" __global__ void pair(const float4* x, void* out, STORE scale[COUNT], const bool flag) {}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One file for all tests, so that it is compiled once."""
    path = tmp_path_factory.mktemp("source") / "scale.cu"
    path.write_text(SOURCE)
    return path


class PretendedNvrtc:
    archs = [80, 90]
    version = "13.0"
    check_arch = nvrtc.Nvrtc.check_arch


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """A GPU that is not there: the strict device is what `import cupy` finds, and its cubins are notes in tmp_path."""
    def pretended_cubin(path, arch, defines=(), newest=None):
        kept = tmp_path / f"{path.stem}-{len(list(tmp_path.iterdir()))}.cubin"
        kept.write_text(json.dumps({"source": str(path), "defines": list(defines)}))
        return kept

    monkeypatch.setitem(sys.modules, "cupy", strict_device)
    monkeypatch.setattr(launch, "cubin", pretended_cubin)
    monkeypatch.setattr(launch, "nvrtc", lambda newest: PretendedNvrtc())
    return strict_device.reset()


@pytest.fixture(params=["emulator", pytest.param("cuda", id="pretended-cuda")])
def launcher(request):
    if request.param == "cuda":
        request.getfixturevalue("pretended")
        return launch.Cuda(poisoned=True)
    return launch.Emulator()


# ---- declarations

def test_parameters_are_read_as_declared(source):
    found = signature.read_parameters(source, "scale", ["STORE=__nv_bfloat16"])
    assert [(p.name, p.ctype, p.stars, p.const) for p in found] == [
        ("x", "__nv_bfloat16", 1, True), ("out", "__nv_bfloat16", 1, False), ("n", "int", 0, False),
        ("factor", "float", 0, False)]
    assert found[0].text == "const STORE* __restrict__ x"
    found = signature.read_parameters(source, "gather")
    assert [(p.name, p.ctype, p.stars, p.const) for p in found] == [
        ("rows", "float", 2, True), ("ids", "long long", 1, True), ("out", "float", 1, False),
        ("width", "unsigned", 0, False)]
    found = signature.read_parameters(source, "pair")
    assert [(p.name, p.ctype, p.stars, p.const) for p in found] == [
        ("x", "float4", 1, True), ("out", "void", 1, False), ("scale", "float", 1, False), ("flag", "bool", 0, True)]


def test_macros_are_those_of_included_files_too(tmp_path):
    (tmp_path / "types.cuh").write_text("#define ROWS IDS\n#define IDS long long\n")
    (tmp_path / "a.cu").write_text('#include "types.cuh"\n#include "numbers.cuh"\n'
                                   '__global__ void f(const ROWS* ids, WEIGHT* w) {}\n')
    found = signature.read_parameters(tmp_path / "a.cu", "f", ["STORE=float"])
    assert [(p.ctype, p.const) for p in found] == [("long long", True), ("float", False)]
    assert [path.name for path in signature.local_files(tmp_path / "a.cu")] == ["a.cu", "types.cuh", "numbers.cuh"]
    assert signature.resolve("A", {"A": "B", "B": "A"}) == "A"


@pytest.mark.parametrize("path", sorted(signature.HERE.glob("*.cu")), ids=lambda path: path.name)
def test_every_parameter_of_our_kernels_is_of_a_known_type(path):
    names = signature.declared(path.read_text(encoding="utf-8"))
    assert len(names) == path.read_text(encoding="utf-8").count("__global__ void")
    for name in names:
        for p in signature.read_parameters(path, name, ["STORE=float", "WEIGHT=float"]):
            assert p.ctype in signature.DTYPES, f"{name}: {p}"


def test_a_kernel_that_is_not_there(source):
    with pytest.raises(TinyError, match="scale.cu has no kernel not_a_kernel; it has scale, gather, reverse, pair"):
        signature.read_parameters(source, "not_a_kernel")


# ---- launches

@needs_compiler
@pytest.mark.parametrize("dtype, store", [(FLOAT, "float"), (BFLOAT16, "__nv_bfloat16")])
def test_a_kernel_runs(launcher, source, dtype, store):
    x = np.arange(70, dtype=np.float32).astype(dtype)
    out = launcher.empty((70,), dtype)
    launcher.launch(source, "scale", (3,), (32,), (launcher.put(x), out, np.int32(69), np.float32(2)),
                    defines=(f"STORE={store}",))
    result = launcher.get(out)
    assert isinstance(result, np.ndarray) and result.dtype == dtype
    expected = (2 * x.astype(np.float32)).astype(dtype)
    assert_close(result[:69].astype(np.float32), expected[:69].astype(np.float32), atol=0, name="scale")
    assert np.isnan(result[69].astype(np.float32)), "a new array is poisoned"


@needs_compiler
def test_a_list_of_arrays_becomes_a_table_of_pointers(launcher, source):
    rows = [np.full(5, n, np.float32) for n in range(3)]
    placed, ids = [launcher.put(row) for row in rows], launcher.put(np.array([2, 0, 2], np.int64))
    for _ in range(2):
        out = launcher.empty((3, 5), np.float32)
        launcher.launch(source, "gather", (3,), (32,), (placed, ids, out, np.uint32(5)))
        assert_close(launcher.get(out), np.stack([rows[2], rows[0], rows[2]]), atol=0, name="rows")
    assert len(getattr(launcher, "tables", "1")) == 1, "the same table is not uploaded again"


@needs_compiler
@pytest.mark.parametrize("size", [4 * 64, 100 << 10])
def test_shared_memory_beyond_48_kib_is_asked_for(launcher, source, size):
    x, out = np.arange(64, dtype=np.float32), launcher.empty((64,), np.float32)
    launcher.launch(source, "reverse", (1,), (64,), (launcher.put(x), out, np.int32(64)), shared_bytes=size)
    assert_close(launcher.get(out), x[::-1], atol=0, name="reversed")


def test_shared_memory_that_no_block_has(pretended, source):
    launcher = launch.Cuda()
    x = launcher.put(np.zeros(64, np.float32))
    with pytest.raises(TinyError, match="232,449 bytes of shared memory are more than the 232,448"):
        launcher.launch(source, "reverse", (1,), (64,), (x, x, np.int32(64)), shared_bytes=232449)


def good(launcher):
    x = launcher.put(np.zeros(64, np.float32))
    return [x, launcher.empty((64,), np.float32), np.int32(64), np.float32(2)]


BAD = {
    "a Python float": (3, lambda good, put: 2.0, "`float factor` is the Python number 2.0, whose width", "np.float32("),
    "a Python int": (2, lambda good, put: 64, "`int n` is the Python number 64", "np.int32("),
    "a wide number": (2, lambda good, put: np.int64(64), r"`int n` is np.int64\(64\)", "np.int32("),
    "a number of another kind": (2, lambda good, put: np.uint32(64), "is np.uint32", "np.int32("),
    "a double": (3, lambda good, put: np.float64(2), r"is np.float64\(2.0\)", "np.float32("),
    "an array for a number": (2, lambda good, put: good[0], r"`int n` is a \w+ array float32 \(64,\)", "np.int32("),
    "a number for an array": (1, lambda good, put: np.float32(1), r"`STORE\* out` is np.float32", "launcher.put"),
    "another dtype": (0, lambda good, put: put(np.zeros(64)), r"a \w+ array float64 \(64,\)", "float32"),
    "bfloat16 for float": (1, lambda good, put: put(np.zeros(64, BFLOAT16)), "array bfloat16", "float32"),
    "a slice with gaps": (0, lambda good, put: put(np.zeros((64, 2), np.float32))[:, 0], "with gaps", "copy"),
    "a list for an array": (0, lambda good, put: [good[0]], "is a list", "launcher.put"),
    "None": (0, lambda good, put: None, "is a NoneType", "launcher.put"),
}


@needs_compiler
@pytest.mark.parametrize("case", BAD)
def test_an_argument_that_does_not_fit_is_refused(launcher, source, case):
    place, make, cause, remedy = BAD[case]
    args = good(launcher)
    args[place] = make(args, launcher.put)
    with pytest.raises(TinyError, match=cause) as caught:
        launcher.launch(source, "scale", (2,), (32,), args, defines=("STORE=float",))
    assert "scale" in caught.value.cause and remedy in caught.value.remedy


@needs_compiler
def test_more_that_is_refused(launcher, source):
    args = good(launcher)
    with pytest.raises(TinyError, match="scale takes 4 arguments; 3 came") as caught:
        launcher.launch(source, "scale", (1,), (32,), args[:3])
    assert "const STORE* __restrict__ x, STORE* out, int n, float factor" in caught.value.remedy
    ids, out = launcher.put(np.zeros(1, np.int64)), launcher.empty((1, 5), np.float32)
    for table, cause in ((args[0], "array float32"), ([], "is a list"), ([args[0], None], "is a NoneType")):
        with pytest.raises(TinyError, match=cause):
            launcher.launch(source, "gather", (1,), (32,), (table, ids, out, np.uint32(5)))
    for grid, block, cause in (((0,), (1,), "grid"), ((1, 65536), (1,), "grid"), ((), (1,), "grid"),
                               ((1,), (1, 1, 65), "block"), ((1,), (1,) * 4, "block"),
                               ((1,), (32, 33), "1,056 threads")):
        with pytest.raises(TinyError, match=cause):
            launcher.launch(source, "scale", grid, block, args)
    with pytest.raises(TinyError, match="no kernel file nothing.cu"):
        launcher.launch("nothing.cu", "scale", (1,), (1,), args)
    with pytest.raises(TinyError, match="has no kernel scales"):
        launcher.launch(source, "scales", (1,), (1,), args)


@needs_compiler
def test_an_array_that_may_only_be_read_is_not_written(source):
    launcher = launch.Emulator()
    args = good(launcher)
    for array in args[:2]:
        array.flags.writeable = False
    with pytest.raises(TinyError, match=r"`STORE\* out`.* may only be read") as caught:
        launcher.launch(source, "scale", (2,), (32,), args)
    assert "const STORE" not in caught.value.cause


@needs_compiler
def test_arrays_of_the_other_device_are_refused(pretended, source):
    gpu, emulator = launch.Cuda(), launch.Emulator()
    with pytest.raises(TinyError, match="is a NumPy array .* this launcher's arrays are CuPy arrays on GPU 0"):
        gpu.launch(source, "scale", (2,), (32,), good(emulator))
    with pytest.raises(TinyError, match="is a CuPy array .* this launcher's arrays are NumPy arrays on the host"):
        emulator.launch(source, "scale", (2,), (32,), good(gpu))


@needs_compiler
def test_arrays_are_put_where_kernels_can_read_them():
    launcher = launch.Emulator()
    raw = np.arange(33, dtype=np.float32)
    shifted, turned = raw[1:], raw[:32].reshape(4, 8).T
    for array in (shifted, turned):
        copy = launcher.put(array)
        assert copy.ctypes.data % 16 == 0 and copy.flags.c_contiguous
        assert_close(copy, array, atol=0, name="copy")
    fits = launcher.empty((3, 5), np.float32)
    assert launcher.put(fits) is fits and launcher.get(fits) is fits and fits.ctypes.data % 256 == 0
    assert launcher.cast(fits, np.float32) is fits and launcher.cast(fits, BFLOAT16).dtype == BFLOAT16
    assert launcher.empty((0, 3), np.int64).shape == (0, 3) and launcher.empty((2,), np.int64).min() > 2**61


# ---- what the GPU path needs

def test_a_kernel_is_loaded_once_and_with_its_defines(pretended, source, tmp_path):
    launcher = launch.Cuda()
    if shutil.which("g++") is None:
        pytest.skip("The pretended GPU is the emulator, which compiles with g++; it is not on this machine.")
    x = launcher.put(np.zeros(64, np.float32))
    for _ in range(3):
        launcher.launch(source, "scale", (2,), (32,), (x, x, np.int32(64), np.float32(2)), defines=("STORE=float",))
    assert pretended["launches"] == [("scale", ("STORE=float",))] * 3
    assert len(list(tmp_path.glob("*.cubin"))) == 1 and len(launcher.loaded) == 1


def test_new_arrays_of_the_gpu_are_poisoned_only_for_tests(pretended):
    array = launch.Cuda(poisoned=True).empty((2, 2), BFLOAT16)
    assert np.isnan(strict_device.asnumpy(array).astype(np.float32)).all()
    assert launch.Cuda().put(array) is array


def test_the_compiler_is_one_that_the_driver_takes(pretended, monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "nvrtc", lambda newest: asked.append(newest) or PretendedNvrtc())
    monkeypatch.setitem(pretended, "driver", 12090)
    assert launch.Cuda().newest == 12 and asked == [12]


def test_no_compiler_for_the_emulator(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TinyError, match="g\\+\\+, which is not on this machine") as caught:
        launch.Emulator()
    assert "apt-get install g++" in caught.value.remedy
