"""The command `convert`: write a checkpoint of any released layout, or a GGUF file, in Mistral's layout or HF's.

It reads Mistral's and Hugging Face's layout, GGUF, and the consolidated.*.pth and .pt of Mixtral. No bit of a number
changes without --dtype: what is packed becomes float32. Only rows of wq and wk change places, and stacked experts are
taken apart. OUT gets its name when all of it is written.
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
from tqdm import tqdm

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import LAYOUTS as FOLDERS
from tiny.files.checkpoint import Checkpoint, find_layout, open_checkpoint, weight_files
from tiny.files.packed.array import Packed
from tiny.files.packed.gguf_model import is_gguf
from tiny.files.packed.gguf_tokenizer import read_tokenizer
from tiny.files.packed.quantised import DTYPES as STORED
from tiny.files.packed.quantised import PLACES
from tiny.files.safetensors import DTYPES, read_safetensors
from tiny.files.weights import CONSTANTS, Tensors, expected_shapes, open_tensors, release_pages
from tiny.system.reading import read_json
from tiny.system.whole import whole_folder, write_whole
from tiny.tools.convert.tokenizer_json import write_for_transformers
from tiny.tools.convert.torch_checkpoint import open_torch, read_torch_config, torch_files
from tiny.tools.convert.write import hf_config_json, params_json, save_checkpoint, write_json
from tiny.tools.memory import amount
from tiny.tools.session import note, progress
from tiny.tools.terminal import one_line

LAYOUTS = {"mistral": "Mistral's layout", "hf": "HF's layout", "torch": "files of torch.save", "gguf": "GGUF"}
STORES = {name: np.dtype(dtype) for name, dtype in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16))}
CONFIGS = {"params.json", "config.json"}
WEIGHTS = {".safetensors", ".pt", ".pth", ".bin", ".gguf"}
LARGEST_COPY = 64 << 20  # bytes of a file that is copied along: a tokenizer, a licence, a card


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m tiny convert`."""
    option = parser.add_argument
    option("source", metavar="SRC",
           help="a folder in a released layout, or with consolidated.*.pth or .pt; or a GGUF file")
    option("out", metavar="OUT", help="the folder to write; it must not exist")
    option("--to", choices=("mistral", "hf"), default="mistral", help="the layout to write; default: %(default)s")
    option("--from", choices=tuple(LAYOUTS), dest="layout", help="what to read, if SRC holds several; default: "
           "Mistral's safetensors, else HF's, else files of torch.save")
    option("--dtype", choices=tuple(STORES), help="the type of all numbers; default: as they are, and float32 for what "
           "is packed")
    option("--shard-size", type=float, default=5.0, metavar="GB",
           help="largest file of HF's layout in gigabytes; default: %(default)s")


def main(args: argparse.Namespace) -> None:
    """Convert one checkpoint. Raises TinyError, where possible before anything is written."""
    folder, out = tiny.model_folder(args.source), Path(args.out)
    check_out(folder, out)
    if not 0 < args.shard_size < 1e6:
        raise TinyError(f"--shard-size is {args.shard_size}.", "Use a number of gigabytes above 0.")
    source = open_source(folder, args.layout, args.dtype)
    total = sum(int(np.prod(shape)) * source.tensors[name].dtype.itemsize
                for name, shape in expected_shapes(source.config).items())
    check_space(out.parent, total)
    note(f"{args.source}: {LAYOUTS[source.layout]}, {len(source.tensors)} tensors, {amount(total)}")
    for line in write(folder, source, out, args.to, int(args.shard_size * 1e9), progress(total, "converting")):
        note(line)
    print(f"{one_line(out)}: {LAYOUTS[args.to]}, {len(source.tensors)} tensors, {amount(total)}")


def write(folder: Path, source: Checkpoint, out: Path, to: str, shard: int, done: tqdm) -> list[str]:
    """Write the checkpoint beside OUT, read its heads, and give it its name. Return what could not be kept.

    Raises:  TinyError if another conversion works there; whatever happens, nothing half-written stays
    """
    try:
        with whole_folder(out) as part:
            save_checkpoint(part, to, source.config, source.tensors, shard, done.update)
            said = (write_tokenizer(part, source, to) if source.layout == "gguf" else
                    copy_files(folder, part, source) + keep_config(source, to, part))
            said += write_for_transformers(part, source.config) if to == "hf" else []
            open_tensors(to, weight_files(part, to), source.config)
    except BlockingIOError as error:
        raise TinyError(f"{error} by another conversion.", "Wait until it is done, or name another folder.") from None
    finally:
        done.close()
    return said


def check_out(folder: Path, out: Path) -> None:
    """Raise TinyError if OUT exists, or cannot be made."""
    if not folder.is_dir() and not is_gguf(folder):
        raise TinyError(f"{folder} is not a folder.", "Give the folder that holds the released files.")
    if out.exists() or out.is_symlink() or not out.name:
        raise TinyError(f"{out} exists.", "Name a folder that does not exist; nothing is ever overwritten.")
    if not out.parent.is_dir():
        raise TinyError(f"{out.parent} is not a folder.", "Make it first.")


