"""Files of torch.save written byte by byte, right or wrong on purpose, without torch and without the code under test.

torch itself reads the right ones: tests/verify/test_torch_save.py.
"""

import struct
import zlib

import numpy as np

KINDS = {"bfloat16": "BFloat16Storage", "float16": "HalfStorage", "float32": "FloatStorage"}
FULL = 0xFFFFFFFF
DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if 0 <= value < 256 else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, shape, strides, count: int, kind: str = "BFloat16Storage", offset: int = 0) -> bytes:
    """The part of a pickle that builds one tensor."""
    storage = b"((" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    arguments = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + DICT + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def dictionary(**values: bytes) -> bytes:
    """A whole pickle of a dict, of names and of parts of a pickle."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in values.items()) + b"u."


def archive(records: dict[str, bytes], wide: bool = False, align: int = 64, top: str = "archive") -> bytes:
    """A zip archive of stored records; wide: with all sizes and places in 64 bits, as in a file above 4 GB."""
    out, directory = bytearray(), b""
    for name, data in records.items():
        path = f"{top}/{name}".encode()
        padding = -(len(out) + 30 + len(path) + 4) % align
        place, crc = len(out), zlib.crc32(data)
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        sizes = (FULL, FULL, FULL) if wide else (len(data), len(data), place)
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(path), len(extra))
        out += path + extra
        out += data
        extra = struct.pack("<2H3Q", 1, 24, len(data), len(data), place) if wide else b""
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, *sizes[:2], len(path), len(extra),
                                 0, 0, 0, 0, sizes[2])
        directory += path + extra
    start, count = len(out), len(records)
    out += directory
    if wide:
        out += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0, 45, 0, 0, count, count, len(directory), start)
        out += struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
        return bytes(out) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, FULL, FULL, 0)
    return bytes(out) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)


def torch_file(tensors: dict[str, np.ndarray], **options) -> bytes:
    """A right file of these tensors, each with its own bytes."""
    parts, records = {}, {}
    for n, (name, x) in enumerate(tensors.items()):
        strides = [stride // x.itemsize for stride in np.ascontiguousarray(x).strides]
        parts[name] = tensor(str(n), x.shape, strides, x.size, KINDS[x.dtype.name])
        records[f"data/{n}"] = x.tobytes()
    return archive({"data.pkl": dictionary(**parts), "byteorder": b"little"} | records | {"version": b"3\n"}, **options)
