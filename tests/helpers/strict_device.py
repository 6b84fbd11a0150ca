"""A CuPy that needs no GPU, for tests of the launcher and of resident models: as strict as the real one, or stricter.

`sys.modules["cupy"]` may be this module. A "cubin" is a note of its source, which a RawModule runs through the
emulator. `strict_queue` says when work happens, and counts; `strict_arrays` what an array may do. Names, signatures and
what can be seen without a GPU are compared with the real CuPy in tests/kernels/test_strict_fidelity.py. Stricter here:

* What is not here, no launcher and no host function may use.
* New memory, and scratch memory before each replay of a graph, holds poison.
* While a stream captures, no memory may be had and no module loaded. CuPy captures in the relaxed mode, in which its
  pool gives memory and takes it back while the graph still points at it.
"""

import contextlib
import json
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import strict_arrays as arrays
import strict_queue as queue
from strict_arrays import (
    HOST,
    array,
    asarray,
    ascontiguousarray,
    asnumpy,
    copyto,
    empty,
    empty_like,
    full,
    memory_at,
    ndarray,
    ones,
    zeros,
)
from strict_queue import STATE, CUDARuntimeError, Event, Graph, Stream, reset

import kernels.launch

__all__ = ["STATE", "array", "asarray", "ascontiguousarray", "asnumpy", "copyto", "cuda", "empty", "empty_like", "full",
           "get_default_memory_pool", "ndarray", "ones", "random", "reset", "zeros", "RawKernel", "RawModule"]
__version__ = "14.2.0"
float32, int32 = np.float32, np.int32


class CUDADriverError(RuntimeError):
    """What CuPy raises when the driver refuses."""


class RawModule:
    """Constructs without a look at the file, as CuPy's does; get_function loads it."""

    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc", translate_cucomplex=False,
                 enable_cooperative_groups=False, name_expressions=None, jitify=None):
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        assert isinstance(path, str), "the launcher loads cubins, by path"
        self.file_path = path

    def get_function(self, name):
        queue.forbid_in_capture()
        with open(self.file_path, encoding="utf-8") as file:
            note = json.load(file)
        kernel = RawKernel(None, name)
        kernel._find(note["source"], tuple(note["defines"]))
        return kernel


class RawKernel:
    """Takes arrays and scalars, whatever their types: CuPy checks nothing of that, and the emulator all."""

    def __init__(self, code, name, options=(), backend="nvrtc", *, translate_cucomplex=False,
                 enable_cooperative_groups=False, jitify=None):
        self.code, self.name, self.max_dynamic_shared_size_bytes = code, name, 48 << 10
        self._emulator, self._wanted = kernels.launch.Emulator(), None

    def _find(self, source, defines):
        self._source, self._defines = kernels.launch.find_source(source), defines
        self._wanted = kernels.launch.read_parameters(self._source, self.name, defines)

    def _compile(self):
        """A kernel that came as text is compiled at its first launch."""
        queue.forbid_in_capture()
        self._folder = tempfile.TemporaryDirectory()  # it lives as long as the kernel
        path = Path(self._folder.name) / "code.cu"
        path.write_text(self.code, encoding="utf-8")
        self._find(path, ())

    def __call__(self, grid, block, args, *, shared_mem=0):
        if self._wanted is None:
            self._compile()
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("Expected tuple, got " + type(grid if isinstance(block, tuple) else block).__name__)
        grid, block = [tuple(max(1, size) for size in (*sizes, 1, 1)[:3]) for sizes in (grid, block)]
        if shared_mem > self.max_dynamic_shared_size_bytes or math.prod(block) > 1024:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        there = [arg for arg in args if isinstance(arg, ndarray)]
        given = [HOST if isinstance(arg, ndarray) else by_value(arg) for arg in args]
        if any(arg.data.device_id != queue.current_device() for arg in there):
            raise CUDARuntimeError(700)

        def run(*hosts):
            hosts = iter(hosts)
            host = [at_address(next(hosts), p) if arg is HOST else arg
                    for arg, p in zip(given, self._wanted, strict=True)]
            self._emulator.launch(self._source, self.name, grid, block, host, shared_mem, self._defines)

        STATE["launches"].append((self.name, self._defines))
        queue.submit(self.name, run, there)


