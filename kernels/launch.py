"""Launchers: one call signature for a GPU and for the emulator.

    launcher = Emulator()                # or Cuda()
    out = launcher.empty((T, D), np.float32)
    launcher.launch("rms_norm.cu", "rms_norm_v1", grid, block, (x, weight, out, np.int32(T), ...), defines=(...))

Both take the same sources and the same arguments, arrays of NumPy for the emulator and of CuPy for the GPU, and check
every argument against the kernel's declaration first. A launcher reads a source once: make a new one after editing.
"""

import contextlib
import functools
import math
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernels.device.gpus import import_cupy, open_gpu, with_room
from kernels.nvrtc import cubin, nvrtc
from kernels.signature import HERE, Parameter, check_arguments, geometry, read_parameters
from tiny.config import TinyError

ALIGNED = 256  # bytes: where arrays begin on a GPU, and where those of the emulator do


def find_source(file: str | Path) -> Path:
    """A source of this folder by its name, or any by its path. Raises TinyError if there is none."""
    path = HERE / file if (HERE / file).is_file() else Path(file)
    if not path.is_file():
        raise TinyError(f"There is no kernel file {file}.",
                        f"Use a path, or one of {', '.join(sorted(found.name for found in HERE.glob('*.cu')))}.")
    return path


def poison(array: Any) -> Any:
    """Fill an array with values that no result should have, so that a place which a kernel skips is seen."""
    array[...] = np.iinfo(array.dtype).max // 2 if array.dtype.kind in "iu" else array.dtype.type(np.nan)
    return array