def check_space(folder: Path, needed: int) -> None:
    """Raise TinyError if the copy does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TinyError(f"{folder} has {amount(free)} free, the copy needs {amount(needed)}.", "Use another disk.")


def open_source(folder: Path, layout: str | None, dtype: str | None = None) -> Checkpoint:
    """Find the checkpoint of a folder, in the layout that is asked for, and map it; dtype: what its numbers become.

    Raises:  TinyError if the folder holds no layout, not the one that is asked for, or a broken one
    """
    mapped = any(folder.glob("consolidated*.safetensors")) or any(folder.glob("model*.safetensors"))
    torch = torch_files(folder) if layout == "torch" or layout is None and not mapped else []
    if torch:
        config, path = read_torch_config(folder)
        tensors: Mapping[str, np.ndarray] = open_torch(torch, config)
        tensors = Plain(tensors, expected_shapes(config), dtype) if dtype else tensors
        return Checkpoint("torch", path, config, torch, tensors)
    found = "gguf" if is_gguf(folder) else (
        layout if layout in FOLDERS and weight_files(folder, layout) else find_layout(folder))
    if layout not in (None, found):
        raise TinyError(f"{folder} does not hold {LAYOUTS[layout]}.", "Give another --from, or none.")
    source = open_checkpoint(folder, found)
    files = source.files if found != "gguf" else []
    constants = [name for file in files for name in read_safetensors(file, DTYPES | STORED)
                 if name.endswith(CONSTANTS)]
    if constants:
        note(f"left out: {len(constants)} constants of rotary positions, which follow from theta")
    return replace(source, tensors=Plain(source.tensors, expected_shapes(source.config), dtype))


class Plain(Tensors):
    """Tensors in Mistral's order of rows and with two axes, where `open_tensors` gives views of HF's order; in another
    dtype, if one is named. What is packed then, or to be converted, is so when it is written.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], shapes: dict[str, tuple[int, ...]], dtype: str | None):
        super().__init__(shapes)
        self.tensors, self.shapes, self.dtype = tensors, shapes, STORES.get(dtype or "")

    def __getitem__(self, name: str) -> np.ndarray:
        tensor: Any = self.tensors[name]
        if tensor.shape != self.shapes[name]:
            view, tensor = tensor, tensor.reshape(self.shapes[name])
            release_pages(view)
        if self.dtype in (None, tensor.dtype):
            return tensor
        if tensor.ndim == 1:
            return tensor.astype(self.dtype)
        packed = tensor if isinstance(tensor, Packed) else Packed(
            str(tensor.dtype), tensor.shape, (tensor,), lambda rows: rows.astype(np.float32))
        return cast(np.ndarray, packed.cast(self.dtype))


def write_tokenizer(out: Path, source: Checkpoint, to: str) -> list[str]:
    """Write the tokenizer of a GGUF file as a release has it; return lines about what could not be kept."""
    ends = sorted(source.config.end_ids - {2}) if to == "mistral" else []
    said = [f"not in params.json: {', '.join(map(str, ends))}, which also end a text"] if ends else []
    try:
        name, data = read_tokenizer(source.config_file, source.config.vision)
    except TinyError as error:
        return [*said, f"no tokenizer: {error.cause}"]
    write_whole(out / name, data)
    return said


def copy_files(folder: Path, out: Path, source: Checkpoint) -> list[str]:
    """Copy what is neither weights nor configuration: tokenizer, licence, card. Return a line about the rest."""
    left, used = [], {*source.files, source.config_file}
    for path in sorted(folder.iterdir()):
        if path in used or path.name.startswith(".") or path == out:
            continue
        if path.name == "model.safetensors.index.json" and source.layout == "hf":
            continue
        weights = path.suffix in WEIGHTS or path.name.endswith(".index.json") or path.name in CONFIGS
        if path.is_file() and not weights and path.stat().st_size <= LARGEST_COPY and leads_inside(path):
            write_whole(out / path.name, path.read_bytes())
        else:
            left.append(path.name)
    return [f"not copied: {', '.join(left)}"] if left else []


def leads_inside(path: Path) -> bool:
    """Whether a file is what it seems: no link, or one that stays in its folder, or in its model's part of a cache.

    What a link elsewhere points to is nothing that the owner of the folder can have meant to publish.
    """
    folder = path.parent.resolve()
    top = folder.parent.parent if folder.parent.name == "snapshots" else folder
    return path.resolve().is_relative_to(top)


def keep_config(source: Checkpoint, to: str, out: Path) -> list[str]:
    """Copy the configuration if it is in the form wanted; else return a line about what the other form cannot say."""
    name = "params.json" if to == "mistral" else "config.json"
    values, config = read_json(source.config_file), source.config
    plain = unquantised(values)
    if source.config_file.name == name and (to == "hf" or "dim" in values):
        if plain == values:
            write_whole(out / name, source.config_file.read_bytes())
        else:
            dtype = source.tensors["layers.0.attention.wq.weight"].dtype.name
            write_json(out / name, {key: dtype if key in ("dtype", "torch_dtype") else plain[key] for key in plain})
        return []
    kept = flat(params_json(config) | {"max_position_embeddings": config.max_seq_len} | hf_config_json(config))
    lost = [key for key, value in flat(plain).items() if kept.get(key, kept) != value]
    return [f"not in {name}: {', '.join(lost)} of {source.config_file.name}"] if lost else []


def unquantised(values: dict) -> dict:
    """A configuration without what it says of quantised weights: they are written unpacked."""
    return {key: unquantised(value) if key == "text_config" and isinstance(value, dict) else value
            for key, value in values.items() if key not in PLACES}


def flat(values: dict, prefix: str = "") -> dict:
    """The values of a JSON object and of the objects in it, by keys joined with points."""
    found: dict = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
