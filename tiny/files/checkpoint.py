"""A folder, opened: which layout it has, its files, its configuration, its tensors and its tokenizer.

What a folder says is read once, here, and handed on. This is the last file of the appendix.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import Config, TinyError
from tiny.files.hf_config import read_generation, read_hf_config
from tiny.files.hf_names import Place
from tiny.files.packed.gguf_model import is_gguf, only_gguf, open_gguf, token_list
from tiny.files.packed.gguf_tokenizer import released_file
from tiny.files.packed.quantised import DTYPES as PACKED
from tiny.files.packed.quantised import pack_tensors, read_method
from tiny.files.params import ENDS, read_params
from tiny.files.safetensors import DTYPES
from tiny.files.tokenizer_files import added_names, load_tokenizer, make_tokenizer, tokenizer_paths
from tiny.files.weights import read_tensors, take_tensors
from tiny.system.diagnosis import adapters, no_checkpoint, require, require_shards
from tiny.system.hub import find_snapshot
from tiny.system.reading import Note, read_json, warn
from tiny.tekken import TekkenTokenizer
from tiny.tokenizer import SentencePieceTokenizer

# The released layouts, Mistral's first: the file of the configuration, its reader, and the names of the weight files.
LAYOUTS = {"mistral": ("params.json", read_params, "consolidated*.safetensors"),
           "hf": ("config.json", read_hf_config, "model*.safetensors")}
SAFE = re.compile(r"[\w.-]{1,200}\.safetensors")
RELEASED = "Use the tokenizer that was released with this model."


@dataclass(frozen=True)
class Checkpoint:
    """What a folder says of a model.

    layout:  "mistral", "hf" or "gguf"; `convert` also opens "torch"
    files:   of the weights; none if only a configuration is there, and then the tensors are stand-ins
    tensors: by Mistral's names, as views; places says where each one is in the files
    metadata: the keys of a GGUF file
    notes:   what a user should know: what is there and not read, what is assumed
    """

    layout: str
    config_file: Path
    config: Config
    files: list[Path]
    tensors: Mapping[str, np.ndarray]
    places: Mapping[str, Place] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where all this was found."""
        return self.config_file.parent

    def note(self, text: str) -> None:
        """Keep a note, and warn of it."""
        self.notes.append(text)
        warn(text)


def open_checkpoint(folder: Path, layout: str | None = None) -> Checkpoint:
    """Open a folder in one of the layouts, or in the first that it holds; or a GGUF file. Only headers are read.

    Raises:  TinyError for a folder, file or tensor that is missing, broken, or of another model
    """
    notes: list[str] = []
    if is_gguf(folder):
        checkpoint = Checkpoint("gguf", *open_gguf(folder, notes.append), notes)
    else:
        layout, files = find_files(folder, notes.append, LAYOUTS if layout is None else (layout,))
        path, config = read_config(folder, layout, notes.append)
        tensors, places = take_tensors(layout, open_files(files, path), config, folder)
        notes += adapters(folder)
        checkpoint = Checkpoint(layout, path, config, files, tensors, places, notes=notes)
    for text in notes:
        warn(text)
    return checkpoint


def open_files(files: list[Path], config: Path) -> dict[str, np.ndarray]:
    """The tensors of all files, quantised ones as arrays that unpack what is asked for.

    Raises:  TinyError for a broken file, or weights that are quantised in a way that is not read here
    """
    method = read_method(read_json(config), config, lambda note: None)  # whose notes came with the sizes
    if method is None:
        return read_tensors(files)
    return pack_tensors(read_tensors(files, DTYPES | PACKED), method, config.parent)


def find_folder(path: Path) -> Path:
    """The folder with the files: of a Hugging Face cache a snapshot, else `path`; or the model's file, if it is GGUF.

    Raises:  TinyError if the cache leaves a choice, or there are several models in GGUF files
    """
    found = find_snapshot(path, [config for config, *_ in LAYOUTS.values()])
    return only_gguf(found) or found


def find_layout(folder: Path) -> str:
    """Say which released layout a folder holds, "mistral" or "hf". Mistral's comes first."""
    return find_files(folder, lambda note: None)[0]


def find_files(folder: Path, note: Note = warn, layouts: Iterable[str] = LAYOUTS) -> tuple[str, list[Path]]:
    """The first layout that a folder holds, and its weight files. Raises TinyError if it holds none."""
    for layout in layouts if folder.is_dir() else ():
        if files := weight_files(folder, layout, note):
            return layout, files
    raise no_checkpoint(folder)


