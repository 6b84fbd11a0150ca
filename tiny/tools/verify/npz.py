"""Read a NumPy .npz file of unknown origin: first the headers of its arrays, then only the arrays that are wanted.

Nothing is unpickled, and nothing is unpacked before its header says that it has a plausible type and size.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tiny.config import TinyError

MAX_MEMBERS = 20_000
HEADER = 12 + 10_000  # bytes of magic, length and text; NumPy reads no longer text either
REMEDY = "Write the file again as tests/golden/FORMAT.md says."


class Header(NamedTuple):
    """What the header of one array declares."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))

    def __str__(self) -> str:
        return f"{self.shape} of {self.dtype}"


@contextmanager
def archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a file for reading. Raises TinyError if it is missing or damaged, also while it is open."""
    if not path.is_file():
        raise TinyError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.",
                        "`verify dump` writes such a file.")
    with refused(f"{path} is not a whole npz file"), zipfile.ZipFile(path) as opened:
        yield opened


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn any error of the readers into a TinyError: on damaged bytes NumPy and zipfile raise more than ten kinds."""
    try:
        yield
    except (TinyError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__  # zipfile quotes names of any length
        raise TinyError(f"{what}: {said}.", REMEDY) from None


def read_headers(path: Path, opened: zipfile.ZipFile) -> dict[str, Header]:
    """The header of every array by its name. Each must take exactly the bytes that its header declares."""
    members, headers = opened.infolist(), {}
    if len(members) > MAX_MEMBERS:
        raise TinyError(f"{path} holds {len(members):,} arrays.", f"At most {MAX_MEMBERS:,} are read: dump fewer "
                                                                  "--layers.")
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in headers or not member.filename.endswith(".npy"):
            raise TinyError(f"{path} holds {member.filename!r} twice, or it is not an array.", REMEDY)
        with refused(f"{path}: {name} is not an array"):
            header, start = read_header(opened, member)
        size = member.file_size - start
        if header.dtype.kind not in ("U" if name == "record" else "biuf") or header.nbytes != size:
            raise TinyError(f"{path}: {name} is {header} in {member.file_size:,} bytes.", REMEDY)
        headers[name] = header
    return headers


def read_header(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[Header, int]:
    """The header of one array and where its numbers start. Raises what NumPy raises if it cannot be read."""
    with opened.open(member) as file:
        start = io.BytesIO(file.read(HEADER))
    version = np.lib.format.read_magic(start)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(start)
    if min(shape, default=0) < 0 or len(shape) > 8:
        raise ValueError(f"its shape is {str(shape)[:60]}")
    return Header(member, shape, dtype), start.tell()


def read_array(path: Path, opened: zipfile.ZipFile, header: Header) -> np.ndarray:
    """The array itself; zipfile checks its CRC-32."""
    with refused(f"{path}: {header.member.filename} is damaged"), opened.open(header.member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
