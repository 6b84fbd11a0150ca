"""Files of torch.save: tensors as views of the mapped file, and nothing else, whatever is in the file.

The format is a zip archive: NAME/data.pkl says which tensors there are, NAME/data/0, 1, ... are their bytes. The
records are stored, not compressed, so that a tensor can be viewed in place. torch is not needed, and no code is run.
"""

import mmap
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tiny.config import TinyError
from tiny.files.safetensors import DTYPES
from tiny.system.reading import check_plain
from tiny.tools.convert.torch_pickle import Machine, Name, NotTensors
from tiny.tools.convert.torch_zip import Record, check_sums, find_records, read_record

STORAGES = {"torch BFloat16Storage": DTYPES["BF16"], "torch HalfStorage": DTYPES["F16"],
            "torch FloatStorage": DTYPES["F32"]}
OTHERS = frozenset(f"torch {kind}Storage" for kind in (
    "Double", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat", "ComplexDouble", "QInt8", "QUInt8"))
DICT, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
NAMES = frozenset({DICT, TENSOR, PARAMETER, *STORAGES, *OTHERS})
LONGEST_PICKLE = 64 << 20
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before version 1.6 begin
REMEDY = "Fetch the file again; it may be cut short."


class Storage(NamedTuple):
    """The bytes of one or several tensors, as numbers of one type."""

    record: Record
    dtype: np.dtype
    length: int


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Map one file of torch.save and return its tensors by name, as read-only views.

    Dtypes:  BFloat16Storage, HalfStorage, FloatStorage -> ml_dtypes.bfloat16, float16, float32
    Raises:  TinyError if the file is of another kind, damaged, holds something that is not a dict of tensors, or wants
             something run
    Source:  torch/serialization.py, torch/_utils.py
    """
    try:
        check_plain(path)
        with open(path, "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(16)
            check_kind(path, start)
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise TinyError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None
    try:
        return Reader(data).tensors()
    except NotTensors as error:
        raise TinyError(f"{path} is not used: {error}.",
                        "Open this file with nothing that unpickles it, and get the weights from another source.") \
            from None
    except ValueError as error:  # wrong UTF-8 too
        raise TinyError(f"{path} is not a whole file of tensors: {error}.", REMEDY) from None


def check_kind(path: Path, start: bytes) -> None:
    """Raise TinyError for a file that does not begin as an archive, and say what it is if that is known."""
    if start.startswith(b"PK"):
        return
    if start[:1] == b"\x80":
        kind = "a file of torch before version 1.6" if start.startswith(LEGACY[:len(start)]) else "a bare pickle"
        raise TinyError(f"{path} is {kind}, which can be read only by running it.",
                        "Get the weights as safetensors; or load it in torch with weights_only=True and torch.save it.")
    raise TinyError(f"{path} is not a file of torch.save: it does not begin as a zip archive.", REMEDY)


class Reader:
    """What one archive holds, and how the names in its pickle become tensors."""

    def __init__(self, data: mmap.mmap):
        self.data, self.records = data, find_records(data)
        check_sums(data, self.records)
        pickles = [name for name in self.records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} records called data.pkl")
        self.folder = pickles[0].removesuffix("data.pkl")
        order = self.records.get(self.folder + "byteorder")
        if order and read_record(data, order, 100) != b"little":
            raise ValueError("its numbers are big-endian")

    def tensors(self) -> dict[str, np.ndarray]:
        """Run the pickle. Raises ValueError if what it makes is not a dict of tensors."""
        program = read_record(self.data, self.records[self.folder + "data.pkl"], LONGEST_PICKLE)
        value = Machine(program, NAMES, self.call, self.storage).run()
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a dict of tensors")
        for name, tensor in value.items():
            if not isinstance(tensor, np.ndarray):
                raise ValueError(f"its entry {name!r} is a {type(tensor).__name__}, not a tensor")
        return value

    def call(self, name: str, arguments: tuple):
        """The three calls that a pickle of tensors makes. Raises ValueError for any other."""
        if name == DICT and not arguments:
            return {}
        if name == TENSOR and len(arguments) in (6, 7):
            return self.tensor(*arguments[:4])
        if name == PARAMETER and len(arguments) == 3 and isinstance(arguments[0], np.ndarray):
            return arguments[0]
        raise NotTensors(f"its pickle calls {name.replace(' ', '.')} in a way that torch.save does not; nothing of it "
                         "was run")

    def storage(self, key) -> Storage:
        """The record that a persistent id names. Raises ValueError if there is none, or it has another length."""
        kinds = [type(part) for part in key] if isinstance(key, tuple) else []
        if kinds != [str, Name, str, str, int] or key[0] != "storage":
            raise ValueError("its pickle refers to a record in a way that torch.save does not")
        kind, name, count = key[1].text, key[2], key[4]
        if kind not in STORAGES:
            raise ValueError(f"it has a {kind.replace(' ', '.')}; of numbers, bfloat16, float16 and float32 are read")
        record = self.records.get(f"{self.folder}data/{name}")
        if record is None:
            raise ValueError("its pickle refers to a record that is not there")
        dtype = STORAGES[kind]
        if count * dtype.itemsize != record.size:
            raise ValueError(f"its record data/{name} has {record.size:,} bytes, its pickle says other")
        return Storage(record, dtype, count)

    def tensor(self, storage, offset, sizes, strides) -> np.ndarray:
        """A view of a storage. Raises ValueError if any of it is outside, or elements overlap."""
        if not isinstance(storage, Storage) or not whole((offset,)) or not whole(sizes) or not whole(strides) or len(
                sizes) != len(strides):
            raise ValueError("its pickle builds a tensor of something else than a storage and whole numbers")
        count, last = 1, offset
        for size, stride in zip(sizes, strides):
            count, last = count * size, last + (size - 1) * stride
        if count > storage.length or offset > storage.length or count and last >= storage.length:
            raise ValueError(f"a tensor {sizes} with strides {strides} from {offset:,} on does not fit into its "
                             f"storage of {storage.length:,} numbers")
        if not count:
            return np.zeros(sizes, storage.dtype)
        width = storage.dtype.itemsize
        return np.ndarray(sizes, storage.dtype, self.data, storage.record.start + offset * width,
                          [stride * width for stride in strides])


def whole(values) -> bool:
    """Whether this is a tuple of at most four whole numbers that can be sizes."""
    return isinstance(values, tuple) and len(values) <= 4 and all(type(v) is int and 0 <= v < 2**48 for v in values)