class Launcher:
    """What both launchers share: a kernel is looked up once, its arguments are checked at every launch.

    lock: held by whoever records, or starts what belongs together, so that threads take turns
    """

    device = ""
    array_type: type = np.ndarray

    def __init__(self) -> None:
        self.loaded: dict[tuple, tuple[Any, list[Parameter]]] = {}
        self.lock = threading.RLock()

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """A new array on the device, for a kernel to fill."""
        raise NotImplementedError

    def put(self, array: Any) -> Any:
        """An array on the device, without gaps and aligned for 16-byte reads; the same one if nothing has to change."""
        raise NotImplementedError

    def get(self, array: Any) -> np.ndarray:
        """An array of the device as NumPy's."""
        raise NotImplementedError

    def write(self, array: Any, numbers: np.ndarray) -> None:
        """Copy numbers of the host into an array of the device."""
        raise NotImplementedError

    def fetch(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Wait once, and return copies of arrays of the device."""
        raise NotImplementedError

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Start nothing of what run() launches, but keep it; return a function that starts all of it."""
        raise NotImplementedError

    def free_bytes(self) -> int | None:
        """How much memory of the device is free; None where arrays are the host's."""
        return None

    def cast(self, array: Any, dtype: Any) -> Any:
        """The numbers of an array in another type, without gaps; the same array if it has both."""
        return array.astype(dtype, order="C", copy=False)

    def table(self, arrays: Sequence[Any]) -> list:
        """Arrays of the device that kernels take as a table of pointers, which is made now and not by a launch."""
        return list(arrays)

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """Compile a source, or find it compiled, and return one kernel of it."""
        raise NotImplementedError

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Start a kernel with arguments that were checked."""
        raise NotImplementedError

    def launch(self, file: str | Path, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any],
               shared_bytes: int = 0, defines: Sequence[str] = ()) -> None:
        """Run one kernel of a source.

        grid, block: one to three sizes; args: arrays of this device, NumPy scalars, or lists of arrays, which become
        tables of pointers; defines: "NAME=VALUE", with which the source is compiled

        Raises:  TinyError for a source that does not compile, or arguments that its declaration does not take
        """
        blocks, threads = geometry(grid, block)
        key = (str(file), kernel, tuple(defines))
        if key not in self.loaded:
            path = find_source(file)
            wanted = read_parameters(path, kernel, defines)
            self.loaded[key] = self.load(path, kernel, tuple(defines)), wanted
        function, wanted = self.loaded[key]
        check_arguments(kernel, wanted, args, self.array_type, self.device)
        self.call(function, blocks, threads, list(args), int(shared_bytes))


class OnHost(Launcher):
    """What launchers have in common that run kernels on a CPU: their arrays are NumPy's."""

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """A new array that begins where one of a GPU would. Shapes:  -> as asked for."""
        return poison(aligned(shape, np.dtype(dtype)))

    def get(self, array: np.ndarray) -> np.ndarray:
        """The array itself. Shapes:  any -> same."""
        return array

    def write(self, array: np.ndarray, numbers: np.ndarray) -> None:
        """Copy numbers into an array. Shapes:  any, the same."""
        array[...] = numbers

    def fetch(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Copies of the arrays. Shapes:  any -> same."""
        return [array.copy() for array in arrays]


class Emulator(OnHost):
    """Kernels on this CPU: see `kernels.emulator`.

    check: report bad accesses and races instead of making them; order: in which threads and blocks run, "forward",
    "reverse" or "random:SEED"
    """

    device = "the host"

    def __init__(self, check: bool = False, order: str = "forward") -> None:
        super().__init__()
        if shutil.which("g++") is None:
            raise TinyError("The emulator compiles kernels with g++, which is not on this machine.",
                            "Install it, for example with: apt-get install g++.")
        self.check, self.order = check, order
        self.modules: dict[tuple, Any] = {}
        self.recorded: list[tuple] | None = None  # what a recording has kept so far

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array itself, or a copy without gaps that begins at a multiple of 16 bytes. Shapes:  any -> same."""
        if array.flags.c_contiguous and array.ctypes.data % 16 == 0:
            return array
        copy = aligned(array.shape, array.dtype)
        copy[...] = array
        return copy

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """A kernel of a shared library, which is compiled at its first use and kept on disk."""
        from kernels.emulator import Module

        if (path, defines) not in self.modules:
            self.modules[path, defines] = Module(path, defines=defines, check=self.check, order=self.order)
        return functools.partial(self.modules[path, defines].launch, kernel)

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Run the kernel to its end, or keep it for the recording that goes on."""
        if self.recorded is not None:
            self.recorded.append((function, grid, block, args, shared_bytes))
        else:
            function(grid, block, args, shared_bytes=shared_bytes)

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """A list of launches, in their order."""
        launches: list[tuple] = []
        self.recorded = launches
        try:
            run()
        finally:
            self.recorded = None

        def replay() -> None:
            for launch in launches:
                self.call(*launch)

        return replay


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """A new array that begins at a multiple of 256 bytes. Shapes:  -> as asked for."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)


class Cuda(Launcher):
    """Kernels on a GPU, through CuPy.

    poisoned: new arrays are filled with NaN, for tests; index: the number of the GPU; by default CuPy's current one
    """

    def __init__(self, poisoned: bool = False, index: int | None = None) -> None:
        super().__init__()
        self.cupy = import_cupy()
        self.array_type, self.poisoned = self.cupy.ndarray, poisoned
        self.gpu = open_gpu(self.cupy, index)
        self.device, self.arch = f"GPU {self.gpu.id}", int(self.gpu.compute_capability)
        self.shared_limit = self.gpu.attributes["MaxSharedMemoryPerBlockOptin"]
        self.newest = self.cupy.cuda.runtime.driverGetVersion() // 1000
        self.tables: dict[tuple[int, ...], Any] = {}
        nvrtc(self.newest).check_arch(self.arch)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """A new array on the GPU. Raises TinyError if its memory is full."""
        with self.gpu:
            array = with_room(self.cupy, lambda: self.cupy.empty(shape, dtype))
        return poison(array) if self.poisoned else array

    def put(self, array: Any) -> Any:
        """An array on the GPU: copied there, unless it is there and has no gaps. Raises TinyError as `empty`."""
        with self.gpu:
            return with_room(self.cupy, lambda: self.cupy.ascontiguousarray(self.cupy.asarray(array)))

    def get(self, array: Any) -> np.ndarray:
        """Wait for an array, and copy it to the host."""
        with self.gpu:
            return self.cupy.asnumpy(array, out=np.empty(array.shape, array.dtype))

    def table(self, arrays: Sequence[Any]) -> list:
        """The arrays, whose addresses are now on the GPU."""
        self.pointer_table(arrays)
        return list(arrays)

    def write(self, array: Any, numbers: np.ndarray) -> None:
        """Copy numbers of the host into an array on the GPU, behind the work that was queued before."""
        with self.gpu:
            array.set(numbers)

    def fetch(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Wait once, and return copies of arrays on the GPU."""
        with self.gpu:
            # into arrays that are there: without them CuPy may give the memory itself, where host and GPU share it
            copies = [self.cupy.asnumpy(array, out=np.empty(array.shape, array.dtype), blocking=False)
                      for array in arrays]
            self.cupy.cuda.get_current_stream().synchronize()
        return copies

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph, captured on a stream of its own. It is started on the current one, as copies and launches are:
        so they stay in order, whether that is the default stream, one of the caller's, or one of each thread's.
        """
        with self.gpu:
            stream = self.cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                try:
                    run()
                except BaseException:
                    with contextlib.suppress(RuntimeError):
                        stream.end_capture()
                    raise
                graph = stream.end_capture()

        def replay() -> None:
            with self.gpu:
                graph.launch()

        return replay

    def free_bytes(self) -> int | None:
        """How much memory of the GPU is free, with what CuPy keeps for later; within CuPy's limit, if it has one."""
        with self.gpu:
            pool = self.cupy.get_default_memory_pool()
            free, limit = self.gpu.mem_info[0] + pool.free_bytes(), pool.get_limit()
            return max(0, min(free, limit - pool.used_bytes())) if limit else free

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """A kernel of a cubin, which is compiled at its first use and kept on disk."""
        compiled = cubin(path, self.arch, defines, self.newest)
        with self.gpu:
            return self.cupy.RawModule(path=str(compiled)).get_function(kernel)

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Queue the kernel on the current stream; what it writes is there when something waits for it."""
        if shared_bytes > self.shared_limit:
            raise TinyError(f"{shared_bytes:,} bytes of shared memory are more than the {self.shared_limit:,} of a "
                            "block on this GPU.", "Use smaller tiles.")
        if shared_bytes > function.max_dynamic_shared_size_bytes:  # 48 KiB, unless more is asked for
            function.max_dynamic_shared_size_bytes = shared_bytes
        given = tuple(self.pointer_table(arg) if isinstance(arg, (list, tuple)) else arg for arg in args)
        with self.gpu:
            function(grid, block, given, shared_mem=shared_bytes)

    def pointer_table(self, arrays: Sequence[Any]) -> Any:
        """The addresses of arrays, on the GPU. They are kept, because the same arrays come with every token, and the
        kernel reads the table after this function has returned.
        """
        pointers = tuple(array.data.ptr for array in arrays)
        if pointers not in self.tables:
            self.tables[pointers] = self.put(np.array(pointers, np.uint64))
        return self.tables[pointers]
