"""Every kernel compiles with the compiler of the GPU path, without spilling registers, for both architectures.

NVRTC needs no GPU and no driver; the `dev` extra brings it. Each file is compiled in its own process, because an
internal error of this compiler ends the process.
"""

import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from kernels import cases, nvrtc  # noqa: E402
from kernels.launch import Launcher  # noqa: E402
from kernels.signature import declared  # noqa: E402
from tiny.config import TinyError  # noqa: E402

FILES = sorted(path.name for path in (ROOT / "kernels").glob("*.cu"))
ARCHS = (80, 90)
HEADS = (64, 80, 128)  # head_dim, beside the sizes of the cases for a GPU
# Registers of a thread at most, over all storages, sizes and both architectures; 65,536 divided by the threads that a
# multiprocessor is to hold is the limit. Measured with NVRTC 13.0, rounded up to a multiple of 8.
REGISTERS = {
    "attention_decode_v1": 48, "attention_decode_v1_combine": 32, "attention_decode_v2": 144, "attention_v1": 96,
    "attention_v2": 128, "attention_v3": 208, "experts_v1": 40, "experts_v2": 48, "experts_v2_down": 48,
    "experts_v3": 56, "experts_v3_down": 56, "experts_v4": 80, "experts_v4_down": 80,
    "grouped_v1": 40, "grouped_v1_add": 32, "grouped_v1_down": 32, "grouped_v2": 128, "grouped_v2_add": 32,
    "grouped_v2_down": 128, "grouped_v3": 240, "grouped_v3_down": 240,
    "linear_v1": 32, "linear_v2": 160, "linear_v3": 128, "linear_v4": 128,
    "linear_v5": 240, "rms_norm_v1": 32, "rms_norm_v2": 32, "rms_norm_v3": 56, "rms_norm_v3_add": 48, "rope_v1": 16,
    "rope_v2": 32, "rope_v3": 32, "route_v1": 32, "route_v2": 56, "route_v3": 96, "route_v3_count": 24,
    "route_v3_place": 32, "advance": 24, "embed_v1": 16, "embed_v2": 24, "rope_2d_table": 24, "rope_table_v1": 24,
    "patch_embed_v1": 40, "patch_embed_v2": 24, "place": 16, "place_tiles": 16, "sample_v1": 56,
    "sample_v2": 120, "sample_v3": 112, "sample_v3_masses": 40, "sample_v3_parts": 32,
    "splice_v1": 32, "splice_v2": 24, "splice_v2_rows": 32}
TENSOR_CORES = {  # there are no such kernels for float32
    "attention": "v3", **dict.fromkeys(("linear_prompt", "linear_prompt_int8", "linear_prompt_epilogue"), "v5"),
    **dict.fromkeys(("grouped", "grouped_int8", "grouped_dense"), "v3")}
AS_IT_STANDS = "as it stands"  # with the defaults of the source, which should be options that are of use
SMALL = """
extern "C" __global__ void twice(const STORE* x, float* out) { out[threadIdx.x] = 2.0f * (float)x[threadIdx.x]; }
"""


def available() -> bool:
    try:
        nvrtc.find()
    except TinyError:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not available(), reason="NVRTC is not installed; the dev extra brings it.")


class Recorder(Launcher):
    """A launcher that launches nothing and keeps what it was asked for: kernels, by file and -D options."""

    def __init__(self):
        super().__init__()
        self.asked: dict[str, dict[tuple, set]] = {}

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)

    def put(self, array):
        return array

    def load(self, path, kernel, defines):
        self.asked.setdefault(path.name, {}).setdefault(defines, set()).add(kernel)

    def call(self, *args):
        pass


class Zeros(cases.Draw):
    """Arguments that are never touched, so that those of the released models' sizes cost nothing."""

    def normal(self, shape, dtype, scale=1.0):
        return np.zeros(shape, dtype)


@functools.cache
def asked() -> dict[str, dict[tuple, set]]:
    """Every kernel with every -D option with which the host functions launch it, in all storages."""
    recorder = Recorder()
    for operation in cases.operations():
        sizes = [*operation.small, *operation.published.values()]
        sizes += [{**size, "d": d} for size in operation.small if "d" in size for d in HEADS]
        for size in sizes:
            most = size["T"] if "parts" in size else 600  # parts say where in the T numbers they are
            few = {name: min(value, most) if name == "T" else value for name, value in size.items()}
            for (precision, weight), version in itertools.product(cases.STORAGES, operation.versions):
                arguments = operation.make(Zeros(np, precision, weight), **few)
                if precision == "bfloat16" or TENSOR_CORES.get(operation.name, "none") != version:
                    operation.call(recorder, arguments, precision, version)
    return recorder.asked


