"""Which GPU: CuPy, the driver and the devices that there are, and what to do where one of them is missing.

A device is named "emulator", "cuda" (the current GPU of CuPy, which is the first that CUDA_VISIBLE_DEVICES leaves) or
"cuda:1" (a GPU by its number).
"""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from tiny.config import TinyError

OLDEST_CUPY = 14  # the first that has arrays of bfloat16
NAME = re.compile(r"(cuda)(?::(\d{1,3}))?|emulator")
NAMES = "'cuda', 'emulator', or 'cuda:1' for the GPU of that number"
INSUFFICIENT_DRIVER = 35  # what CUDA answers if the driver is too old, and also if there is none


class Name(NamedTuple):
    """A device by its name: its kind, "cuda" or "emulator", and the number of a GPU if one is given."""

    kind: str
    number: int | None = None


def read_name(device: Any) -> Name:
    """The parts of a device's name. Raises TinyError for another.

    >>> read_name("cuda:1")
    Name(kind='cuda', number=1)
    """
    found = NAME.fullmatch(device) if isinstance(device, str) else None
    if not found:
        raise TinyError(f"The device {device!r} is unknown.", f"Use {NAMES}.")
    return Name(found[1] or "emulator", int(found[2]) if found[2] else None)


def import_cupy() -> ModuleType:
    """CuPy, if it is there, recent enough, and sees a GPU. Raises TinyError that says what is missing."""
    try:
        import cupy

        version = cupy.__version__
    except Exception as error:  # an old CuPy and a new NumPy, or what pip left of a package: not only ImportError
        said = str(error.__cause__ or error).strip().split("\n")[0]  # CuPy's own words fill a page
        install = ("pip install -e '.[cuda13]', or '.[cuda12]' for a driver of CUDA 12; without a GPU use --device "
                   "emulator.")
        raise TinyError(f"CuPy cannot be imported: {said}.", install if isinstance(error, (ImportError, AttributeError))
                        else "Correct the variables of the environment that begin with CUPY_.") from error
    if int(version.split(".")[0]) < OLDEST_CUPY:
        raise TinyError(f"CuPy {version} has no arrays of bfloat16.",
                        f"Install CuPy {OLDEST_CUPY}.1 or newer.")
    runtime = cupy.cuda.runtime
    try:
        found = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            raise no_driver(runtime.driverGetVersion(), runtime.runtimeGetVersion()) from error
        raise TinyError(f"CuPy finds no GPU: {error}.", "Make one visible: CUDA_VISIBLE_DEVICES may hide it; without a "
                        "GPU use --device emulator.") from error
    if not found:
        raise TinyError("CuPy finds no GPU.", "Make one visible, or use --device emulator.")
    return cupy


def no_driver(driver: int, toolkit: int) -> TinyError:
    """The error for a driver that is not there, or is older than the CUDA that CuPy was made with."""
    if not driver:
        return TinyError("This machine has no driver of NVIDIA, so CuPy finds no GPU.",
                         "Install the driver; without a GPU use --device emulator.")
    takes, wanted = (f"{version // 1000}.{version % 1000 // 10}" for version in (driver, toolkit))
    other = "pip install -e '.[cuda12]' instead, or install" if driver // 1000 == 12 < toolkit // 1000 else "Install"
    return TinyError(f"The driver takes CUDA {takes} at most, and this CuPy was made with CUDA {wanted}.",
                     f"{other} a driver for CUDA {wanted}.")


def choose_gpu(cupy: ModuleType, index: int | None = None) -> Any:
    """CuPy's device of a number, made the current one; without a number the one that is.

    Raises:  TinyError if there is no such GPU
    """
    if index is None:
        return cupy.cuda.Device()
    found = cupy.cuda.runtime.getDeviceCount()
    if index >= found:
        there = "one, cuda:0" if found == 1 else f"{found}, cuda:0 to cuda:{found - 1}"
        raise TinyError(f"There is no GPU {index}: CuPy sees {there}.",
                        "Name one of these; CUDA_VISIBLE_DEVICES says which GPUs CuPy sees, and numbers them anew.")
    return cupy.cuda.Device(index).use()


def open_gpu(cupy: ModuleType, index: int | None = None) -> Any:
    """`choose_gpu`, and begin to use it. Raises TinyError if that cannot be: others may fill it, or have it alone."""
    gpu = choose_gpu(cupy, index)
    try:
        _ = gpu.mem_info
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise TinyError(f"GPU {gpu.id} cannot be used: {error}.", "nvidia-smi says which programs are on it: end them, "
                        "or use another GPU, or --device emulator.") from error
    return gpu


def with_room(cupy: ModuleType, make: Callable[[], Any]) -> Any:
    """What make() returns. Raises TinyError if the memory of the GPU is full."""
    try:
        return make()
    except cupy.cuda.memory.OutOfMemoryError as error:
        from tiny.tools.memory import amount

        free, total = cupy.cuda.Device().mem_info
        raise TinyError(f"The memory of the GPU is full: {error} {amount(free)} of {amount(total)} are free.",
                        "End other programs on it, ask for fewer tokens, or load the weights as int8.") from error
