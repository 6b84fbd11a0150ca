"""Safetensors files, read as views of the mapped file.

A file is data from anywhere: every number in its header is checked before it is used. Read `hf_names.py` next.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import TinyError
from tiny.system.diagnosis import broken, no_header
from tiny.system.reading import DECODER, check_plain, unreadable

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
MAX_HEADER = 32 << 20  # bytes; the safetensors library allows 100 MB, a model of 100,000 tensors has 12


def read_safetensors(path: Path, dtypes: Mapping[str, np.dtype] = DTYPES) -> dict[str, np.ndarray]:
    """Map one file and return its tensors as read-only views; dtypes are those that it may hold.

    Dtypes:  BF16, F16, F32 -> ml_dtypes.bfloat16, float16, float32
    Raises:  TinyError if the header is larger than the file or broken, a dtype is unknown, or the tensors do not lie
             end to end over exactly the rest of the file (truncated, overlapping, out of range)
    Source:  the safetensors format: u64 little-endian header length, JSON header, data
    """
    try:
        check_plain(Path(path))
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(64)
            start = 8 + int.from_bytes(first[:8], "little")
            if size < 8 or start > size or start > MAX_HEADER:
                raise no_header(path, first, size)
            file.seek(8)
            entries = parse_header(path, file.read(start - 8), dtypes)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(path, error) from None
    tensors, position = {}, 0
    for begin, end, name, dtype, shape in sorted(entries, key=itemgetter(0, 1)):
        count = math.prod(shape)
        if begin != position or end - begin != count * dtype.itemsize or start + end > size:
            raise broken(path, f"tensor {name} {tuple(shape)} claims bytes {begin:,} to {end:,}, where it needs "
                               f"{count * dtype.itemsize:,} bytes from {position:,} on, of {size - start:,}")
        if not count and math.prod(size or 1 for size in shape) > 2**48:  # only an empty tensor can state such sizes
            raise broken(path, f"tensor {name} is {tuple(shape)}")
        tensors[name] = np.frombuffer(data, dtype, count, start + begin).reshape(shape)
        position = end
    if start + position != size:
        raise broken(path, f"its tensors end at byte {start + position:,}, the file at {size:,}")
    return tensors


def parse_header(path: Path, text: bytes,
                 dtypes: Mapping[str, np.dtype] = DTYPES) -> list[tuple[int, int, str, np.dtype, list[int]]]:
    """Check a header's JSON: begin, end, name, dtype and shape of each tensor. A name that occurs twice is an error."""
    try:
        header = DECODER.decode(text.decode())
        if b"\\u" in text:
            json.dumps(header, ensure_ascii=False).encode()  # Half of a surrogate pair is not text.
    except KeyError:
        raise broken(path, "a name stands twice in its header") from None
    except (ValueError, RecursionError):
        raise broken(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise broken(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise broken(path, "its __metadata__ are not texts")
    entries = []
    for name, entry in header.items():
        try:
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            numbers = [begin, end, *shape]
            if not isinstance(shape, list) or len(shape) > 4 or {*map(type, numbers)} != {int} or (
                    min(numbers) < 0 or max(numbers) >= 2**48):
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise broken(path, f"the entry of tensor {name} has no proper shape and data_offsets") from None
        if str(entry.get("dtype")) not in dtypes:
            raise TinyError(f"{path}: tensor {name} has dtype {entry.get('dtype')!r}.",
                            f"Only {', '.join(dtypes)} are read: quantised weights if the configuration says how, no "
                            "buffers of other types.")
        entries.append((begin, end, name, dtypes[entry["dtype"]], shape))
    return entries