def by_value(arg):
    """An argument as CuPy passes what is no array of its own: numbers, and arrays of one number."""
    if isinstance(arg, np.ndarray):
        if arg.size != 1:
            raise TypeError(f"You are trying to pass a numpy.ndarray of shape {arg.shape} as a kernel parameter. Only "
                            "numpy.ndarrays of size one can be passed by value. If you meant to pass a pointer to "
                            "__global__ memory, you need to pass a cupy.ndarray instead.")
        return arg.reshape(())[()]
    if not isinstance(arg, (np.generic, int, float)):
        raise TypeError(f"Unsupported type {type(arg)}")
    return arg


def at_address(host, parameter):
    """What a kernel finds there: the array, or, in a table of addresses, the arrays that live at each."""
    if parameter.stars < 2:
        return host
    found = [memory_at(int(address)) for address in host]
    dtype = parameter.dtype or np.dtype(np.uint8)
    return [memory.bytes[offset:][: (memory.size - offset) // dtype.itemsize * dtype.itemsize].view(dtype)
            for memory, offset in found]


class MemoryPool:
    """What CuPy keeps of memory that was given back. Here it goes back to the device at once."""

    def free_bytes(self):
        return 0

    def used_bytes(self):
        return STATE["held"]

    def get_limit(self):
        return STATE["limit"]


def get_default_memory_pool():
    return MemoryPool()


class Device:
    """One of the devices. Nobody looks whether it is there before it is used."""

    def __init__(self, device=None):
        self.id = runtime.getDevice() if device is None else int(device)

    def __int__(self):
        return self.id

    def __enter__(self):
        self._before = [*getattr(self, "_before", []), queue.HERE.device]
        self.use()
        return self

    def __exit__(self, *args):
        runtime.setDevice(self._before.pop())

    def use(self):
        runtime.setDevice(self.id)
        return self

    def synchronize(self):
        with self:
            queue.wait_for_device()

    @property
    def compute_capability(self):
        with self:
            return STATE["arch"]

    @property
    def attributes(self):
        with self:
            return {"MaxSharedMemoryPerBlockOptin": STATE["shared"], "MultiProcessorCount": 132}

    @property
    def mem_info(self):
        with self:
            return STATE["memory"] - STATE["held"], STATE["memory"]


def get_device_count():
    if not STATE["devices"]:
        raise CUDARuntimeError(35)
    return STATE["devices"]


def set_device(device):
    if not 0 <= device < get_device_count():
        raise CUDARuntimeError(101)
    queue.HERE.device = device


def get_device():
    get_device_count()
    return queue.HERE.device


def get_current_stream(device_id=-1):
    return queue.current_stream()


@contextlib.contextmanager
def scratch(*buffers):
    """While this lasts, every replay of a graph finds these arrays poisoned."""
    before, STATE["scratch"] = STATE["scratch"], [*STATE["scratch"], *buffers]
    try:
        yield
    finally:
        STATE["scratch"] = before


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError, getDeviceCount=get_device_count, getDevice=get_device, setDevice=set_device,
    driverGetVersion=lambda: STATE["driver"], runtimeGetVersion=lambda: STATE["runtime"],
    getDeviceProperties=lambda device: {"l2CacheSize": 4096, "multiProcessorCount": 132},
    deviceSynchronize=queue.wait_for_device, memGetInfo=lambda: Device().mem_info, streamCaptureModeGlobal=0,
    streamCaptureModeThreadLocal=1, streamCaptureModeRelaxed=2)
cuda = SimpleNamespace(Device=Device, Event=Event, Graph=Graph, MemoryPool=MemoryPool, Stream=Stream, runtime=runtime,
                       get_current_stream=get_current_stream, get_elapsed_time=queue.get_elapsed_time,
                       driver=SimpleNamespace(CUDADriverError=CUDADriverError),
                       memory=SimpleNamespace(OutOfMemoryError=arrays.OutOfMemoryError))
random = SimpleNamespace(Generator=arrays.Generator, default_rng=arrays.default_rng)
