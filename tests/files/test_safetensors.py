"""The safetensors reader: good files bit for bit as views, bad ones one by one, and damaged at random."""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from small import file_bytes, raw_file

from tiny.config import TinyError
from tiny.files.safetensors import read_safetensors
from tiny.training.saving import save_safetensors

BF16 = ml_dtypes.bfloat16


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def good():
    rng = np.random.default_rng(0)
    return {"b": rng.standard_normal((3, 5)).astype(np.float32), "z": rng.standard_normal((7,)).astype(BF16),
            "a.weight": rng.standard_normal((2, 2, 3)).astype(np.float16), "scalar": np.array(1.5, np.float32),
            "ü\u2581": np.float32([np.nan, np.inf, -0.0, 1e-45])}


def check_equal(read, tensors):
    assert set(read) == set(tensors)
    for name, x in tensors.items():
        assert read[name].dtype == x.dtype and read[name].shape == x.shape
        assert read[name].tobytes() == x.tobytes(), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def refused(path, data, *words):
    path.write_bytes(data)
    with pytest.raises(TinyError) as caught:
        read_safetensors(path)
    assert path.name in caught.value.cause and caught.value.remedy
    for word in words:
        assert word in caught.value.cause, caught.value.cause


@pytest.mark.parametrize("pad", range(4))
def test_good_files_bit_for_bit(path, pad):
    """Also where the data begins at an odd place: nothing promises alignment."""
    data = file_bytes(good())
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + pad).to_bytes(8, "little") + data[8 : 8 + length] + b" " * pad + data[8 + length :])
    check_equal(read_safetensors(path), good())


def test_written_files_are_read_back(path):
    tensors = good() | {"turned": good()["b"].T, "every second": good()["b"][::2]}
    save_safetensors(path, tensors)
    check_equal(read_safetensors(path), {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()})
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no part file is left"
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_tensors_are_read_only_views_of_one_map(path):
    path.write_bytes(file_bytes(good()))
    read = read_safetensors(path)
    for name, x in read.items():
        assert not x.flags.writeable and not x.flags.owndata, name
        with pytest.raises(ValueError):
            x.flags.writeable = True
    whole = np.frombuffer(read["b"].base.base if read["b"].base.base is not None else read["b"].base, np.uint8)
    assert all(np.shares_memory(whole, x) for x in read.values() if x.size)


def test_no_tensors(path):
    path.write_bytes(raw_file({}))
    assert read_safetensors(path) == {}
    path.write_bytes(raw_file({"__metadata__": {"format": "pt"}}))
    assert read_safetensors(path) == {}


def test_truncated_anywhere(path):
    data = file_bytes(good())
    for length in [*range(0, 24), *range(24, len(data), 7), *range(len(data) - 70, len(data))]:
        refused(path, data[:length], "not a whole safetensors file")
    for extra in (b"x", b"\0" * 64):
        refused(path, data + extra, "its tensors end at byte")


