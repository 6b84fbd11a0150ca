"""A CuPy that needs no GPU, for tests of the launcher: as strict as the real one, with the emulator behind it.

Arrays refuse to become NumPy's, or to meet them, unless they are asked to. A "cubin" is a note of its source, which a
RawModule runs through the emulator. What is not here, no launcher and no host function may use.
"""

import json
import math
import weakref
from types import SimpleNamespace

import numpy as np

import kernels.launch

__version__ = "14.2.0"
STATE = {"devices": 1, "arch": "90", "driver": 13000, "shared": 232448, "uploads": 0, "launches": []}
LIVE: "weakref.WeakValueDictionary[int, ndarray]" = weakref.WeakValueDictionary()


class CUDARuntimeError(RuntimeError):
    """What CuPy raises when the driver refuses."""


class ndarray:
    """An array on the pretended GPU. Views keep the memory of their base."""

    __module__ = "cupy"
    __cuda_array_interface__: dict = {}  # by which libraries know an array of a GPU

    def __init__(self, host):
        self._host = host
        self.data = SimpleNamespace(ptr=host.ctypes.data)
        self.shape, self.dtype, self.ndim, self.size, self.nbytes = (
            host.shape, host.dtype, host.ndim, host.size, host.nbytes)
        self.flags = SimpleNamespace(c_contiguous=host.flags.c_contiguous)  # CuPy's flags know no `writeable`
        LIVE[self.data.ptr] = self

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __len__(self):
        return len(self._host)

    def __getitem__(self, key):
        return ndarray(self._host[_host_key(key)])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        self._host[_host_key(key)] = value._host if isinstance(value, ndarray) else value

    def reshape(self, *shape):
        return ndarray(self._host.reshape(*shape))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and self.dtype == dtype and (order != "C" or self.flags.c_contiguous):
            return self
        return _new(self._host.astype(dtype, order=order))


def _host_key(key):
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, np.ndarray) for part in parts):
        raise IndexError("An index may not be a NumPy array.")
    return tuple(part._host if isinstance(part, ndarray) else part for part in parts)


def _new(host):
    """A copy in separate memory, which begins where a GPU's does."""
    copy = kernels.launch.aligned(host.shape, host.dtype)
    copy[...] = host
    return ndarray(copy)


def empty(shape, dtype=float, order="C"):
    return ndarray(kernels.launch.aligned((shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)))


def asarray(a, dtype=None, order=None):
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    STATE["uploads"] += np.asarray(a).nbytes
    return _new(np.asarray(a, dtype))


def ascontiguousarray(a, dtype=None):
    return a if a.flags.c_contiguous else _new(a._host)


def asnumpy(a, stream=None, order="C", out=None):
    return a._host.copy() if isinstance(a, ndarray) else np.asarray(a)


class RawModule:
    """Constructs without a look at the file, as CuPy's does; get_function loads it."""

    def __init__(self, code=None, *, path=None, options=()):
        assert code is None and not options and isinstance(path, str), "the launcher loads cubins, by path"
        self.path = path

    def get_function(self, name):
        with open(self.path, encoding="utf-8") as file:
            return RawKernel(name, **json.load(file))


class RawKernel:
    """Takes arrays and NumPy scalars, whatever their types: CuPy checks nothing of that."""

    def __init__(self, name, source, defines):
        self.name, self.source, self.defines = name, source, tuple(defines)
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.emulator = kernels.launch.Emulator()

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert isinstance(args, tuple) and len(grid) <= 3 and len(block) <= 3 and math.prod(block) <= 1024
        assert all(isinstance(arg, (ndarray, np.generic)) for arg in args), "arrays of the GPU, or NumPy scalars"
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDARuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        STATE["launches"].append((self.name, self.defines))
        wanted = kernels.launch.read_parameters(kernels.launch.find_source(self.source), self.name, self.defines)
        host = [self._host(arg, parameter) for arg, parameter in zip(args, wanted, strict=True)]
        self.emulator.launch(self.source, self.name, grid, block, host, shared_mem, self.defines)

    @staticmethod
    def _host(arg, parameter):
        if parameter.stars == 2:  # a table of addresses: of arrays that still live
            return [LIVE[int(address)]._host for address in arg._host]
        return arg._host if isinstance(arg, ndarray) else arg


def _count():
    if not STATE["devices"]:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime "
                               "version")
    return STATE["devices"]


cuda = SimpleNamespace(
    Device=lambda: SimpleNamespace(id=0, compute_capability=STATE["arch"],
                                   attributes={"MaxSharedMemoryPerBlockOptin": STATE["shared"]}),
    runtime=SimpleNamespace(getDeviceCount=_count, driverGetVersion=lambda: STATE["driver"],
                            CUDARuntimeError=CUDARuntimeError))
