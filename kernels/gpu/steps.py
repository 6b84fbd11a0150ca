"""The steps of the script for a GPU, each run in its own process: python -m kernels.gpu.steps NAME

A step prints one JSON object for each thing it finds, as soon as it has it, so that a later crash costs no earlier
result. A step that cannot do something raises.
"""

import itertools
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kernels import cases
from kernels.cases import BFLOAT16, STORAGES, Draw, Operation
from kernels.device.gpus import import_cupy
from kernels.gpu import ahead, models, torch_peer, transformers_peer
from kernels.launch import Cuda
from kernels.nvrtc import nvrtc
from tiny.config import TinyError

LAUNCHES, WARM_UPS, REPLAYS = 20, 10, 50
GRAPH_MS, TOTAL_MS = 200.0, 400.0  # slow runs are launched less often: about this long in a graph, and in all replays
PEERS = ("torch", "transformers")  # what is compared with where it is installed
READ_NUMBERS = 1 << 28
# Every thread counts its numbers: they are all 1, so it knows how many there should be.
READ = """
extern "C" __global__ void __launch_bounds__(256) read(const float* x, unsigned* out, long long chunks) {
  long long step = 256LL * gridDim.x, first = 256LL * blockIdx.x + threadIdx.x;
  float sum = 0.0f;
#pragma unroll 8
  for (long long i = first; i < chunks; i += step) {
    uint4 bits;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w) : "l"(x + 4 * i));
    sum += __uint_as_float(bits.x) * __uint_as_float(bits.y) * __uint_as_float(bits.z) * __uint_as_float(bits.w);
  }
  long long wanted = first < chunks ? (chunks - first + step - 1) / step : 0;
  if (sum == (float)wanted) atomicAdd(out, 1u);
}
"""
EMPTY = 'extern "C" __global__ void touch(int* x) { %s x[threadIdx.x] += 1; }'


class Recorder:
    """A launcher that keeps what it launches, so that just the kernels can be launched again."""

    def __init__(self, launcher: Any):
        self.launcher = launcher
        self.calls: list[tuple[tuple, dict]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.launcher, name)

    def launch(self, *args: Any, **options: Any) -> None:
        """Launch a kernel, and keep how."""
        self.calls.append((args, options))
        self.launcher.launch(*args, **options)

    def again(self) -> None:
        """Launch the same kernels again, with the same arguments."""
        for args, options in self.calls:
            self.launcher.launch(*args, **options)


def device() -> Iterator[dict]:
    """The GPU, and the versions of all that is between it and us."""
    cupy = import_cupy()
    p = cupy.cuda.runtime.getDeviceProperties(0)
    yield {"name": p["name"].decode(), "compute_capability": f"{p['major']}.{p['minor']}",
           "multiprocessors": p["multiProcessorCount"], "l2_bytes": p["l2CacheSize"],
           "memory_bytes": p["totalGlobalMem"], "driver": cupy.cuda.runtime.driverGetVersion(),
           "cupy": cupy.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}


def bfloat16_arrays() -> Iterator[dict]:
    """Whether CuPy holds, views, converts and moves arrays of bfloat16."""
    cupy = import_cupy()
    x = np.arange(-4, 4, dtype=np.float32) / 3
    there = cupy.asarray(x).astype(BFLOAT16)
    same = (cupy.asnumpy(there).view(np.uint16) == x.astype(ml_dtypes.bfloat16).view(np.uint16)).all()
    back = (cupy.asnumpy(there.astype(cupy.float32)) == x.astype(BFLOAT16).astype(np.float32)).all()
    yield {"dtype": str(there.dtype), "rounds_as_numpy": bool(same), "converts_back": bool(back),
           "reshapes": there.reshape(2, 4)[1:].shape == (1, 4)}
    if not (same and back):
        raise TinyError("CuPy's bfloat16 differs from ml_dtypes'.", "Convert on the host, or view as uint16.")


def own_cubin() -> Iterator[dict]:
    """A cubin of ours, through RawModule, and which NVRTC made it."""
    launcher = Cuda()
    x = launcher.put(np.zeros(32, np.float32))
    out = launcher.cupy.full(32, np.nan, np.float32)
    angles = launcher.put(np.ones((1, 16), np.float32))
    launcher.launch("rope.cu", "rope_v1", (1, 1), (32,), (x, angles, angles, out, np.int32(1), np.int32(32)),
                    defines=("STORE=float",))
    if launcher.get(out).any():  # a NaN that was left counts as well
        raise TinyError("The kernel left other numbers than it should.", "Look at rope_v1 by itself.")
    yield {"nvrtc": nvrtc(launcher.newest).version, "sm": launcher.arch}


