"""The machine that something ran on: its processor, and the kernel that NumPy's BLAS chose for it."""

import ctypes
import os
import platform
import re
from pathlib import Path

import numpy as np

FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def blas_kernel() -> str:
    """The kernel that NumPy's OpenBLAS chose for this processor."""
    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)
    try:
        path = re.search(r"\S*openblas\S*\.so\S*", Path("/proc/self/maps").read_text())
        library = ctypes.CDLL(path[0])  # type: ignore[index]
        name = library.scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return "OpenBLAS " + name().decode()
    except (OSError, TypeError, AttributeError):
        return "unknown"


def machine() -> str:
    """The processor's name and the number of cores."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.processor()]
    return f"{names[0]}, {os.cpu_count()} cores"


def processor() -> dict:
    """The processor and those of its features that change how floating point numbers are added."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {"name": platform.processor() or platform.machine(), "features": []}
    found = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in found.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {"name": facts.get("model name", platform.machine()), "features": [f for f in FEATURES if f in flags]}