def read_config(folder: Path, layout: str, note: Note = warn) -> tuple[Path, Config]:
    """The configuration of a folder in one of the layouts, and the file that it was read from."""
    name, read, _ = LAYOUTS[layout]
    config, generation = read(folder / name, note), folder / "generation_config.json"
    if layout == "hf" and generation.is_file():
        config = read_generation(generation, config, note)
    return folder / name, config


def weight_files(folder: Path, layout: str, note: Note = warn) -> list[Path]:
    """The weight files of a folder in one of the layouts; none if it is not in that layout.

    Raises:  TinyError for an index that is broken, or for shards that are not there
    """
    config, _, pattern = LAYOUTS[layout]
    if not (folder / config).is_file():
        return []
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if layout == "hf" and whole.is_file():
        if index.is_file():
            note(f"{whole.name} is read, as transformers does; {index.name} and its shards are not")
        return [whole]
    if layout == "hf" and index.is_file():
        return indexed_files(index)
    return require_shards(sorted(path for path in folder.glob(pattern) if path.is_file()))


def indexed_files(index: Path) -> list[Path]:
    """The shards that an HF index lists. Raises TinyError if one is missing, or is not a plain name of a file."""
    shards = read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names or not all(SAFE.fullmatch(name) for name in names):
        raise TinyError(f"{index} has no weight_map from tensors to names of files.", "Fetch the file again.")
    return require(sorted(index.parent / name for name in names), f"which {index.name} lists")


def open_tokenizer(checkpoint: Checkpoint) -> SentencePieceTokenizer | TekkenTokenizer | None:
    """The tokenizer beside the weights, or in their file, or None if there is none.

    Raises:  TinyError if it is broken, or of another model: its vocabulary or the sizes of its images differ
    """
    folder, vision = checkpoint.folder, checkpoint.config.vision
    tokenizer = rebuilt_tokenizer(checkpoint) if checkpoint.layout == "gguf" else None
    if tokenizer is None:
        named = tokenizer_paths(folder, vision is not None)
        path = next((path for path in named if path.is_file()), None)
        if named and path is None:
            checkpoint.note(f"{named[0].name} is a link to a file that is not there: the model has no tokenizer")
        tokenizer = load_tokenizer(path) if path else None
    if tokenizer is None:
        return None
    add_names(tokenizer, checkpoint)
    if vision is None or not isinstance(tokenizer, TekkenTokenizer):
        return tokenizer
    if tokenizer.patch_size is None:
        checkpoint.note("the tokenizer says nothing of images: patches and sizes are those of the model")
        tokenizer.patch_size, tokenizer.max_image_size = vision.patch_size, vision.max_image_size
    for key, name in zip(("patch_size", "max_image_size", "image_token_id", *ENDS),
                         ("", "", "[IMG]", "[IMG_BREAK]", "[IMG_END]")):
        stated, own = getattr(vision, key), tokenizer.special_id(name) if name else getattr(tokenizer, key)
        if stated not in (own, None):
            raise TinyError(f"{folder}: {key} is {stated} in the configuration, and in the tokenizer {name or key} is "
                            f"{own}.", RELEASED)
    return tokenizer


def rebuilt_tokenizer(checkpoint: Checkpoint) -> SentencePieceTokenizer | TekkenTokenizer | None:
    """The tokenizer in a GGUF file; None if it has none. One that is not read costs a note: it cannot be taken out."""
    try:
        rebuilt = released_file(checkpoint.metadata, checkpoint.config_file, checkpoint.config.vision)
        return make_tokenizer(checkpoint.config_file, *rebuilt) if rebuilt else None
    except TinyError as error:
        checkpoint.note(f"the tokenizer in the file is not read: {error.cause}")
        return None


def add_names(tokenizer: SentencePieceTokenizer | TekkenTokenizer, checkpoint: Checkpoint) -> None:
    """Give a tokenizer that is smaller than the model names for the rest: added tokens, or numbers that only fill up.

    Raises:  TinyError if it is larger
    """
    own, size = tokenizer.vocab_size, checkpoint.config.vocab_size
    if own > size:
        raise TinyError(f"{checkpoint.folder}: the tokenizer has {own} pieces, the model {size}.", RELEASED)
    if own < size:
        known = dict(enumerate(token_list(checkpoint.metadata))) or added_names(checkpoint.folder)
        names = [known.get(token, f"<unused_{token}>") for token in range(own, size)]
        shown = ", ".join(known[token] for token in sorted(known) if own <= token < size)[:200] or "without names"
        checkpoint.note(f"the tokenizer has {own} pieces, the model {size}: {size - own} more, {shown}. They leave no "
                        "text, and no text becomes one of them")
        tokenizer.add(names)
