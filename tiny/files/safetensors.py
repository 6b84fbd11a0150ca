"""Safetensors files, read as views of the mapped file.

A file is data from anywhere: every number in its header is checked before it is used. Read `hf_names.py` next.
"""

import json
import math
import mmap
import os
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tiny.config import TinyError
from tiny.system.reading import check_foreign

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
MAX_HEADER = 32 << 20  # bytes; the safetensors library allows 100 MB, a model of 100,000 tensors has 12


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Map one file and return its tensors as read-only views.

    Dtypes:  BF16, F16, F32 -> ml_dtypes.bfloat16, float16, float32
    Raises:  TinyError if the header is larger than the file or broken, a dtype is unknown, or the tensors do not lie
             end to end over exactly the rest of the file (truncated, overlapping, out of range)
    Source:  the safetensors format: u64 little-endian header length, JSON header, data
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(64)
            start = 8 + int.from_bytes(first[:8], "little")
            if size < 8 or start > size or start > MAX_HEADER:
                check_foreign(path, first)
                raise broken(path, f"it begins with {first[:16]!r}" if re.fullmatch(rb"[\s!-~]{16}", first[:16]) else
                             f"it has {size:,} bytes, its header would end at byte {start:,}")
            file.seek(8)
            header = parse_header(path, file.read(start - 8))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise TinyError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None
    tensors, position = {}, 0
    for name, (dtype, shape, begin, end) in sorted(header.items(), key=lambda item: item[1][2:]):
        count = math.prod(shape)
        if begin != position or end - begin != count * dtype.itemsize or start + end > size:
            raise broken(path, f"tensor {name} {tuple(shape)} claims bytes {begin:,} to {end:,}, where it needs "
                               f"{count * dtype.itemsize:,} bytes from {position:,} on, of {size - start:,}")
        if math.prod(size or 1 for size in shape) > 2**48:  # only an empty tensor can state such sizes
            raise broken(path, f"tensor {name} is {tuple(shape)}")
        tensors[name] = np.frombuffer(data, dtype, count, start + begin).reshape(shape)
        position = end
    if start + position != size:
        raise broken(path, f"its tensors end at byte {start + position:,}, the file at {size:,}")
    return tensors


def parse_header(path: Path, text: bytes) -> dict[str, tuple[np.dtype, list[int], int, int]]:
    """Check a header's JSON: name -> dtype, shape, begin, end. A name that occurs twice is an error."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise broken(path, "a name stands twice in its header")
        return dict(pairs)

    def whole(values: Any, least: int) -> bool:
        return isinstance(values, list) and len(values) <= 4 and all(
            type(v) is int and least <= v < 2**48 for v in values)

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)  # of bytes, json would read UTF-16 too
        json.dumps(header, ensure_ascii=False).encode()  # Half of a surrogate pair is not text.
    except TinyError:
        raise
    except (ValueError, RecursionError):
        raise broken(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise broken(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise broken(path, "its __metadata__ are not texts")
    entries = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or not whole(entry.get("shape"), 0) or not whole(
                entry.get("data_offsets"), 0) or len(entry["data_offsets"]) != 2:
            raise broken(path, f"the entry of tensor {name} has no proper shape and data_offsets")
        if str(entry.get("dtype")) not in DTYPES:
            raise TinyError(f"{path}: tensor {name} has dtype {entry.get('dtype')!r}.",
                            f"Only {', '.join(DTYPES)} are read: no quantised weights, no buffers of other types.")
        entries[name] = (DTYPES[entry["dtype"]], entry["shape"], *entry["data_offsets"])
    return entries


def broken(path: Path, reason: str) -> TinyError:
    """The error for a file that is not a whole safetensors file."""
    return TinyError(f"{path} is not a whole safetensors file: {reason}.", "Fetch the file again; it may be cut short.")
