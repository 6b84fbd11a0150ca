"""The compiler of the GPU path: NVRTC, called without CuPy, from a `.cu` file to a cubin that is kept.

NVRTC is a shared library of the CUDA toolkit that compiles without a GPU and without a driver. It comes in three small
wheels, or with a toolkit. A cubin is kept under a name made of everything that went into it, so that it is never stale.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from kernels.signature import HERE, local_files
from tiny.config import TinyError
from tiny.system.whole import write_whole

OLDEST = 80  # sm_80: the first with bfloat16 on tensor cores and with asynchronous copies
WHEELS = {13: "nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt",
          12: "nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12"}
NEEDED = ("cuda_bf16.h", "mma.h", "crt/mma.h")  # headers; each of the last two comes in another wheel than NVRTC
MESSAGE = re.compile(r"^(.+?)\((\d+)\): (?:catastrophic )?error:? (.+)", re.M)


def roots() -> list[Path]:
    """Folders that may hold NVRTC: the wheels' in the order of Python's path, then those of a toolkit."""
    found = importlib.util.find_spec("nvidia")
    wheels = [Path(folder) for folder in found.submodule_search_locations or ()] if found else []
    nvcc = shutil.which("nvcc")
    systems = [*([Path(nvcc).resolve().parent.parent] if nvcc else []), Path("/usr/local/cuda")]
    return [*(root for wheel in wheels for root in sorted(wheel.glob("*"), reverse=True)), *systems]


def libraries(folders: Sequence[Path]) -> list[tuple[int, Path]]:
    """Every NVRTC in these folders, with the major version of its CUDA."""
    return [(int(path.name.split(".")[2]), path) for root in folders for lib in ("lib", "lib64")
            for path in sorted((root / lib).glob("libnvrtc.so.*"))]


def headers(library: Path, folders: Sequence[Path]) -> list[Path]:
    """The include folders for one NVRTC: its own and, for the wheels of CUDA 12, which split them, its neighbours'."""
    own = library.parent.parent
    parts = [root for root in folders if root.parent == own.parent and root.name.startswith("cuda_")]
    found = [own, *(parts if own.name == "cuda_nvrtc" else [])]
    return [folder / "include" for folder in dict.fromkeys(found) if (folder / "include").is_dir()]


def find(newest: int | None = None) -> tuple[Path, tuple[Path, ...]]:
    """The NVRTC library of the highest version, at most `newest`, that has its headers; and the folders of these.

    Raises:  TinyError that names the wheels to install
    """
    folders, lacking = roots(), ""
    fitting = [(major, path) for major, path in libraries(folders) if newest is None or major <= newest]
    for _, path in sorted(fitting, key=lambda pair: -pair[0]):
        include = headers(path, folders)
        missing = [name for name in NEEDED if not any((folder / name).is_file() for folder in include)]
        if not missing:
            return path, tuple(include)
        lacking = lacking or f"{path.name} is installed without the header {missing[0]}."
    wheels = WHEELS.get(newest or 13, WHEELS[13])
    raise TinyError(lacking or "The compiler NVRTC is not installed" + (f" for CUDA {newest}." if newest else "."),
                    f"pip install {wheels}, all of one CUDA version, or install a CUDA toolkit.")