def sm_90a() -> Iterator[dict]:
    """Whether RawModule compiles instructions that only sm_90a has, and they run."""
    cupy = import_cupy()
    if cupy.cuda.Device().compute_capability != "90":
        yield {"absent": f"This GPU is sm_{cupy.cuda.Device().compute_capability}."}
        return
    code = EMPTY % 'asm volatile("wgmma.fence.sync.aligned;");'
    x = cupy.zeros(128, np.int32)
    cupy.RawModule(code=code, options=("-arch=sm_90a",)).get_function("touch")((1,), (128,), (x,))
    yield {"value": int(x[0])}


def graph() -> Iterator[dict]:
    """Capture 200 launches in a graph and replay it; the time of a launch in it, and from Python."""
    cupy = import_cupy()
    touch, x = cupy.RawKernel(EMPTY % "", "touch"), cupy.zeros(32, np.int32)
    run = lambda: touch((1,), (32,), (x,))
    run()
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        direct = elapsed(cupy, stream, lambda: [run() for _ in range(200)])
        captured = capture(stream, run, 200)
        captured.launch(stream)
        replayed = elapsed(cupy, stream, lambda: captured.launch(stream))
    if int(x[0]) != 601:
        raise TinyError(f"The counter is {int(x[0])}, not 601.", "Launch without graphs.")
    yield {"us_per_launch_in_graph": replayed * 5, "us_per_launch_from_python": direct * 5}


def copy() -> Iterator[dict]:
    """The memory's ceiling: bytes read and written by a copy within the device."""
    cupy = import_cupy()
    a = cupy.ones(1 << 28, np.float32)
    b = cupy.empty_like(a)
    found = time_runs(cupy, [lambda: cupy.copyto(b, a)])
    yield {**found, "bytes": 2 * a.nbytes, "TB_per_s": 2 * a.nbytes / found["us"] / 1e6}


