"""Files of intermediate arrays, as `verify dump` writes them and any implementation can: tests/golden/FORMAT.md.

A file can come from anywhere, so sizes are checked before arrays are unpacked, and unknown arrays are not unpacked.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Config, TinyError
from tiny.system.free_memory import free_memory
from tiny.system.whole import write_whole
from tiny.tools.verify.names import ARRAY, INPUT, kind, shape_of
from tiny.tools.verify.npz import REMEDY, Header, archive, read_array, read_headers

FORMAT = "tiny-verify 1"
MAX_BYTES, MAX_RECORD, MAX_NUMBERS = 16 << 30, 1 << 20, 1 << 20  # all arrays; letters of the record; ids and the like
MAX_PICTURES = 64 * 10**6  # pixels of all pictures; preprocessing takes about 13 bytes for each
MAX_PIXELS = 1 << 25  # preprocessed ones: 131,072 patches of 16 x 16


class Dump(NamedTuple):
    """What a file holds: the record, the inputs, the arrays of the trace, and the headers of all arrays by name.

    Arrays that are unknown, or have another shape than the model's, have a header only.
    """

    record: dict[str, Any]
    inputs: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    headers: dict[str, Header]

    @property
    def ids(self) -> np.ndarray:
        """The prompt (T,)."""
        return self.inputs["ids"]

    @property
    def positions(self) -> np.ndarray:
        """Which tokens the rows of the arrays are; keys and values have a row for every token."""
        return self.inputs.get("positions", np.arange(len(self.ids)))

    @property
    def names(self) -> set[str]:
        """The names of all arrays of the trace, whatever their shape."""
        return {name for name in self.headers if ARRAY.fullmatch(name)}

    @property
    def unknown(self) -> list[str]:
        """The names that are in no table of the format."""
        return sorted(self.headers.keys() - self.names - self.inputs.keys())

    def numbered(self, name: str) -> list[np.ndarray]:
        """The inputs `name0`, `name1` and so on."""
        return [self.inputs[f"{name}{n}"] for n in range(sum(key.startswith(name) for key in self.inputs))]

    def shape_in(self, name: str, config: Config) -> tuple[int, ...] | None:
        """The shape of an array in a model that runs on these inputs; None if the model has no such array."""
        size = config.vision.patch_size if config.vision else 1
        patches = sum(x.shape[1] * x.shape[2] // size**2 for x in self.numbered("pixels"))
        return shape_of(name, len(self.ids), len(self.positions), patches, config)


def save(path: Path, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file under another name and then rename it, so that a file that exists is whole."""
    everything: dict[str, Any] = {"record": np.array(json.dumps(record)), **arrays}
    write_whole(path, lambda file: np.savez_compressed(file, **everything))


def read_precision(path: Path) -> str:
    """The precision that a file was computed in. Raises TinyError as `read`."""
    with archive(path) as opened:
        headers = read_headers(path, opened)
        return read_record(path, opened, headers)["precision"]


def headers_of(path: Path) -> dict[str, Header]:
    """The headers of all arrays but the record. Raises TinyError as `read`."""
    with archive(path) as opened:
        headers = read_headers(path, opened)
    headers.pop("record", None)
    return headers


def read(path: Path, config: Config | None = None, other: Mapping[str, Header] | None = None) -> Dump:
    """Read a file: the record, the inputs, and the arrays that can be compared.

    config: of the model to compare with; arrays of another shape are not unpacked
    other: the headers of the file to compare with; arrays that it has not, or in another shape, are not unpacked

    Raises:  TinyError for a file in another format, a size beyond the limits, or inputs that contradict each other
    """
    with archive(path) as opened:
        headers = read_headers(path, opened)
        record = read_record(path, opened, headers)
        headers.pop("record")
        check_input_sizes(path, headers, config)
        dump = Dump(record, unpack(path, opened, filter(INPUT.fullmatch, headers), headers), {}, headers)
        check_inputs(path, dump)
        wanted = [name for name in dump.names if comparable(dump, name, config, other)]
        arrays = unpack(path, opened, wanted, headers)
    check_experts(path, arrays, config)
    return dump._replace(arrays=arrays)


def comparable(dump: Dump, name: str, config: Config | None, other: Mapping[str, Header] | None) -> bool:
    """Whether an array has the type and shape of the model's, or of the other file's."""
    header = dump.headers[name]
    if header.dtype.kind not in ("iu" if kind(name) == "experts" else "f"):
        return False
    if other is not None and (name not in other or other[name].shape != header.shape):
        return False
    return config is None or header.shape == dump.shape_in(name, config)


def read_record(path: Path, opened, headers: Mapping[str, Header]) -> dict[str, Any]:
    """The record: a JSON object as one string."""
    header = headers.get("record")
    try:
        if header is None or header.shape or header.dtype.itemsize > 4 * MAX_RECORD:
            raise ValueError("it is not one string")
        text = read_array(path, opened, header)
        if (np.frombuffer(text.tobytes(), header.dtype.byteorder + "u4") > 0x10FFFF).any():
            raise ValueError("it has characters beyond the last of Unicode")
        record = json.loads(str(text))
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if record.get("precision") not in ("float32", "bfloat16"):
            raise ValueError("its precision is neither float32 nor bfloat16")
    except (ValueError, RecursionError) as error:
        raise TinyError(f"{path} has no array `record` with a JSON object: {error}.", REMEDY) from None
    return record


