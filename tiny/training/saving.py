"""A checkpoint as the trainers write it: one safetensors file."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tiny.files.safetensors import DTYPES
from tiny.system.whole import write_whole


def save_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors in the safetensors format, in the order of their names; a crash leaves no half-written file."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header, position = {}, 0
    for name in sorted(tensors):
        x = tensors[name]
        header[name] = {"dtype": codes[x.dtype], "shape": list(x.shape),
                        "data_offsets": [position, position + x.nbytes]}
        position += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8))

    write_whole(path, write)