class Nvrtc:
    """The library, loaded, with its version and the architectures that it compiles for."""

    def __init__(self, newest: int | None = None):
        path, self.include = find(newest)
        for part in sorted(path.parent.glob("libnvrtc-builtins.so.*")):  # found by its name once it is loaded
            ctypes.CDLL(str(part))
        self.library = ctypes.CDLL(str(path))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"
        self.call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        archs = (ctypes.c_int * count.value)()
        self.call("nvrtcGetSupportedArchs", archs)
        self.archs = list(archs)

    def call(self, function: str, *args) -> None:
        """Call a function of the library. Raises TinyError with the library's words unless it succeeds."""
        status = getattr(self.library, function)(*args)
        if status:
            raise TinyError(f"{function}: {self.library.nvrtcGetErrorString(status).decode()}.",
                            "Check that the CUDA wheels are all of one version.")

    def check_arch(self, arch: int) -> None:
        """Refuse a GPU that the kernels or this NVRTC do not support. Raises TinyError."""
        if arch < OLDEST:
            raise TinyError(f"sm_{arch} is older than sm_{OLDEST}, for which the kernels are written.",
                            "Use a GPU of the A100's generation or later, or --device emulator.")
        if arch not in self.archs:
            raise TinyError(f"NVRTC {self.version} does not compile for sm_{arch}; it does for "
                            f"{', '.join(f'sm_{known}' for known in self.archs if known >= OLDEST)}.",
                            "Install the CUDA wheels of a version that knows this GPU.")

    def compile(self, path: Path, options: Sequence[str], form: str = "CUBIN") -> tuple[bytes, str]:
        """One source to a cubin, or to "PTX", with what the compiler says. Raises TinyError with place of an error."""
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        self.call("nvrtcCreateProgram", ctypes.byref(program), path.read_bytes(), str(path).encode(), 0, None, None)
        try:
            status = self.library.nvrtcCompileProgram(program, len(options), given)
            self.call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            self.call("nvrtcGetProgramLog", program, log)
            if status:
                raise refusal(path.name, options, log.value.decode(errors="replace"))
            self.call(f"nvrtcGet{form}Size", program, ctypes.byref(size))
            compiled = ctypes.create_string_buffer(size.value)
            self.call(f"nvrtcGet{form}", program, compiled)
            return compiled.raw, log.value.decode(errors="replace")
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))


def refusal(name: str, options: Sequence[str], log: str) -> TinyError:
    """The compiler's log as an error: the place and the words of its first message, and with which options."""
    defines = " ".join(option for option in options if option.startswith("-D"))
    found = MESSAGE.search(log)
    if not found:
        return TinyError(f"{name} does not compile: {' '.join(log.split())[:300] or 'the compiler says nothing'}.",
                         "Correct the options or the source.")
    where, errors = f"{Path(found[1]).name}:{found[2]}", len(MESSAGE.findall(log))
    return TinyError(f"{where}: {found[3].strip()} ({name} with {defines or 'no -D options'}).",
                     "Correct the source there." if errors == 1 else f"Correct it; this is the first of {errors}.")


@functools.cache
def nvrtc(newest: int | None = None) -> Nvrtc:
    """The compiler, loaded once in a process."""
    return Nvrtc(newest)


def cache_folder() -> Path:
    """Where cubins are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiny-mixtral" / "cubin"


def cubin(path: Path, arch: int, defines: Sequence[str] = (), newest: int | None = None) -> Path:
    """The compiled form of a `.cu` file for one architecture, compiled now unless it is kept.

    defines: "NAME=VALUE" each; newest: the highest CUDA version that the driver takes

    Raises:  TinyError if there is no compiler, it does not know the architecture, or the source does not compile
    """
    compiler = nvrtc(newest)
    compiler.check_arch(arch)
    options = compile_options(arch, defines)
    key = hashlib.sha256(repr((compiler.version, options)).encode())
    for part in local_files(path):
        text = part.read_bytes()
        key.update(f"{part.name} {len(text)} ".encode() + text)
    kept = cache_folder() / f"{path.stem}-sm{arch}-{key.hexdigest()[:32]}.cubin"
    if not kept.is_file():
        compiled = compiler.compile(path, [*options, *include_options(path, compiler)])[0]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, compiled)
    return kept


def compile_options(arch: int, defines: Sequence[str]) -> list[str]:
    """The options that change the compiled code. Fast math is not among them."""
    return ["-std=c++17", "-default-device", "-lineinfo", f"--gpu-architecture=sm_{arch}",
            *[f"-D{define}" for define in defines]]


def include_options(path: Path, compiler: Nvrtc) -> list[str]:
    """Where a source finds the files that it includes: beside it, in this folder, in the toolkit."""
    return [f"-I{folder}" for folder in dict.fromkeys([path.parent, HERE, *compiler.include])]
