"""Files of intermediate arrays, as `verify dump` writes them and any implementation can: tests/golden/FORMAT.md.

A file is data from anywhere: nothing is unpickled, and every size is checked before anything is read.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Config, TinyError
from tiny.tools.verify.names import ARRAY, INPUT, kind, shape_of

FORMAT = "tiny-verify 1"
MAX_MEMBERS, MAX_BYTES, MAX_RECORD = 20_000, 16 << 30, 1 << 20  # arrays, bytes of all of them, letters of the record
REMEDY = "Write the file again as tests/golden/FORMAT.md says."


class Dump(NamedTuple):
    """What a file holds: the record, the inputs, the arrays of the trace by name, and unknown names."""

    record: dict[str, Any]
    inputs: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    unknown: list[str]

    @property
    def ids(self) -> np.ndarray:
        """The prompt (T,)."""
        return self.inputs["ids"]

    @property
    def positions(self) -> np.ndarray:
        """Which tokens the rows of the arrays are; keys and values have a row for every token."""
        return self.inputs.get("positions", np.arange(len(self.ids)))

    def numbered(self, name: str) -> list[np.ndarray]:
        """The inputs `name0`, `name1` and so on."""
        return [self.inputs[f"{name}{n}"] for n in range(sum(key.startswith(name) for key in self.inputs))]


def save(path: Path, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file under another name and then rename it, so that a file that exists is whole."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            everything: dict[str, Any] = {"record": np.array(json.dumps(record)), **arrays}
            np.savez_compressed(file, **everything)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> Dump:
    """Read a file and check what can be checked without the model.

    Raises:  TinyError for a file in another format, a size beyond the limits, or inputs that contradict each other
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = read_members(path, archive)
    except FileNotFoundError:
        raise TinyError(f"{path} does not exist.", "`verify dump` writes such a file.") from None
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise TinyError(f"{path} is not a whole npz file: {error}.", REMEDY) from None
    record = read_record(path, stored.pop("record", None))
    inputs = {name: x for name, x in stored.items() if INPUT.fullmatch(name)}
    arrays = {name: x for name, x in stored.items() if ARRAY.fullmatch(name)}
    dump = Dump(record, inputs, arrays, sorted(stored.keys() - inputs.keys() - arrays.keys()))
    check_inputs(path, dump)
    return dump


def read_members(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Every array of the archive; each must take exactly the bytes that its header declares."""
    members, arrays = archive.infolist(), {}
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
        raise TinyError(f"{path} declares {len(members):,} arrays of {sum(m.file_size for m in members):,} bytes.",
                        f"At most {MAX_MEMBERS:,} and {MAX_BYTES:,} are read: dump fewer --layers or --positions.")
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in arrays or not member.filename.endswith(".npy"):
            raise TinyError(f"{path} holds {member.filename!r} twice, or it is no array.", REMEDY)
        with archive.open(member) as file:
            try:
                version = np.lib.format.read_magic(file)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = header[version](file)
                size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            except (ValueError, KeyError, TypeError, SyntaxError) as error:
                raise TinyError(f"{path}: {name} is no array: {error}.", REMEDY) from None
            kinds = "U" if name == "record" else "biuf"
            if dtype.kind not in kinds or min(shape, default=0) < 0 or size != member.file_size - file.tell():
                raise TinyError(f"{path}: {name} is {shape} of {dtype} in {member.file_size:,} bytes.", REMEDY)
        with archive.open(member) as file:
            arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def read_record(path: Path, text: np.ndarray | None) -> dict[str, Any]:
    """The record: a JSON object as one string."""
    try:
        if text is None or text.ndim or text.dtype.itemsize > 4 * MAX_RECORD:
            raise ValueError("no such string")
        record = json.loads(str(text))
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if record.get("precision") not in ("float32", "bfloat16"):
            raise ValueError("its precision is neither float32 nor bfloat16")
    except (ValueError, RecursionError) as error:
        raise TinyError(f"{path} has no array `record` with a JSON object: {error}.", REMEDY) from None
    return record


def check_inputs(path: Path, dump: Dump) -> None:
    """Raise TinyError unless ids, positions, grids and pixels have their types and shapes and go together."""
    def need(right: bool, what: str) -> None:
        if not right:
            raise TinyError(f"{path}: {what}.", REMEDY)

    inputs = dump.inputs
    for name, x in inputs.items():
        types = "f" if name.startswith(("pixels", "greedy_gaps")) else "iu"
        need(x.dtype.kind in types and x.size > 0, f"{name} is {x.shape} of {x.dtype}")
        need(x.ndim == (3 if name.startswith(("pixels", "image")) else 2 if name == "grids" else 1),
             f"{name} has the shape {x.shape}")
        need(x.dtype.kind == "f" or int(x.max()) < 2**31, f"{name} holds numbers beyond 2**31")
    need("ids" in inputs and int(dump.ids.min()) >= 0, "it has no ids, or negative ones")
    positions = dump.positions
    need(bool((np.diff(positions) > 0).all()) and 0 <= positions[0] and positions[-1] < len(dump.ids),
         f"positions are not rising numbers from 0 to {len(dump.ids) - 1}")
    for what in ("pixels", "image"):
        count = sum(key.startswith(what) for key in inputs)
        need({f"{what}{n}" for n in range(count)} <= inputs.keys(), f"{what} are not numbered from 0 on")
    need("grids" not in inputs or inputs["grids"].shape[1] == 2, "grids are not pairs of columns and rows")


def check_shapes(path: Path, dump: Dump, config: Config) -> None:
    """Raise TinyError if an array has not the shape that the model gives it, or an id is not in its vocabulary."""
    if dump.ids.max() >= config.vocab_size:
        raise TinyError(f"{path}: id {dump.ids.max()} is not in the vocabulary of {config.vocab_size}.",
                        "Dump and check the same model.")
    size = config.vision.patch_size if config.vision else 1
    patches = sum(x.shape[1] * x.shape[2] // size**2 for x in dump.numbered("pixels"))
    for name, x in dump.arrays.items():
        shape = shape_of(name, len(dump.ids), len(dump.positions), patches, config)
        if shape is None or x.shape != shape or x.dtype.kind not in ("iu" if kind(name) == "experts" else "f"):
            raise TinyError(f"{path}: {name} is {x.shape} of {x.dtype}; this model has {shape or 'no such array'}.",
                            "Dump and check the same model, in the shapes of tests/golden/FORMAT.md.")
        if kind(name) == "experts" and not (0 <= x.min() and config.moe and x.max() < config.moe.num_experts):
            raise TinyError(f"{path}: {name} holds numbers that are no experts.", REMEDY)
