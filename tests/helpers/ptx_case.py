"""What the tests of the interpreter of PTX share: the compilers for GPUs that are here, and the sentence of a skip."""

import pytest

from kernels.ptx.__main__ import compilers
from tiny.config import TinyError


def available() -> list[str]:
    """The names of the compilers, as `Interpreter` takes them."""
    try:
        return list(compilers())
    except TinyError:
        return []


COMPILERS = available()
needs_ptx = pytest.mark.skipif(not COMPILERS, reason="Neither NVRTC nor nvcc is here; the dev extra brings NVRTC.")
needs_nvrtc = pytest.mark.skipif("nvrtc" not in COMPILERS, reason="NVRTC is not here; the dev extra brings it.")