def read() -> Iterator[dict]:
    """What a kernel can read that writes nothing, as those for few tokens do with weights: more than a copy moves."""
    cupy = import_cupy()
    x, out = cupy.ones(READ_NUMBERS, np.float32), cupy.zeros(1, np.uint32)
    kernel, chunks = cupy.RawKernel(READ, "read"), np.int64(READ_NUMBERS // 4)
    blocks = 8 * cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"]
    run = lambda: kernel((blocks,), (256,), (x, out, chunks))
    run()
    if int(out[0]) != blocks * 256:
        raise TinyError(f"{int(out[0])} of {blocks * 256} threads have read what is there.", "Look at READ by itself.")
    found = time_runs(cupy, [run])
    yield {**found, "bytes": x.nbytes, "TB_per_s": x.nbytes / found["us"] / 1e6}


def agree(name: str, storages: list = STORAGES) -> Iterator[dict]:
    """Every version of an operation with every storage against the book, outputs poisoned first."""
    launcher, wrong = Cuda(poisoned=True), 0
    for operation in cases.operations():
        for version in operation.versions if operation.name == name else ():
            for precision, weight in storages:
                for sizes in operation.small:
                    found = cases.agree(launcher, operation, sizes, (precision, weight), version)
                    wrong += not found["ok"]
                    yield {"version": version, "precision": precision, "weights": str(weight), "sizes": str(sizes),
                           **found}
    if wrong:
        raise TinyError(f"{wrong} cases differ from NumPy.", "See the rows that are not ok.")


def small() -> Iterator[dict]:
    """All operations with bfloat16 storage: what compute-sanitizer watches."""
    for operation in cases.operations():
        yield from agree(operation.name, STORAGES[-1:])


def times(name: str) -> Iterator[dict]:
    """Every version of an operation at published shapes, in bfloat16: just its kernels, without conversions."""
    launcher = Cuda()
    operation = next(operation for operation in cases.operations() if operation.name == name)
    for label, sizes in operation.published.items():
        moved, flop = operation.floor(**sizes)
        sets = input_sets(launcher, operation, sizes, moved)
        for version in operation.versions:
            row = {"operation": name, "version": version, "shape": label, "bytes": moved, "flop": flop,
                   "sets": len(sets)}
            try:
                runs = [record(launcher, operation, arguments, version) for arguments in sets]
            except ValueError as refusal:
                yield {**row, "refused": str(refusal)}
                continue
            yield {**row, **time_runs(launcher.cupy, [run.again for run in runs])}


def input_sets(launcher: Cuda, operation: Operation, sizes: dict, moved: int) -> list[tuple]:
    """At least three sets of arguments, that together are larger than the L2 cache where memory allows it."""
    l2 = launcher.cupy.cuda.runtime.getDeviceProperties(0)["l2CacheSize"]
    count = max(3, min(LAUNCHES, -(-2 * l2 // moved)))
    return [operation.make(Draw(launcher.cupy, "bfloat16", BFLOAT16, seed), **sizes) for seed in range(count)]


def record(launcher: Cuda, operation: Operation, arguments: tuple, version: str | None) -> Recorder:
    """Call the host function once and keep its launches."""
    recorder = Recorder(launcher)
    operation.call(recorder, arguments, "bfloat16", version)
    return recorder


def elapsed(cupy: Any, stream: Any, run: Callable) -> float:
    """Milliseconds on the device between two events around what run() queues."""
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record(stream)
    run()
    stop.record(stream)
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop)


def capture(stream: Any, run: Callable, count: int) -> Any:
    """A graph of `count` calls of run()."""
    stream.synchronize()
    stream.begin_capture()
    for _ in range(count):
        run()
    return stream.end_capture()


def time_runs(cupy: Any, runs: list[Callable]) -> dict:
    """Microseconds of one run: warm-ups, then a graph of 20 that go through all runs in turn, replayed twice 50 times.

    The mean of the two medians, and their distance as a share of it; less often what is slow.
    """
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        first = max(1e-3, elapsed(cupy, stream, runs[0]))
        launches = max(1, min(LAUNCHES, int(GRAPH_MS / first)))
        order = itertools.cycle(runs)
        for _ in range(min(WARM_UPS, launches)):
            next(order)()
        captured = capture(stream, lambda: next(order)(), launches)
        captured.launch(stream)
        replays = max(2, min(REPLAYS, int(TOTAL_MS / (first * launches))))
        medians = [statistics.median(elapsed(cupy, stream, lambda: captured.launch(stream)) for _ in range(replays))
                   * 1000 / launches for _ in range(2)]
    us = statistics.mean(medians)
    return {"us": us, "spread": abs(medians[0] - medians[1]) / us, "launches": launches, "replays": replays}


def sanitizer(tool: str) -> Iterator[dict]:
    """compute-sanitizer over the small cases. Yields "absent" if it is not installed. Raises TinyError if it fails."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).is_file():
        yield {"tool": tool, "absent": "compute-sanitizer is not installed here; it comes with the CUDA toolkit."}
        return
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "kernels.gpu.steps", "small"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line.removeprefix("=========").strip() for line in done.stdout.splitlines() if line.startswith("=====")]
    yield {"tool": tool, "status": done.returncode, "summary": said[-1:],
           "first": said[1:12] if done.returncode else []}
    if done.returncode:
        raise TinyError(f"compute-sanitizer {tool} ends with {done.returncode}: {' '.join(said[-1:])}",
                        "Run it by hand on python -m kernels.gpu.steps small.")


STEPS: dict[str, Callable[..., Iterator[dict]]] = {
    "device": device, "bfloat16": bfloat16_arrays, "cubin": own_cubin, "sm_90a": sm_90a, "graph": graph, "copy": copy,
    "read": read, "compile": ahead.compile_all, "agree": agree, "model": models.agree, "speed": models.speed,
    "time": times, "cublas": torch_peer.products, "sdpa": torch_peer.sdpa, "torch": torch_peer.times,
    "transformers": transformers_peer.speed, "compiled": transformers_peer.compiled, "sanitizer": sanitizer,
    "small": small}


def main(words: list[str]) -> int:
    """Run one step, named with its argument; print what it finds. A failure is one line on standard error."""
    name, *arguments = words
    try:
        for row in STEPS[name](*arguments):
            print(json.dumps(row), flush=True)
    except Exception as error:  # whatever it is, the script that started this process reports it
        if isinstance(error, ModuleNotFoundError) and error.name in PEERS:
            print(json.dumps({"absent": f"{error.name} is not installed here, so nothing is compared with it."}))
            return 0
        remedy = f" {error.remedy}" if isinstance(error, TinyError) else ""
        cause = error.cause if isinstance(error, TinyError) else f"{type(error).__name__}: {error}"
        print(f"{cause}{remedy}".replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
