"""Files of torch.save: what torch wrote is read, what is wrong is refused, and nothing in a file is ever run."""

import contextlib
import io
import mmap
import os
import pickle
import random
import re
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest
from oracles import GOLDEN
from torch_files import archive, dictionary, number, tensor, text, torch_file

from tiny.config import TinyError
from tiny.tools.convert.torch_file import Reader, read_torch_file
from tiny.tools.session import peak_memory

BF16 = ml_dtypes.bfloat16
STORED = GOLDEN / "torch_save.pt"  # what torch.save wrote, with views, a parameter and a dict that has an attribute


def numbers(count, dtype=BF16):
    """What the stored file holds: no formula of the code under test."""
    return (np.arange(count, dtype=np.float32) / 8 - 3).astype(dtype)


EXPECTED = {"matrix": numbers(12).reshape(3, 4), "transposed": numbers(24).reshape(4, 6).T, "part": numbers(11)[5:],
            "columns": numbers(24).reshape(4, 6)[:, 1:4], "parameter": numbers(7, np.float16),
            "single": numbers(6, np.float32).reshape(1, 2, 3), "empty": np.zeros((0, 3), np.float32)}


def check(found, expected):
    assert list(found) == list(expected)
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert found[name].tobytes() == x.tobytes(), name


@pytest.fixture
def read(tmp_path):
    """Read a file of these bytes."""
    def read(data: bytes):
        (tmp_path / "file.pt").write_bytes(data)
        return read_torch_file(tmp_path / "file.pt")
    return read


def refuse(read, data: bytes, match: str) -> str:
    with pytest.raises(TinyError, match=match) as caught:
        read(data)
    return str(caught.value)


# ---- right files

def test_what_torch_wrote():
    found = read_torch_file(STORED)
    check(found, EXPECTED)
    assert not any(x.flags.writeable for name, x in found.items() if name != "empty")
    assert not found["columns"].flags.owndata, "a view of the file"


@pytest.mark.parametrize("options", [{}, {"wide": True}, {"align": 1, "top": "another"}], ids=["plain", "wide", "odd"])
def test_what_the_writer_of_the_tests_wrote(read, options):
    expected = {name: x for name, x in EXPECTED.items() if x.size} | {"of one": np.ones(1, np.float32)}
    check(read(torch_file(expected, **options)), expected)