def report(file: str, arch: int, combinations: list[list[str]]) -> list[dict[str, list[int]]]:
    """Compile a file with each of several -D options: registers and bytes of spills of each kernel."""
    compiler, path, found = nvrtc.nvrtc(), ROOT / "kernels" / file, []
    for defines in combinations:
        options = [*nvrtc.compile_options(arch, defines), *nvrtc.include_options(path, compiler)]
        log = compiler.compile(path, [*options, "--ptxas-options=-v"])[1]
        parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
        found.append({name: [int(re.search(r"Used (\d+) registers", text)[1]),
                             sum(map(int, re.findall(r"(\d+) bytes spill", text)))]
                      for name, text in zip(parts[::2], parts[1::2])})
    return found


@pytest.fixture(scope="module")
def reports() -> list[tuple[str, str, int, int]]:
    """Of every kernel that is asked for, and of every file as it stands: name, with what it was compiled, registers,
    bytes of spills.
    """
    def compiled(task):
        file, arch = task
        wanted = {**asked()[file], (): set().union(*asked()[file].values())}
        child = subprocess.run([sys.executable, __file__, file, str(arch)], input=json.dumps(list(wanted)),
                               capture_output=True, text=True)
        assert child.returncode == 0, f"{file} for sm_{arch}: {child.stderr.strip() or child.returncode}"
        bare = "" if () in asked()[file] else AS_IT_STANDS
        return [(name, f"sm_{arch} {' '.join(defines) or bare}", *kernels[name])
                for (defines, names), kernels in zip(wanted.items(), json.loads(child.stdout), strict=True)
                for name in sorted(names)]

    with ThreadPoolExecutor(2) as pool:
        return [row for rows in pool.map(compiled, itertools.product(asked(), ARCHS)) for row in rows]


def test_every_kernel_is_asked_for():
    for file in FILES:
        names = declared((ROOT / "kernels" / file).read_text(encoding="utf-8"))
        assert set().union(*asked()[file].values()) == set(names)


@needs_nvrtc
@pytest.mark.thorough
@pytest.mark.xdist_group("all kernels compiled")
def test_every_kernel_compiles_and_spills_nothing(reports):
    launched = set().union(*(names for found in asked().values() for names in found.values()))
    assert {name for name, *_ in reports} == launched
    spilling = [row for row in reports if row[3]]
    assert not spilling, f"these keep registers in memory: {spilling}"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on this machine; NVRTC has the same back end.")
@pytest.mark.parametrize("file", FILES)
def test_nvcc_takes_every_file_as_it_stands(file, tmp_path):
    """Its front end reads the host's side too. What comes behind PTX is what NVRTC has, whose report is above."""
    subprocess.run(["nvcc", "-ptx", "-arch=sm_80", "-std=c++17", f"-I{ROOT / 'kernels'}", ROOT / "kernels" / file, "-o",
                    tmp_path / "out.ptx"], check=True)