E4 = entry([4], 0, 16)
BAD = {
    "header longer than the file": (raw_file(b"{}", length=3), "header would end"),
    "header of 2^63": (raw_file(b"{}", length=2**63), "header would end"),
    "header of 2^64 - 1": (raw_file(b"{}", length=2**64 - 1), "header would end"),
    "header length 0": (raw_file(b""), "not JSON"),
    "not JSON": (raw_file(b"hello!!!"), "not JSON"),
    "not UTF-8": (raw_file(b'{"\xff": 1}'), "not JSON"),
    "UTF-16": (raw_file('{"a": 1}'.encode("utf-16")), ""),
    "two objects": (raw_file(b"{}{}"), "not JSON"),
    "a list": (raw_file([E4], bytes(16)), "not a JSON object"),
    "null": (raw_file(b"null"), "not a JSON object"),
    "lists 100,000 deep": (raw_file(b"[" * 100_000), "not JSON"),
    "objects 100,000 deep": (raw_file(b'{"a":' * 100_000), "not JSON"),
    "a number of 5,000 digits": (raw_file(b'{"a": ' + b"9" * 5000 + b"}"), ""),
    "NaN as an entry": (raw_file(b'{"a": NaN}'), "no proper shape"),
    "duplicate names": (raw_file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                 b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), "stands twice"),
    "duplicate keys of an entry": (
        raw_file(b'{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', bytes(4)), "stands twice"),
    "overlapping": (raw_file({"a": E4, "b": entry([4], 8, 24)}, bytes(24)), "tensor b"),
    "the same bytes twice": (raw_file({"a": E4, "b": E4}, bytes(16)), "tensor b"),
    "a hole": (raw_file({"a": E4, "b": entry([4], 20, 36)}, bytes(36)), "tensor b"),
    "a hole in front": (raw_file({"a": entry([4], 4, 20)}, bytes(20)), "tensor a"),
    "out of range": (raw_file({"a": entry([8], 0, 32)}, bytes(16)), "tensor a"),
    "far out of range": (raw_file({"a": entry([2**40], 0, 2**42)}, bytes(16)), "tensor a"),
    "end before begin": (raw_file({"a": entry([4], 16, 0)}, bytes(16)), "tensor a"),
    "too few bytes for the shape": (raw_file({"a": entry([5], 0, 16)}, bytes(16)), "tensor a"),
    "too many bytes for the shape": (raw_file({"a": entry([3], 0, 16)}, bytes(16)), "tensor a"),
    "bytes for half the type": (raw_file({"a": entry([4], 0, 8)}, bytes(8)), "tensor a"),
    "product 2^64": (raw_file({"a": entry([2**32, 2**32], 0, 16)}, bytes(16)), "tensor a"),
    "product 2^64 + 4": (raw_file({"a": entry([4, 2**62 + 1], 0, 16)}, bytes(16)), "tensor a"),
    "nothing, of a huge size": (raw_file({"a": entry([0, 2**62, 2**62], 0, 0)}), ""),
    "size 2^63": (raw_file({"a": entry([2**63], 0, 16)}, bytes(16)), "no proper shape"),
    "100 axes": (raw_file({"a": entry([1] * 99 + [4], 0, 16)}, bytes(16)), ""),
    "negative size": (raw_file({"a": entry([-4], 0, 16)}, bytes(16)), "no proper shape"),
    "two negative sizes": (raw_file({"a": entry([-2, -2], 0, 16)}, bytes(16)), "no proper shape"),
    "boolean size": (raw_file({"a": entry([True, 4], 0, 16)}, bytes(16)), "no proper shape"),
    "float size": (raw_file({"a": entry([4.0], 0, 16)}, bytes(16)), "no proper shape"),
    "text as size": (raw_file({"a": entry(["4"], 0, 16)}, bytes(16)), "no proper shape"),
    "shape is a number": (raw_file({"a": entry(4, 0, 16)}, bytes(16)), "no proper shape"),
    "shape is missing": (raw_file({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, bytes(16)), "no proper shape"),
    "negative offset": (raw_file({"a": entry([4], -16, 0)}, bytes(16)), "no proper shape"),
    "boolean offset": (raw_file({"a": entry([0], False, False)}), "no proper shape"),
    "float offset": (raw_file({"a": entry([4], 0, 16.0)}, bytes(16)), "no proper shape"),
    "three offsets": (raw_file({"a": E4 | {"data_offsets": [0, 8, 16]}}, bytes(16)), "no proper shape"),
    "no offsets": (raw_file({"a": E4 | {"data_offsets": []}}, bytes(16)), "no proper shape"),
    "offsets are missing": (raw_file({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)), "no proper shape"),
    "entry is a list": (raw_file({"a": [4]}, bytes(16)), "no proper shape"),
    "unknown dtype": (raw_file({"a": E4 | {"dtype": "F8_E4M3"}}, bytes(16)), "'F8_E4M3'"),
    "int8": (raw_file({"a": E4 | {"dtype": "I8"}}, bytes(16)), "'I8'"),
    "dtype is missing": (raw_file({"a": {"shape": [4], "data_offsets": [0, 16]}}, bytes(16)), "None"),
    "dtype is a list": (raw_file({"a": E4 | {"dtype": ["F32"]}}, bytes(16)), "dtype"),
    "dtype is an object": (raw_file({"a": E4 | {"dtype": {}}}, bytes(16)), "dtype"),
    "data without tensors": (raw_file({}, bytes(16)), "its tensors end at byte"),
    "an archive": (b"PK\x03\x04" + bytes(60), "is a ZIP archive, as torch.save"),
    "a pickle": (b"\x80\x02}q\x01." + bytes(60), "is a pickle, as torch.save"),
    "only zeros": (bytes(64), "not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(path, name):
    data, *words = BAD[name]
    refused(path, data, *words)


def test_a_header_that_is_too_large_is_not_read(path):
    with open(path, "wb") as file:
        file.write((101 << 20).to_bytes(8, "little"))
        file.truncate(102 << 20)
    with pytest.raises(TinyError, match="header would end"):
        read_safetensors(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_headers_never_give_anything_but_an_error_or_the_bytes_of_the_file(path, seed):
    rng, data = np.random.default_rng(seed), file_bytes(good())
    end, refusals = 8 + int.from_bytes(data[:8], "little"), 0
    for _ in range(100):
        bad = bytearray(data)
        for place in rng.integers(0, end, rng.integers(1, 4)):
            bad[place] = rng.choice([rng.integers(0, 256), *b'0123456789-[]{},:"\\'])
        path.write_bytes(bad)
        try:
            read = read_safetensors(path)
        except TinyError:
            refusals += 1
            continue
        # What was read is inside the file: all of its bytes together are its data, in some order of names.
        start = 8 + int.from_bytes(bad[:8], "little")
        assert sum(x.nbytes for x in read.values()) == len(bad) - start
        assert sorted(b"".join(x.tobytes() for x in read.values())) == sorted(bad[start:])
    assert 50 < refusals < 100


def test_against_the_library(path):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed; the dev extra has it")
    from safetensors import SafetensorError

    tensors = {name: x for name, x in good().items() if x.dtype != BF16}
    save_safetensors(path, tensors)
    check_equal(library.load_file(path), tensors)
    library.save_file(tensors, path, metadata={"format": "np"})
    check_equal(read_safetensors(path), tensors)
    # It refuses the same bad files, except empty tensors; of a name that occurs twice it takes the last one.
    for name in BAD.keys() - {"empty", "duplicate names"}:
        path.write_bytes(BAD[name][0])
        with pytest.raises((SafetensorError, ValueError)):
            library.load_file(path)


def test_bytes_are_compared_and_not_values(path):
    path.write_bytes(file_bytes(good()))
    assert_close(read_safetensors(path)["b"], good()["b"], 0.0)