def test_records_that_pythons_own_writer_stored(read):
    expected = {"a": numbers(300).reshape(3, 100)}
    whole, again = io.BytesIO(torch_file(expected)), io.BytesIO()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(again, "w", zipfile.ZIP_STORED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    check(read(again.getvalue()), expected)


# ---- code

def with_pickle(program: bytes, **records: bytes) -> bytes:
    return archive({"data.pkl": program} | {f"data/{key[1:]}": data for key, data in records.items()})


class Evil:
    """An object whose pickle runs a command, for those who run pickles."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_code(read, tmp_path):
    marker = tmp_path / "was run"
    program = pickle.dumps({"a": Evil(os.system, f"touch '{marker}'")}, 2)
    message = refuse(read, with_pickle(program), "posix.system.* nothing of it was run")
    assert "another source" in message and not marker.exists()
    pickle.loads(program)
    assert marker.exists(), "this pickle does run its code where it is let"


PART = tensor("0", (2, 3), (3, 1), 6)
OPEN = b"cbuiltins\nopen\n"


@pytest.mark.parametrize("program, match", [
    (pickle.dumps({"a": Evil(eval, "1")}, 2), "'__builtin__.eval'"),
    (pickle.dumps({"a": Evil(eval, "1")}, 4), "later protocol"),
    (b"\x80\x02(X\x01\x00\x00\x00aibuiltins\nopen\n.", "other objects"),
    (b"\x80\x02(" + OPEN + text("a") + b"o.", "'builtins.open'"),
    (b"\x80\x02" + text("os") + text("system") + b"\x93.", "other objects"),
    (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "other objects"),
    (b"\x80\x02\x82\x01.", "other objects"),
    (b"\x80\x02ccollections\nOrderedDict\n(ctorch\nFloatStorage\ntR.", "in a way that torch.save does not"),
    (b"\x80\x02ctorch\nFloatStorage\n)R.", "in a way that torch.save does not"),
    (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "in a way that torch.save does not"),
    (b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.", "'torch.storage._load_from_bytes'"),
    (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R.", "__globals__'"),
    (b"\x80\x02" + text("open") + b")R.", "not a function"),
    (dictionary(a=PART + b"}b"), "sets the state"),
    (b"\x80\x02cos\n" + b"x" * 500 + b"\n.", "in a name"),
], ids=range(15))
def test_other_ways_to_make_objects(read, program, match):
    refuse(read, with_pickle(program, _0=bytes(12)), match)


# ---- lengths, names and types

@pytest.mark.parametrize("part, match", [
    (tensor("0", (2, 4), (4, 1), 6), "does not fit"),
    (tensor("0", (2, 3), (4, 1), 6), "does not fit"),
    (tensor("0", (2, 3), (3, 1), 6, offset=1), "does not fit"),
    (tensor("0", (6,), (2**40,), 6), "does not fit"),
    (tensor("0", (2**40, 2**40), (0, 0), 6), "does not fit"),
    (tensor("0", (12,), (0,), 6), "does not fit"),
    (tensor("0", (0, 3), (3, 1), 6, offset=7), "does not fit"),
    (tensor("0", (2, 3), (-3, 1), 6), "whole numbers"),
    (tensor("0", (2, 3), (3, 1), 6, offset=-1), "whole numbers"),
    (tensor("0", (2, 3), (3,), 6), "whole numbers"),
    (tensor("0", (1, 1, 1, 2, 3), (1, 1, 1, 3, 1), 6), "whole numbers"),
    (tensor("0", (2**60, 3), (3, 1), 6), "whole numbers"),
    (tensor("0", (2, 3), (3, 1), 7), "has 12 bytes"),
    (tensor("0", (2, 3), (3, 1), 6, kind="FloatStorage"), "has 12 bytes"),
    (tensor("0", (2, 3), (3, 1), 6, kind="LongStorage"), "torch.LongStorage; of numbers"),
    (tensor("0", (2, 3), (3, 1), 6, kind="StrangeStorage"), "'torch.StrangeStorage'"),
    (tensor("1", (2, 3), (3, 1), 6), "not there"),
    (tensor("../0", (2, 3), (3, 1), 6), "not there"),
    (number(7), "'a' is a int"),
    (b"]", "'a' is a list"),
    (b"X\xff\xff\xff\xffa", "text of 4,294,967,295 bytes"),
    (b"X\x01\x00\x00\x00\xff", "utf-8"),
    (b"\x8a\xff", "number of 255 bytes"),
    (b"h\x07", "recalls value 7"),
    (b"G\x00\x00\x00\x00\x00\x00\x00\x00", "opcode"),
    (b"a", "takes more values|appends"),
    (b"R", "takes more values"),
    (PART + text("a") + PART, "'a' stands twice"),
    (PART + number(3) + PART, "not a text"),
    (PART + b"(", "complete|mark|dict|ends|puts"),
    (b"(" * 70000, "too many values"),
    (b"K\x01" * 70000, "too many values"),
], ids=range(32))
def test_wrong_tensors(read, part, match):
    assert read(with_pickle(dictionary(a=PART), _0=bytes(12)))["a"].shape == (2, 3)
    refuse(read, with_pickle(dictionary(a=part), _0=bytes(12)), match)


def test_deep_pickles_do_not_break_the_machine(read):
    refuse(read, with_pickle(b"\x80\x02)" + b"\x85" * 30000 + b"."), "not a dict of tensors")
    refuse(read, with_pickle(dictionary(a=b")" + b"\x85" * 30000)), "'a' is a tuple")
    refuse(read, with_pickle(b"\x80\x02}q\x00" + text("a") + b"h\x00s."), "'a' is a dict")


@pytest.mark.parametrize("data, match", [
    (b"", "does not begin as a zip"), (b"PK", "no directory"), (b"PK\3\4" + bytes(100), "no directory"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "before version 1.6"),
    (pickle.dumps({"a": 1}, 2), "bare pickle"),
    (archive({"data.pkl": b"\x80\x02]."}), "a list, not a dict"),
    (archive({"version": b"3"}), "0 records called data.pkl"),
    (archive({"data.pkl": dictionary(), "byteorder": b"big"}), "big-endian"),
    (torch_file({"a": numbers(9)})[:-1], "no directory"),
    (torch_file({"a": numbers(9)}) + b"more", "follows its end"),
], ids=range(10))
def test_other_files(read, data, match):
    refuse(read, data, match)


def changed(data: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert len(old) == len(new) and data.count(old) >= count
    return data.replace(old, new)


def directory_field(data: bytes, record: int, offset: int, form: str, value: int) -> bytes:
    """The file with one field of one entry of the directory changed."""
    places = [found.start() for found in re.finditer(b"PK\1\2", data)]
    at, packed = places[record] + offset, struct.pack("<" + form, value)
    return data[:at] + packed + data[at + len(packed):]


GOOD = torch_file({"a": numbers(9), "b": numbers(5)})  # records: data.pkl, byteorder, data/0, data/1, version


@pytest.mark.parametrize("data, match", [
    (directory_field(GOOD, 2, 10, "H", 8), "compressed"),
    (directory_field(GOOD, 2, 8, "H", 1), "encrypted"),
    (directory_field(GOOD, 2, 24, "I", 19), "compressed"),
    (directory_field(directory_field(GOOD, 2, 24, "I", 10**6), 2, 20, "I", 10**6), "claims 1,000,000 bytes"),
    (directory_field(directory_field(GOOD, 2, 24, "I", 100), 2, 20, "I", 100), "over each other"),
    (directory_field(GOOD, 2, 42, "I", 3), "not where the directory says"),
    (directory_field(GOOD, 2, 42, "I", 2**32 - 2), "not where the directory says"),
    (directory_field(GOOD, 2, 42, "I", 2**32 - 1), "not where the directory says"),
    (directory_field(GOOD, 0, 16, "I", 3), "checksum of its record 'archive/data.pkl' is wrong"),
    (directory_field(GOOD, 3, 16, "I", 3), "checksum of its record 'archive/data/1' is wrong"),
    (directory_field(GOOD, 0, 28, "H", 60000), "directory is damaged"),
    (changed(GOOD, b"archive/data/1", b"archive/data/0", 2), "two of its records"),
    (GOOD[:-12] + struct.pack("<H", 4) + GOOD[-10:], "directory"),
    (GOOD[:-12] + struct.pack("<H", 9999) + GOOD[-10:], "claims 9,999 records"),
    (GOOD[:-6] + struct.pack("<I", 2**31) + GOOD[-2:], "claims"),
    (changed(torch_file({"a": numbers(9)}, wide=True), b"PK\6\6", b"PK\6\5"), "second directory end"),
], ids=range(16))
def test_damaged_archives(read, data, match):
    assert list(read(GOOD)) == ["a", "b"]
    refuse(read, data, match)


def test_one_changed_bit_of_any_record_is_refused(read):
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    for content in filter(None, contents):
        at = GOOD.index(content) + len(content) // 2
        refuse(read, GOOD[:at] + bytes([GOOD[at] ^ 4]) + GOOD[at + 1:], "checksum of its record|big-endian")


def test_an_entry_that_lacks_its_wide_numbers(read):
    refuse(read, directory_field(GOOD, 2, 24, "I", 2**32 - 1), "compressed|too short")
    data = torch_file({"a": numbers(9)}, wide=True)
    at = data.find(b"PK\1\2") + 46 + len("archive/data.pkl")
    refuse(read, data[:at + 2] + struct.pack("<H", 16) + data[at + 4:], "too short|damaged")


# ---- files that are damaged at random

def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, cut something out, double something, or write a large number somewhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, kind = rng.randrange(len(out)), rng.randrange(5)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at:at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\0\0\0\x80"))
        elif kind == 3:
            del out[at:at + rng.randrange(1, 30)]
        else:
            out[at:at] = out[at:at + rng.randrange(1, 30)]
    return bytes(out)


def survive(data: bytes) -> bool:
    """Whether a file is read; an error must be one that gets a sentence, and what is read must lie in the file."""
    with mmap.mmap(-1, len(data)) as mapped:
        mapped[:] = data
        try:
            tensors = Reader(mapped).tensors()
        except ValueError:
            return False
        size = sum(len(x.tobytes()) for x in tensors.values())
        assert size <= 20 * len(data)
        del tensors
        return True


def test_thousands_of_damaged_files(read):
    rng, before, started = random.Random(0), peak_memory(), time.process_time()
    whole, wide = STORED.read_bytes(), torch_file({"a": numbers(9), "b": numbers(5)}, wide=True)
    results = [survive(mutate(rng.choice((whole, wide, GOOD)), rng)) for _ in range(1500)]
    assert 0.1 < sum(results) / len(results) < 0.9, "some changes are in bytes that nobody needs"
    # The same on the pickle alone, in an archive whose checksum is right.
    with zipfile.ZipFile(STORED) as file:
        records = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    results = [survive(archive(records | {"data.pkl": mutate(records["data.pkl"], rng)})) for _ in range(1500)]
    assert 0.02 < sum(results) / len(results) < 0.9
    assert peak_memory() - before < 32 << 20
    assert time.process_time() - started < 60, "none takes long"
    for _ in range(50):  # through a file, where every error is in two sentences
        with contextlib.suppress(TinyError):
            read(mutate(whole, rng))