@needs_nvrtc
@pytest.mark.thorough
@pytest.mark.xdist_group("all kernels compiled")
def test_registers_are_those_of_the_table(reports):
    """At most the cap, and the cap no higher than need be: a kernel that got leaner gets a new one."""
    launched = [row for row in reports if not row[1].endswith(AS_IT_STANDS)]
    most = {name: max(row[2] for row in launched if row[0] == name) for name, *_ in launched}
    assert {name: -(-registers // 8) * 8 for name, registers in most.items()} == REGISTERS


@needs_nvrtc
def test_a_cubin_is_kept_by_everything_that_goes_into_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "twice.cu"
    path.write_text('#include "part.cuh"\n' + SMALL)
    (tmp_path / "part.cuh").write_text("// one\n")
    first = nvrtc.cubin(path, 80, ["STORE=float"])
    assert first.read_bytes().startswith(b"\x7fELF") and first.is_relative_to(tmp_path / "cache")
    written = first.stat().st_mtime_ns
    assert nvrtc.cubin(path, 80, ["STORE=float"]) == first and first.stat().st_mtime_ns == written
    others = {nvrtc.cubin(path, 90, ["STORE=float"]), nvrtc.cubin(path, 80, ["STORE=int"])}
    (tmp_path / "part.cuh").write_text("// two\n")
    others |= {nvrtc.cubin(path, 80, ["STORE=float"])}
    assert len({first, *others}) == 4
    assert {file.suffix for file in first.parent.iterdir()} == {".cubin"}, "no half-written file is left"


@needs_nvrtc
def test_a_kernel_that_does_not_compile_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "twice.cu"
    path.write_text(SMALL.replace("2.0f", "two"))
    with pytest.raises(TinyError) as caught:
        nvrtc.cubin(path, 80, ["STORE=float"])
    assert caught.value.cause == 'twice.cu:2: identifier "two" is undefined (twice.cu with -DSTORE=float).'
    path.write_text('#include "nothing.cuh"\n')
    with pytest.raises(TinyError, match='twice.cu:1: cannot open source file "nothing.cuh"'):
        nvrtc.cubin(path, 80)
    assert not (tmp_path / "cache").exists()


@needs_nvrtc
def test_architectures_that_are_refused():
    with pytest.raises(TinyError, match="sm_75 is older than sm_80"):
        nvrtc.cubin(ROOT / "kernels" / FILES[0], 75)
    with pytest.raises(TinyError, match="does not compile for sm_999; it does for sm_80, "):
        nvrtc.cubin(ROOT / "kernels" / FILES[0], 999)


# ---- which library, and what is missing

def install(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


NEW = ("lib/libnvrtc.so.13", "include/cuda_bf16.h", "include/mma.h", "include/crt/mma.h")


def test_the_newest_complete_compiler_is_taken(tmp_path, monkeypatch):
    """Wheels of CUDA 13 share a folder, those of 12 part theirs; a toolkit comes last; what lacks headers is passed."""
    half = install(tmp_path / "nvidia" / "cu13", *NEW[:2])
    old = [install(tmp_path / "nvidia" / "cuda_nvrtc", "lib/libnvrtc.so.12", "include/nvrtc.h"),
           install(tmp_path / "nvidia" / "cuda_runtime", "include/cuda_bf16.h", "include/mma.h"),
           install(tmp_path / "nvidia" / "cuda_nvcc", "include/crt/mma.h")]
    toolkit = install(tmp_path / "toolkit", "lib64/libnvrtc.so.13.0.88", *NEW[1:])
    monkeypatch.setattr(nvrtc, "roots", lambda: [half, *old, toolkit])
    assert nvrtc.find() == (toolkit / "lib64/libnvrtc.so.13.0.88", (toolkit / "include",))
    library, include = nvrtc.find(newest=12)
    assert library == old[0] / "lib/libnvrtc.so.12"
    assert {folder.parent.name for folder in include} == {"cuda_nvrtc", "cuda_runtime", "cuda_nvcc"}
    install(half, *NEW)
    assert nvrtc.find()[0] == half / NEW[0]


def test_a_missing_compiler_or_header_names_the_wheels(tmp_path, monkeypatch):
    monkeypatch.setattr(nvrtc, "roots", lambda: [])
    with pytest.raises(TinyError, match="NVRTC is not installed") as caught:
        nvrtc.find()
    assert "nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt" in caught.value.remedy
    with pytest.raises(TinyError, match="not installed for CUDA 12") as caught:
        nvrtc.find(12)
    assert "nvidia-cuda-nvrtc-cu12" in caught.value.remedy
    half = install(tmp_path / "cu13", *NEW[:3])
    monkeypatch.setattr(nvrtc, "roots", lambda: [half])
    with pytest.raises(TinyError, match="libnvrtc.so.13 is installed without the header crt/mma.h"):
        nvrtc.find()


def test_folders_that_may_hold_the_compiler():
    assert all(isinstance(folder, Path) for folder in nvrtc.roots()) and Path("/usr/local/cuda") in nvrtc.roots()


if __name__ == "__main__":
    try:
        print(json.dumps(report(sys.argv[1], int(sys.argv[2]), json.load(sys.stdin))))
    except TinyError as error:
        sys.exit(str(error))
