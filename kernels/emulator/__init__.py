"""The emulator: CUDA kernels on a CPU, with the checks of a sanitizer and the counters of a profiler.

    module = Module("saxpy.cu", check=True)
    module.launch("saxpy", (4,), (256,), (np.int32(n), np.float32(2), x, y))

The `.cu` file is the same one that nvcc compiles; here g++ does. Read on in this order: `fibers.cpp` (a thread
is a fiber), `meetings.cpp` (a collective is a meeting), `copies.cpp` (cp.async is a promise), `watch.cpp` (every access
can be watched), `fences.cpp` (what one thread hands to another), `profile.cpp` (what the addresses would cost);
`device.h` is the language that kernels see, and `rewrite.py`, `ptx.py` and `build.py` bring a file from CUDA to g++.

What it does not model:

* Memory is sequentially consistent. In checked mode, a block hands data to another by a fence (__threadfence) and an
  atomic operation, or an access to volatile global memory; a missing fence is a race. Other scopes, weaker fences and
  cuda::atomic are not known.
* Time, occupancy, registers, caches and replays. The profile counts addresses.
* Rounding of the fast intrinsics and of tensor cores: the accurate functions and plain float sums replace them. No
  contraction of a * b + c, no flush of denormals.
* Blocks run one after another on a worker, so a barrier across the grid never ends. A thread is never interrupted: a
  loop without memory accesses that does not end, or, outside of checked mode, a loop that reads a flag, hangs until
  SIGALRM ends it with a report of its line.
* Threads that write the same value to the same place without order are reported as a race, as C++ has it.
* Shared arrays may be better aligned here than their type demands.
* Warp-wide wgmma, TMA, clusters, textures, dynamic parallelism. Host code in the file (main, launches, cudaMalloc) is
  left out.
"""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernels.emulator import build
from kernels.emulator.arguments import Packed, check_shared, pack, parameter
from kernels.emulator.report import Lines, Report, from_finding
from kernels.signature import Parameter, geometry
from tiny.config import TinyError

__all__ = ["Module", "Parameter", "Report", "Row"]

ORDERS = {"forward": 0, "reverse": 1, "random": 2}
ARGUMENT, STATIC_SHARED, DEVICE_VARIABLE = range(3)


class Row(NamedTuple):
    """What one kind of access of one line would have cost. work: sectors of 32 bytes, or cycles of the banks."""

    file: str
    line: int
    memory: str
    access: str
    bytes: int
    requests: int
    work: int
    ideal: int

    @property
    def efficiency(self) -> float:
        """Ideal through actual work: 1 is best."""
        return self.ideal / self.work if self.work else 1.0


