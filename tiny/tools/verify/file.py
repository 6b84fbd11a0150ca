"""Files of intermediate arrays, as `verify dump` writes them and any implementation can: tests/golden/FORMAT.md.

A file is data from anywhere: nothing is unpickled, and every size is checked before anything is read.
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Config, TinyError

FORMAT = "tiny-verify 1"
MAX_MEMBERS, MAX_BYTES, MAX_RECORD = 20_000, 16 << 30, 1 << 20  # arrays, bytes of all of them, letters of the record
TOKENS = "embed|norm|logits|" + "|".join(f"{name}\\d\\d+" for name in (
    "q", "k", "v", "attn", "layer", "router_logits", "experts", "expert_weights", "attention_norm", "ffn_norm", "mix"))
PATCHES = "patch_conv|vision_ln_pre|projector|" + "|".join(f"vision_{name}\\d\\d+" for name in (
    "q", "k", "v", "attn", "layer", "attention_norm", "ffn_norm", "mix"))
ARRAY = re.compile(f"(?:{TOKENS}|{PATCHES})")
INPUT = re.compile(r"ids|positions|grids|(?:pixels|image)\d+|greedy_(?:tokens|gaps)")
REMEDY = "Write the file again as tests/golden/FORMAT.md says."


class Dump(NamedTuple):
    """What a file holds: the record, the inputs, the arrays of the trace by name, and names that nobody knows."""

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
    """Write a file under another name and then rename it: what is there is whole."""
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

    Raises:  TinyError for a file that is no such file, a size beyond the limits, or inputs that contradict each other
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
    """Every array of the archive, after its declared size is found to be the size that it takes."""
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
        kind = "f" if name.startswith(("pixels", "greedy_gaps")) else "iu"
        need(x.dtype.kind in kind and x.size > 0, f"{name} is {x.shape} of {x.dtype}")
        need(x.ndim == (3 if name.startswith(("pixels", "image")) else 2 if name == "grids" else 1),
             f"{name} has the shape {x.shape}")
        need(x.dtype.kind == "f" or int(x.max()) < 2**31, f"{name} holds numbers beyond 2**31")
    need("ids" in inputs and int(dump.ids.min()) >= 0, "it has no ids, or negative ones")
    positions = dump.positions
    need(bool((np.diff(positions) > 0).all()) and 0 <= positions[0] and positions[-1] < len(dump.ids),
         f"positions are not rising numbers from 0 to {len(dump.ids) - 1}")
    for kind in ("pixels", "image"):
        count = sum(key.startswith(kind) for key in inputs)
        need({f"{kind}{n}" for n in range(count)} <= inputs.keys(), f"{kind} are not numbered from 0 on")
    need("grids" not in inputs or inputs["grids"].shape[1] == 2, "grids are not pairs of columns and rows")


def check_shapes(path: Path, dump: Dump, config: Config) -> None:
    """Raise TinyError if an array has not the shape that the model gives it, or an id is not in its vocabulary."""
    if dump.ids.max() >= config.vocab_size:
        raise TinyError(f"{path}: id {dump.ids.max()} is not in the vocabulary of {config.vocab_size}.",
                        "Dump and check the same model.")
    for name, x in dump.arrays.items():
        shape = shape_of(name, dump, config)
        if shape is None or x.shape != shape or x.dtype.kind not in ("iu" if kind(name) == "experts" else "f"):
            raise TinyError(f"{path}: {name} is {x.shape} of {x.dtype}; this model has {shape or 'no such array'}.",
                            "Dump and check the same model, in the shapes of tests/golden/FORMAT.md.")


        if kind(name) == "experts" and not (0 <= x.min() and config.moe and x.max() < config.moe.num_experts):
            raise TinyError(f"{path}: {name} holds numbers that are no experts.", REMEDY)


def kind(name: str) -> str:
    """The name of an array without the number of its layer."""
    return re.sub(r"\d+$", "", name)


def shape_of(name: str, dump: Dump, config: Config) -> tuple[int, ...] | None:
    """The shape of an array of the trace, or None if the model has none of this name."""
    vision, sees = config.vision, name.startswith("vision_") or kind(name) in ("patch_conv", "projector")
    what, number = kind(name).removeprefix("vision_"), int(re.findall(r"\d*$", name)[0] or 0)
    if sees:
        if vision is None or number >= vision.num_hidden_layers:
            return None
        patches = sum(x.shape[1] * x.shape[2] // vision.patch_size**2 for x in dump.numbered("pixels"))
        heads = (patches, vision.num_attention_heads, vision.head_dim)
        return heads if what in "qkv" else (patches, config.dim if what == "projector" else vision.hidden_size)
    moe, rows = config.moe, len(dump.positions)
    if number >= config.n_layers or (moe is None and what.startswith(("router", "expert"))):
        return None
    if what in ("k", "v"):
        return len(dump.ids), config.n_kv_heads, config.head_dim
    if what == "q":
        return rows, config.n_heads, config.head_dim
    experts, chosen = (moe.num_experts, moe.num_experts_per_tok) if moe else (0, 0)
    return rows, {"logits": config.vocab_size, "mix": config.n_heads * config.head_dim, "router_logits": experts,
                  "experts": chosen, "expert_weights": chosen}.get(what, config.dim)


# The arrays in the order in which a model makes them, and what makes each of them, in words.
# What an operation is called, and in which part of a layer it is.
WHAT = {"patch_conv": "the patch embedding", "vision_ln_pre": "the norm in front of the encoder",
        "projector": "the projector", "embed": "the embedding of the tokens", "norm": "the last norm",
        "logits": "the output matrix", "attention_norm": "norm before attention", "q": "queries: wq or their rotation",
        "k": "keys: wk or their rotation", "v": "values: wv", "mix": "scores, mask, softmax or average of the values",
        "attn": "output matrix wo", "ffn_norm": "norm before the feed-forward", "router_logits": "router",
        "experts": "choice of the experts", "expert_weights": "weights of the chosen experts", "layer": "feed-forward"}
ATTENTION = ("attention_norm", "q", "k", "v", "mix", "attn")
PARTS = [*ATTENTION, "ffn_norm", "router_logits", "experts", "expert_weights", "layer"]
OUTSIDE = ["patch_conv", "vision_ln_pre", "vision", "projector", "embed", "layers", "norm", "logits"]


def place(name: str, mixture: bool) -> dict:
    """Where an array is made: the layer, and the operation in words."""
    base, number = kind(name), name[len(kind(name)):]
    if not number:
        return {"array": name, "layer": None, "encoder": False, "operation": WHAT.get(base, base)}
    encoder, part = base.startswith("vision_"), base.removeprefix("vision_")
    half = "attention" if part in ATTENTION else "experts" if mixture else "feed-forward"
    what = "experts" if part == "layer" and mixture else WHAT.get(part, part)
    words = f"{half} of layer {int(number)}" + " of the vision encoder" * encoder
    return {"array": name, "layer": int(number), "encoder": encoder,
            "operation": words if what == half else f"{words} ({what})"}


def order(name: str) -> tuple:
    """The order in which a model computes its arrays."""
    base, number = kind(name), name[len(kind(name)):]
    if not number:
        return OUTSIDE.index(base), 0, 0
    part = base.removeprefix("vision_")
    return OUTSIDE.index("vision" if base != part else "layers"), int(number), PARTS.index(part)


def whole(name: str) -> bool:
    """Whether a file keeps all rows of an array: those of patches, and keys and values."""
    return name.startswith("vision_") or kind(name) in ("patch_conv", "projector", "k", "v")
