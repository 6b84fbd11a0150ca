"""Where the records of a zip archive are in a mapped file, if they are stored uncompressed.

Files of torch.save are such archives. Python's own module reads a whole directory before it checks it, and gives no
places; this reader believes no number of the file before it has compared it with the file's size.
"""

import mmap
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

END, END64, LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
ENTRY, LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
FULL = 0xFFFFFFFF  # what a field of 32 bits holds if the real number is in 64 bits elsewhere
BLOCK = 1 << 24  # bytes of a record that are read at a time
MOST = 1 << 18  # records; an unstacked Mixtral has about a thousand


class Record(NamedTuple):
    """One file of an archive: where its own head and its bytes begin, how many they are, and their checksum."""

    head: int
    start: int
    size: int
    crc: int


def find_records(data: mmap.mmap) -> dict[str, Record]:
    """All records of an archive by name.

    Raises:  ValueError with the reason, if the archive is cut short, a record is compressed or encrypted, reaches out
             of the file or into another record, or a name occurs twice
    Source:  PKWARE's APPNOTE, 4.3 and 4.5.3
    """
    position, end, count = find_directory(data)
    records: dict[str, Record] = {}
    directory = position
    for _ in range(count):
        name, record, position = read_entry(data, position, end, directory)
        if hasattr(mmap, "MADV_DONTNEED"):  # Each look at a head maps up to 2 MB around it, in all perhaps the file.
            data.madvise(mmap.MADV_DONTNEED)
        if name in records:
            raise ValueError(f"two of its records are called {name!r}")
        records[name] = record
    if position != end:
        raise ValueError("its directory is longer than its records need")
    last = 0
    for record in sorted(records.values()):
        if record.head < last:
            raise ValueError("two of its records lie over each other")
        last = record.start + record.size
    return records


def find_directory(data: mmap.mmap) -> tuple[int, int, int]:
    """Begin, end and number of entries of the directory. Raises ValueError if it is not inside the file."""
    at = data.rfind(b"PK\5\6", max(0, len(data) - END.size - 0xFFFF))
    if at < 0 or at + END.size > len(data):
        raise ValueError("it has no directory at its end")
    *_, count, size, start, comment = END.unpack_from(data, at)
    if at + END.size + comment != len(data):
        raise ValueError("something follows its end")
    end = at
    if at >= LOCATOR.size and data[at - LOCATOR.size:at - LOCATOR.size + 4] == b"PK\6\7":
        _, _, end, _ = LOCATOR.unpack_from(data, at - LOCATOR.size)
        if end + END64.size > at or data[end:end + 4] != b"PK\6\6":
            raise ValueError("its second directory end is not where it says")
        *_, count, size, start = END64.unpack_from(data, end)
    if start + size != end or count > min(MOST, size // ENTRY.size):
        raise ValueError(f"its directory claims {count:,} records in {size:,} bytes at {start:,}, the file has "
                         f"{len(data):,}")
    return start, end, count


def read_entry(data: mmap.mmap, position: int, end: int, directory: int) -> tuple[str, Record, int]:
    """One entry of the directory: its name, its record, and where the next entry begins. Raises ValueError."""
    if position + ENTRY.size > end:
        raise ValueError("its directory is cut short")
    sign, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, _, start = ENTRY.unpack_from(data, position)
    follows = position + ENTRY.size + sum(lengths)
    if sign != b"PK\1\2" or follows > end:
        raise ValueError("its directory is damaged")
    text = data[position + ENTRY.size:position + ENTRY.size + lengths[0]]
    name = text.decode("utf-8", "backslashreplace")
    extra = position + ENTRY.size + lengths[0]
    size, packed, start = wide(data[extra:extra + lengths[1]], [size, packed, start])
    if method or size != packed:
        raise ValueError(f"its record {name!r} is compressed, torch.save stores records as they are")
    if flags & 0x2041 or disk not in (0, 0xFFFF):
        raise ValueError(f"its record {name!r} is encrypted, or in another file")
    if start + LOCAL.size > directory or data[start:start + 4] != b"PK\3\4":
        raise ValueError(f"its record {name!r} is not where the directory says")
    *_, names, extras = LOCAL.unpack_from(data, start)
    begin = start + LOCAL.size + names + extras
    if data[start + LOCAL.size:start + LOCAL.size + names] != text:
        raise ValueError(f"its record {name!r} has another name in its own head")
    if begin + size > directory:
        raise ValueError(f"its record {name!r} claims {size:,} bytes from {begin:,} on, of {directory:,}")
    return name, Record(start, begin, size, crc), follows


def wide(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and place of an entry, those that need more than 32 bits taken from its extra field. Raises ValueError."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        field = extra[position + 4:position + 4 + length]
        if tag == 1:
            places = [n for n, value in enumerate(values) if value == FULL]
            if len(field) < 8 * len(places):
                raise ValueError("an entry of its directory is too short")
            for n, value in zip(places, struct.iter_unpack("<Q", field[:8 * len(places)])):
                values[n] = value[0]
            break
        position += 4 + length
    return values


def read_record(data: mmap.mmap, record: Record, most: int) -> bytes:
    """A copy of a small record. Raises ValueError if it has more bytes than `most`."""
    if record.size > most:
        raise ValueError(f"its pickle has {record.size:,} bytes, {most:,} are plenty")
    return data[record.start:record.start + record.size]


def check_sums(data: mmap.mmap, records: Mapping[str, Record]) -> None:
    """Raise ValueError unless every record has the CRC-32 that the directory says. This reads the whole file once."""
    for name, record in records.items():
        found, end = 0, record.start + record.size
        for start in range(record.start, end, BLOCK):
            found = zlib.crc32(data[start:min(start + BLOCK, end)], found)
            if hasattr(mmap, "MADV_DONTNEED"):  # What has been read is not kept in memory.
                data.madvise(mmap.MADV_DONTNEED)
        if found != record.crc:
            raise ValueError(f"the checksum of its record {name!r} is wrong")