class Region(ctypes.Structure):
    """RegionRequest of runtime.h."""

    _fields_ = [("low", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("kind", ctypes.c_uint32),
                ("writable", ctypes.c_uint32), ("written", ctypes.c_uint32), ("unused", ctypes.c_uint32),
                ("name", ctypes.c_char_p)]


class Request(ctypes.Structure):
    """Request of runtime.h."""

    _fields_ = [("call", ctypes.c_void_p), ("arguments", ctypes.c_void_p), ("shared_base", ctypes.c_void_p),
                ("shared_offset", ctypes.c_uint64), ("regions", ctypes.POINTER(Region)),
                ("n_regions", ctypes.c_uint64), ("seed", ctypes.c_uint64), ("grid", ctypes.c_uint32 * 3),
                ("block", ctypes.c_uint32 * 3), ("shared_bytes", ctypes.c_uint32), ("order", ctypes.c_uint32),
                ("mode", ctypes.c_uint32), ("workers", ctypes.c_uint32), ("unused", ctypes.c_uint32 * 2)]


class Finding(ctypes.Structure):
    """Finding of runtime.h."""

    _fields_ = [("what", ctypes.c_char * 3072), ("file", ctypes.c_char * 1024), ("line", ctypes.c_int32),
                ("found", ctypes.c_int32), ("code", ctypes.c_uint64), ("block", ctypes.c_uint32 * 3),
                ("thread", ctypes.c_uint32 * 3)]


class ParameterEntry(ctypes.Structure):
    """Parameter of device.h."""

    _fields_ = [("type", ctypes.c_char_p), ("bytes", ctypes.c_uint32)]


class KernelEntry(ctypes.Structure):
    """Kernel of device.h."""


KernelEntry._fields_ = [("name", ctypes.c_char_p), ("call", ctypes.c_void_p),
                        ("parameters", ctypes.POINTER(ParameterEntry)), ("n_parameters", ctypes.c_uint32),
                        ("next", ctypes.POINTER(KernelEntry))]


class Module:
    """The kernels of one .cu file, compiled for this machine.

    path: the file. defines: "NAME=VALUE" for -D. instances: kernels made of templates, "scale<float>". check: look at
    every access. profile: count what the accesses would cost. order: in which threads and blocks take turns, "forward",
    "reverse" or "random:SEED". workers: how many blocks run at the same time; all cores if None; one with check or
    profile. portable: switch stacks by the system's functions. debug: compile for a debugger. strict: refuse functions
    without `return`, and variables that are read before they are set.

    Raises: TinyError without g++, or if the file does not compile
    """

    def __init__(self, path, defines: Sequence[str] = (), check: bool = False, profile: bool = False,
                 order: str = "forward", workers: int | None = None, portable: bool = False, debug: bool = False,
                 instances: Sequence[str] = (), strict: bool = False):
        name, _, seed = order.partition(":")
        if name not in ORDERS or seed and not seed.isdigit():
            raise TinyError(f"The order {order!r} is not known.", 'Say "forward", "reverse" or "random:7".')
        if check and profile:
            raise TinyError("A module either checks or profiles.", "Make two modules of the same file.")
        self.order, self.seed = ORDERS[name], int(seed or 0)
        self.mode = 1 if check else 2 if profile else 0
        self.workers = 1 if self.mode else workers or os.cpu_count() or 1
        self.built = build.build(path, tuple(defines), tuple(instances), bool(self.mode), portable, debug,
                                 strict)
        self.variables, self.shared_offset = symbols(self.built.library)
        self.library = load(self.built.library, any(kind == DEVICE_VARIABLE for _, _, kind, _ in self.variables))
        self.library.emulator_launch.restype = None
        self.library.emulator_kernels.restype = ctypes.POINTER(KernelEntry)
        self.library.emulator_profile.restype = ctypes.c_char_p
        self.lines = Lines(self.built.library, str(path))
        self.entries = self._entries()
        self.known_parameters: dict[str, list[Parameter]] = {}

    def _entries(self) -> dict[str, KernelEntry]:
        """The kernels as the library lists them, in the order of the file."""
        found, entry = [], self.library.emulator_kernels()
        while entry:
            found.append(entry.contents)
            entry = entry.contents.next
        return {kernel.name.decode(): kernel for kernel in reversed(found)}

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels that can be launched."""
        return list(self.entries)

    def _entry(self, kernel: str) -> KernelEntry:
        if kernel not in self.entries:
            names = ", ".join(self.entries) or "none"
            remedy = f"It has: {names}."
            if kernel.partition("<")[0] in self.built.templates:
                remedy = f"{kernel} is a template: Module(..., instances=('{kernel.partition('<')[0]}<float>',))."
            raise TinyError(f"{self.built.path} has no kernel {kernel}.", remedy)
        return self.entries[kernel]

    def parameters(self, kernel: str) -> list[Parameter]:
        """The parameters of a kernel, as the compiler knows them."""
        entry = self._entry(kernel)
        if kernel in self.known_parameters:
            return self.known_parameters[kernel]
        names = parameter_names(self.built.kernels.get(kernel, ""), entry.n_parameters)
        found = [entry.parameters[n] for n in range(entry.n_parameters)]
        types = [re.search(r"T = (.*?)\]$", p.type.decode()) for p in found]
        self.known_parameters[kernel] = [parameter(name, type_[1] if type_ else "", p.bytes)
                                         for name, type_, p in zip(names, types, found)]
        return self.known_parameters[kernel]

    def launch(self, kernel: str, grid, block, args, shared_bytes: int = 0, unwritten=()) -> None:
        """Run a kernel to its end.

        args: arrays, NumPy scalars, and lists of arrays for tables of pointers, in the kernel's order. unwritten: the
        numbers of arguments whose content counts as never written.

        Raises: TinyError for arguments or sizes that do not fit; Report for what the kernel did
        """
        entry = self._entry(kernel)
        packed = pack(kernel, self.parameters(kernel), args, unwritten)
        grid, block = geometry(grid, block)
        check_shared(shared_bytes, self._static_bytes(kernel))
        finding = self._run(entry, packed, grid, block, shared_bytes)
        if finding.found:
            raise from_finding(finding, self.lines, kernel)

    def _static_bytes(self, kernel: str) -> int:
        """The static shared memory that a kernel itself declares."""
        own = re.compile(rf"(?:void )?(?:\w+::)*{re.escape(kernel)}(?:\(|::)")
        return sum(size for _, size, kind, name in self.variables if kind == STATIC_SHARED and own.match(name))

    def _run(self, entry: KernelEntry, packed: Packed, grid, block, shared_bytes: int) -> Finding:
        regions = [Region(low, size, ARGUMENT, writable, written, 0, name.encode())
                   for low, size, writable, written, name in packed.ranges]
        regions += [Region(low, size, kind, 1, kind == DEVICE_VARIABLE, 0, short_name(name).encode())
                    for low, size, kind, name in self.variables]
        cells = (ctypes.c_void_p * len(packed.cells))(*[cell.ctypes.data for cell in packed.cells])
        listed = (Region * len(regions))(*regions)
        workers = min(self.workers, grid[0] * grid[1] * grid[2])
        if grid[0] * grid[1] * grid[2] * block[0] * block[1] * block[2] < 2048:
            workers = 1  # beginning a second one would take longer
        request = Request(entry.call, ctypes.cast(cells, ctypes.c_void_p),
                          ctypes.cast(self.library.emulator_shared_base, ctypes.c_void_p), self.shared_offset, listed,
                          len(regions), self.seed + 1, grid, block, shared_bytes, self.order, self.mode, workers)
        finding = Finding()
        self.library.emulator_launch(ctypes.byref(request), ctypes.byref(finding))
        return finding

    def profile(self) -> list[Row]:
        """What the launches since the last call would have cost, by line. Needs Module(..., profile=True)."""
        first = next(iter(self.entries.values()), None)
        text = self.library.emulator_profile(ctypes.c_void_p(first.call)).decode() if first else ""
        numbers = np.array(text.split(), np.int64).reshape(-1, 7).tolist()
        places = self.lines.of([code - 1 for code, *_ in numbers])
        rows: dict[tuple, Row] = {}
        for (file, line), (_, shared, access, size, *counts) in zip(places, numbers):
            key = (file, line, ("global", "shared")[shared], ("load", "store", "atomic")[access], size)
            old = rows.get(key)
            rows[key] = Row(*key, *(a + b for a, b in zip(counts, old[5:] if old else (0, 0, 0))))
        return sorted(rows.values())


def load(library: Path, own: bool) -> ctypes.CDLL:
    """Load a library; a copy of it, if it has variables that would outlive a module."""
    if not own:
        return ctypes.CDLL(str(library))
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(shutil.copy(library, Path(folder) / library.name))


def symbols(library: Path) -> tuple[list[tuple[int, int, int, str]], int]:
    """The variables of a library as (offset, bytes, kind, name), and where its dynamic shared memory is."""
    text = subprocess.run(["readelf", "-SWsC", str(library)], capture_output=True, text=True).stdout
    sections = dict(re.findall(r"^\s+\[ *(\d+)\] (\.\S+)", text, re.M))
    pattern = r"^ *\d+: ([0-9a-f]+) +(\w+) (TLS|OBJECT) +\S+ +\S+ +(\d+) (.*?) *$"
    variables, dynamic = set(), 0
    for value, size, kind, section, name in re.findall(pattern, text, re.M):
        if name == "emulator_dynamic":
            dynamic = int(value, 16)
        elif kind == "TLS":
            variables.add((int(value, 16), int(size, 0), STATIC_SHARED, name))
        elif sections.get(section) in (".bss", ".data") and not re.match(r"__|std::|completed|.*emulator", name):
            variables.add((int(value, 16), int(size, 0), DEVICE_VARIABLE, name))
    return sorted(variables), dynamic


def short_name(demangled: str) -> str:
    """`void f<int>(int const*)::s` is `s`."""
    return re.split(r"::", re.sub(r"\[abi:\w+\]", "", demangled))[-1]


def parameter_names(text: str, n: int) -> list[str]:
    """The names in a parameter list, where they can be read; else numbers."""
    parts = re.split(r",(?![^<(]*[>)])", text) if text.strip() else []
    names = [re.findall(r"\w+", part.partition("=")[0]) for part in parts]
    if len(names) != n or not all(names):
        return [f"argument{i}" for i in range(n)]
    return [words[-1] for words in names]
