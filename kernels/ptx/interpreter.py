"""The launcher of the interpreter: a `.cu` file to PTX, by NVRTC or nvcc, and that to results.

It takes the same sources and arguments as the launchers of `kernels.launch`, so that every host function runs on it.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kernels.launch import OnHost, aligned
from kernels.nvrtc import OLDEST, compile_options, include_options, nvrtc
from kernels.ptx.block import launch
from kernels.ptx.instructions import KINDS, lookup
from kernels.ptx.parse import read_kernel
from kernels.signature import HERE, read_parameters
from tiny.config import TinyError


@cache
def nvcc_version() -> str:
    """The version of nvcc, or "" if it is not on this machine."""
    if shutil.which("nvcc") is None:
        return ""
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    return next((word[1:] for word in said.replace(",", " ").split() if word[0] == "V" and word[1].isdigit()), "")


def compiler_name(compiler: str) -> str:
    """A compiler with its version. Raises TinyError if it is not on this machine."""
    if compiler == "nvrtc":
        return f"NVRTC {nvrtc().version}"
    if not nvcc_version():
        raise TinyError("The compiler nvcc is not on this machine.", "Install a CUDA toolkit, or use --compiler nvrtc.")
    return f"nvcc {nvcc_version()}"


def to_ptx(path: Path, defines: Sequence[str], compiler: str = "nvrtc", contract: bool = True,
           arch: int = OLDEST) -> str:
    """A source as PTX.

    contract: whether a * b + c may become one instruction that rounds once, as it does on a GPU by default

    Raises:  TinyError if there is no compiler, or the source does not compile
    """
    options = [*compile_options(arch, defines), f"-fmad={str(contract).lower()}"]
    name = compiler_name(compiler)
    if compiler == "nvrtc":
        found = [option.replace("=sm_", "=compute_") for option in options]
        return nvrtc().compile(path, [*found, *include_options(path, nvrtc())], "PTX")[0].rstrip(b"\0").decode()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.ptx"
        kept = [option for option in options if option != "-default-device"]
        done = subprocess.run(["nvcc", "-ptx", *kept, f"-I{path.parent}", f"-I{HERE}", path, "-o", out],
                              capture_output=True, text=True)
        if done.returncode:
            raise TinyError(f"{path.name} does not compile with {name}: {' '.join(done.stderr.split())[:300]}.",
                            "Correct the source there.")
        return out.read_text()


class Interpreter(OnHost):
    """Kernels by the interpreter, on this machine. `counts` has the instructions of every kernel that was launched.

    compiler: "nvrtc" or "nvcc"; contract and arch, 80 for sm_80: see `to_ptx`; order: see `block.ORDERS`
    """

    device = "the host"

    def __init__(self, compiler: str = "nvrtc", contract: bool = True, order: str = "together",
                 arch: int = OLDEST):
        super().__init__()
        self.compiler, self.contract, self.order, self.arch = compiler, contract, order, arch
        self.texts: dict[tuple, str] = {}
        self.counts: dict[str, np.ndarray] = {}

    def put(self, array: np.ndarray) -> np.ndarray:
        """A copy that begins where one of a GPU would. Shapes:  any -> same."""
        copy = aligned(array.shape, array.dtype)
        copy[...] = array
        return copy

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """A kernel, compiled and read."""
        if (path, defines) not in self.texts:
            self.texts[path, defines] = to_ptx(path, defines, self.compiler, self.contract, self.arch)
        names = [parameter.name for parameter in read_parameters(path, kernel, defines)]
        return read_kernel(self.texts[path, defines], kernel, lookup), names

    def call(self, function: Any, grid: tuple, block: tuple, args: list, shared_bytes: int) -> None:
        """Run the kernel to its end, and keep what it counted: (KINDS, warps), launches side by side."""
        kernel, names = function
        counts = launch(kernel, grid, block, args, names, shared_bytes, self.order)
        before = self.counts.get(kernel.name, np.zeros((len(KINDS), 0), np.int64))
        self.counts[kernel.name] = np.concatenate([before, counts], axis=1)
