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


def cpu_facts() -> dict[str, str]:
    """What Linux says of the first processor, as "model name" and "flags"; elsewhere nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines}


def cpu_flags() -> list[str]:
    """The features of the processor, by Linux's names."""
    facts = cpu_facts()
    return facts.get("flags", facts.get("Features", "")).split()


def cpu_name() -> str:
    """The name of the processor."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def machine() -> str:
    """The processor's name and the number of cores."""
    return f"{cpu_name()}, {os.cpu_count()} cores"


def processor() -> dict:
    """The processor and those of its features that change how floating point numbers are added."""
    flags = cpu_flags()
    return {"name": cpu_name(), "features": [feature for feature in FEATURES if feature in flags]}
