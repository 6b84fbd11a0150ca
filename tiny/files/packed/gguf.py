"""GGUF files, versions 2 and 3: keys with values, then the tensors as views of the mapped file.

Numbers in blocks become `Packed` arrays, others plain ones. A file is data from anywhere: each count and length in its
header is checked before it is used. Read `gguf_model.py` next.
"""

import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import TinyError
from tiny.files.packed.array import Packed
from tiny.files.packed.blocks import KINDS, NAMES, PLAIN
from tiny.system.reading import check_foreign, check_plain, missing, short, unreadable

# The codes of values: numbers by their form for `struct`, then text and array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
# Limits, all several times what the largest models have: entries of a header, items of one array, bytes of a text.
ENTRIES, ITEMS, LONGEST = 1 << 18, 1 << 22, 1 << 24
# The table that each pass of a model reads first. To read a part of a mapped file that was cut off ends the process,
# so this is where an array that is not packed asks whether its file is whole.
FIRST = "token_embd.weight"
AGAIN = "Fetch the file again, whole: it may be cut short or damaged."


class Header:
    """The header of a file, read from its first byte on."""

    def __init__(self, path: Path, data: memoryview):
        self.path, self.data, self.at = path, data, 0

    def broken(self, reason: str) -> TinyError:
        """The error for a file that is not a whole GGUF file."""
        return TinyError(f"{self.path} is not a whole GGUF file: {reason}.", AGAIN)

    def take(self, size: int) -> memoryview:
        """The next bytes. Raises TinyError if the file ends before."""
        if size > len(self.data) - self.at:
            raise self.broken(f"at byte {self.at:,} of {len(self.data):,} its header wants {size:,} more")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        """The next number."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def count(self, what: str, most: int) -> int:
        """The next number, which says how many of something follow, of which each has a byte at least."""
        count = self.number("Q")
        if count > min(most, len(self.data) - self.at):
            raise self.broken(f"at byte {self.at - 8:,} of {len(self.data):,} it claims {count:,} {what}")
        return count

    def text(self) -> str:
        """The next text, with U+FFFD in the place of bytes that are no text."""
        return str(self.take(self.count("bytes of a text", LONGEST)), "utf-8", "replace")

    def value(self, code: int) -> Any:
        """The next value: a number, a text, or a list of either."""
        if code == TEXT:
            return self.text()
        if code != ARRAY:
            if code not in NUMBERS:
                raise self.broken(f"a value is of type {code}, which there is not")
            return self.number(NUMBERS[code])
        code = self.number("I")
        if code == TEXT:
            return self.texts(self.count("texts", ITEMS))
        if code not in NUMBERS:
            raise self.broken(f"it has an array of {'arrays' if code == ARRAY else f'type {code}, which there is not'}")
        dtype = np.dtype("<" + NUMBERS[code])
        return np.frombuffer(self.take(self.count("numbers", ITEMS) * dtype.itemsize), dtype).tolist()

    def texts(self, count: int) -> list[str]:
        """The next texts, of which the vocabulary of Pixtral has 131,072, without a call for each."""
        data, at, found = self.data, self.at, []
        for _ in range(count):
            begin = at + 8
            at = begin + int.from_bytes(data[at:begin], "little")
            if at > len(data):
                raise self.broken(f"at byte {begin:,} of {len(data):,} a text ends at byte {at:,}")
            found.append(str(data[begin:at], "utf-8", "replace"))
        self.at = at
        return found

    def entries(self, what: str, count: int, read: Callable[[], Any]) -> dict[str, Any]:
        """So many names, each with what `read` makes of what follows it. Raises TinyError for a name twice."""
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self.text()
            if name in found or not name.isprintable():
                raise self.broken(f"the {what} {short(name)} stands there twice, or is no name")
            found[name] = read()
        return found

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        """The next entry of a tensor: its shape, in NumPy's order, the code of its type, and its offset."""
        axes = self.number("I")
        if not 1 <= axes <= 4:
            raise self.broken(f"a tensor has {axes:,} axes")
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        if not all(0 < size < 1 << 48 for size in shape):
            raise self.broken(f"a tensor is {shape}")
        return shape, self.number("I"), self.number("Q")


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray | Packed]]:
    """Map one file; return its keys with their values, and its tensors by their names there.

    Dtypes:  F32, F16, BF16 -> float32, float16, ml_dtypes.bfloat16; blocks -> Packed
    Raises:  TinyError if it is no GGUF file, of another version, cut short or broken in any way, or if a tensor is of
             a type that is not read; the error names it
    Source:  gguf.md of ggml; gguf.cpp, which also refuses names that stand twice and arrays of arrays
    """
    try:
        check_plain(path)
        with open(path, "rb") as file:
            first, size = file.read(64), os.fstat(file.fileno()).st_size
            check_magic(path, first)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None
    header = Header(path, memoryview(data))
    header.take(8)
    tensors, keys = header.count("tensors", ENTRIES), header.count("keys", ENTRIES)
    metadata = header.entries("key", keys, lambda: header.value(header.number("I")))
    infos = header.entries("tensor", tensors, header.tensor)
    align = metadata.get("general.alignment", 32)
    if type(align) is not int or align < 1 or align & align - 1:
        raise header.broken(f"general.alignment is {short(align)}, which is no power of two")
    start = -(-header.at // align) * align

    def whole() -> None:
        if data.size() < size:
            raise TinyError(f"{path} was cut to {data.size():,} of {size:,} bytes while it was read.", AGAIN)

    found = dict(views(header, data, infos, start, align, whole))
    check_apart(header, infos, found)
    return metadata, found


def check_magic(path: Path, first: bytes) -> None:
    """Raise TinyError unless these are the first bytes of a GGUF file of a version that is read here."""
    if first[:4] != b"GGUF" or len(first) < 24:
        check_foreign(path, first if first[:4] != b"GGUF" else b"")
        raise TinyError(f"{path} is not a whole GGUF file: of its header there is {first[:24]!r}.", AGAIN)
    version = int.from_bytes(first[4:8], "little")
    if version and version & 0xFFFF == 0:
        raise TinyError(f"{path} is big-endian, written for another kind of processor.",
                        "Use the little-endian file, or turn it round: gguf-convert-endian of the package gguf.")
    if version not in (2, 3):
        raise TinyError(f"{path} is of version {version} of GGUF; 2 and 3 are read.",
                        "Files of before September 2023 were replaced by their authors: fetch the newer one."
                        if version < 2 else "Use a file of version 3.")


def views(header: Header, data: mmap.mmap, infos: dict[str, tuple], start: int, align: int,
          whole: Callable[[], None]) -> Iterator[tuple[str, np.ndarray | Packed]]:
    """Each tensor as a view of the file. Raises TinyError for a type that is not read, or bytes that are not there."""
    for name, (shape, code, offset) in infos.items():
        kind = NAMES[code] if code < len(NAMES) else f"number {code}"
        if kind not in PLAIN and kind not in KINDS:
            raise TinyError(f"{header.path}: tensor {name} is of type {kind}, which is not read.",
                            f"Use a file of the same model with these types only: {', '.join([*PLAIN, *KINDS])}.")
        numbers, size = (1, PLAIN[kind].itemsize) if kind in PLAIN else KINDS[kind][:2]
        if shape[-1] % numbers or len(shape) == 1 < numbers:
            raise header.broken(f"tensor {name} {shape} of type {kind} is not in whole blocks of {numbers}")
        total = math.prod(shape) // numbers * size
        if offset % align or start + offset + total > len(data):
            raise header.broken(f"tensor {name} {shape} claims {total:,} bytes from {start + offset:,} on, of "
                                f"{len(data):,}; they begin at multiples of {align}")
        raw = np.frombuffer(data, np.uint8, total, start + offset)
        if kind in KINDS:
            yield name, Packed(kind, shape, (raw.reshape(*shape[:-1], -1),), KINDS[kind].unpack, whole=whole)
        elif name == FIRST and len(shape) > 1:
            yield name, checking(raw.view(PLAIN[kind]).reshape(shape), whole)
        else:
            yield name, raw.view(PLAIN[kind]).reshape(shape)


def checking(array: np.ndarray, whole: Callable[[], None]) -> Packed:
    """An array, with the question before each use whether its file is still whole. Shapes:  any -> same."""
    return Packed(str(array.dtype), array.shape, (array,), lambda rows: rows.astype(np.float32), whole=whole,
                  dtype=array.dtype)


def check_apart(header: Header, infos: dict[str, tuple], found: dict[str, np.ndarray | Packed]) -> None:
    """Raise TinyError if one tensor begins before another one ends."""
    end, before = 0, ""
    for offset, name in sorted((offset, name) for name, (*_, offset) in infos.items()):
        if offset < end:
            raise header.broken(f"tensor {name} begins inside tensor {before}")
        end, before = offset + found[name].nbytes, name