def check_input_sizes(path: Path, headers: Mapping[str, Header], config: Config | None) -> None:
    """Raise TinyError for inputs of another type or shape than the format's, or larger than a model can need."""
    def need(right: bool, what: str) -> None:
        if not right:
            raise TinyError(f"{path}: {what}.", REMEDY)

    area = {"image": 0, "pixels": 0}
    for name, header in headers.items():
        if not INPUT.fullmatch(name):
            continue
        what, shape = kind(name), header.shape
        types = "f" if what in ("pixels", "greedy_gaps") else "iu"
        need(header.dtype.kind in types and header.nbytes > 0, f"{name} is {header}")
        axes = 3 if what in ("pixels", "image") else 2 if what == "grids" else 1
        need(len(shape) == axes, f"{name} has the shape {shape}")
        need(what != "grids" or shape[1] == 2, "grids are not pairs of columns and rows")
        need(what != "pixels" or (shape[0] == 3 and header.dtype.itemsize <= 4),
             f"{name} is {header}, not (3, height, width) of float32")
        need(what != "image" or (shape[2] == 3 and header.dtype == np.uint8),
             f"{name} is {header}, not (height, width, 3) of uint8")
        if what in area:
            area[what] += shape[0] * shape[1] * shape[2] // 3
        need(axes == 3 or header.nbytes <= 8 * MAX_NUMBERS, f"{name} has the shape {shape}: too many numbers")
    need("ids" in headers, "it has no ids")
    tokens, most = headers["ids"].shape[0], MAX_PIXELS
    if config is not None:
        need(tokens <= config.max_seq_len, f"it has {tokens:,} ids, the context of the model is {config.max_seq_len:,}")
        most = tokens * config.vision.patch_size**2 if config.vision else 0
    for what, limit in (("image", MAX_PICTURES), ("pixels", most)):
        need(area[what] <= limit, f"{what} arrays have {area[what]:,} pixels; at most {limit:,} are possible here")


def check_inputs(path: Path, dump: Dump) -> None:
    """Raise TinyError unless the numbers of ids, positions and grids are possible and the inputs go together."""
    def need(right: bool, what: str) -> None:
        if not right:
            raise TinyError(f"{path}: {what}.", REMEDY)

    inputs = dump.inputs
    for name, x in inputs.items():
        need(x.dtype.kind == "f" or int(x.max()) < 2**31, f"{name} holds numbers beyond 2**31")
    need(int(dump.ids.min()) >= 0, "it has negative ids")
    positions = dump.positions.astype(np.int64)
    need(bool((np.diff(positions) > 0).all()) and 0 <= positions[0] and positions[-1] < len(dump.ids),
         f"positions are not rising numbers from 0 to {len(dump.ids) - 1}")
    counts = {}
    for what in ("pixels", "image"):
        counts[what] = sum(key.startswith(what) for key in inputs)
        need({f"{what}{n}" for n in range(counts[what])} <= inputs.keys(), f"{what} are not numbered from 0 on")
    need(counts["image"] in (0, counts["pixels"]), f"image and pixels are {counts['image']} and {counts['pixels']}")
    need("grids" not in inputs or len(inputs["grids"]) == counts["pixels"], "grids are not one row for each pixels")
    need(("greedy_gaps" not in inputs) or len(inputs["greedy_gaps"]) == len(inputs.get("greedy_tokens", ())),
         "greedy_gaps are not one number for each of greedy_tokens")


def unpack(path: Path, opened, names: Iterable[str], headers: Mapping[str, Header]) -> dict[str, np.ndarray]:
    """Read some of the arrays. Raises TinyError if they take more than the limit, or more than is free."""
    names = sorted(names)
    size, limit = sum(headers[name].nbytes for name in names), min(MAX_BYTES, free_memory())
    if size > limit:
        raise TinyError(f"{path} declares {len(names):,} arrays of {size:,} bytes.",
                        f"At most {limit:,} are read here: dump fewer --layers or --positions.")
    return {name: read_array(path, opened, headers[name]) for name in names}


def check_experts(path: Path, arrays: Mapping[str, np.ndarray], config: Config | None) -> None:
    """Raise TinyError for choices of experts that no router can make."""
    for name, x in arrays.items():
        if kind(name) != "experts":
            continue
        logits = arrays.get(name.replace("experts", "router_logits"))
        count = config.moe.num_experts if config and config.moe else logits.shape[-1] if logits is not None else None
        if x.ndim != 2 or x.min(initial=0) < 0 or (count is not None and x.max(initial=0) >= count):
            raise TinyError(f"{path}: {name} holds numbers that are no experts.", REMEDY)
        if (np.diff(np.sort(x, axis=1), axis=1) == 0).any():
            raise TinyError(f"{path}: {name} holds an expert twice for one token.", REMEDY)


def check_ids(path: Path, dump: Dump, config: Config) -> None:
    """Raise TinyError if an id is not in the vocabulary of the model."""
    for name in ("ids", "greedy_tokens"):
        largest = int(dump.inputs[name].max()) if name in dump.inputs else 0
        if largest >= config.vocab_size:
            raise TinyError(f"{path}: id {largest} of {name} is not in the vocabulary of {config.vocab_size}.",
                            "Dump and check the same model.")
