"""A folder, opened: which layout it has, its files, its configuration, its tensors and its tokenizer.

What a folder says is read once, here, and handed on. This is the last file of the appendix.
"""

import fnmatch
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiny.config import Config, TinyError
from tiny.files.hf_config import read_generation, read_hf_config
from tiny.files.hf_names import Place
from tiny.files.params import ENDS, read_params
from tiny.files.tokenizer_files import PATTERNS, added_names, find_tokenizer, load_tokenizer
from tiny.files.weights import read_tensors, take_tensors
from tiny.system.hub import find_snapshot
from tiny.system.reading import Note, missing, read_json, warn
from tiny.tekken import TekkenTokenizer
from tiny.tokenizer import SentencePieceTokenizer

# The released layouts, Mistral's first: the file of the configuration, its reader, and the names of the weight files.
LAYOUTS = {"mistral": ("params.json", read_params, "consolidated*.safetensors"),
           "hf": ("config.json", read_hf_config, "model*.safetensors")}
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")
RELEASED = "Use the tokenizer that was released with this model."
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "lora.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a folder says of a model.

    layout:  "mistral" or "hf"; `convert` also opens "torch"
    files:   of the weights; none if only a configuration is there, and then the tensors are stand-ins
    tensors: by Mistral's names, as views; places says where each one is in the files
    notes:   what a user should know: what is there and not read, what is assumed
    """

    layout: str
    config_file: Path
    config: Config
    files: list[Path]
    tensors: Mapping[str, np.ndarray]
    places: Mapping[str, Place] = field(default_factory=dict)
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
    """Open a folder in one of the layouts, or in the first that it holds. Only headers are read.

    Raises:  TinyError for a folder, file or tensor that is missing, broken, or of another model
    """
    notes: list[str] = []
    layout, files = find_files(folder, notes.append) if layout is None else (
        layout, weight_files(folder, layout, notes.append))
    path, config = read_config(folder, layout, notes.append)
    tensors, places = take_tensors(layout, read_tensors(files), config, folder)
    adapters = ", ".join(name for name in ADAPTERS if (folder / name).is_file())
    if adapters:
        notes.append(f"an adapter is beside the model ({adapters}) and not added to it; transformers with peft adds it")
    for text in notes:
        warn(text)
    return Checkpoint(layout, path, config, files, tensors, places, notes)


def find_folder(path: Path) -> Path:
    """The folder with the files: of a Hugging Face cache a snapshot, else `path`.

    Raises:  TinyError if the cache leaves a choice
    """
    return find_snapshot(path, [config for config, *_ in LAYOUTS.values()])


def find_layout(folder: Path) -> str:
    """Say which released layout a folder holds, "mistral" or "hf". Mistral's comes first."""
    return find_files(folder, lambda note: None)[0]


def find_files(folder: Path, note: Note = warn) -> tuple[str, list[Path]]:
    """The layout of a folder and its weight files. Raises TinyError if it holds neither layout."""
    if not folder.is_dir():
        raise TinyError(f"{folder} is not a folder.", "Give the folder that holds the released files.")
    found = next(((layout, files) for layout in LAYOUTS if (files := weight_files(folder, layout, note))), None)
    if found is None:
        paths = sorted(folder.iterdir())
        for lost in (path for path in paths if path.is_symlink() and not path.exists()):
            raise missing(lost)
        names = ", ".join(path.name for path in paths[:8]) or "nothing"
        remedy = ("Merge the adapter into its model, and give that." if "adapter_config.json" in names else
                  "The cache holds no snapshot: fetch the model again." if (folder / "snapshots").is_dir() else
                  "Point at a folder in one of the two released layouts.")
        raise TinyError(f"{folder} holds neither params.json with consolidated*.safetensors nor config.json with "
                        f"model*.safetensors; found: {names}.", remedy)
    return found


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
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    for start, of in sorted({(match[1], match[2]) for path in files if (match := SHARD.fullmatch(path.name))}):
        names = [f"{start}-{n:05}-of-{of}.safetensors" for n in range(1, min(int(of), 9999) + 1)]
        require([folder / name for name in names], f"of which there are {int(of)}")
    return files


def require(files: list[Path], reason: str) -> None:
    """Raise TinyError if one of the files is not there."""
    lost = [path for path in files if not path.is_file()]
    if lost and lost[0].is_symlink():
        raise missing(lost[0])
    if lost:
        names = ", ".join(path.name for path in lost[:8])
        raise TinyError(f"{lost[0].parent} lacks {names}, {reason}.", "Fetch the missing files.")


def indexed_files(index: Path) -> list[Path]:
    """The shards that an HF index lists. Raises TinyError if one is missing, or is not a plain name of a file."""
    shards = read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names or not all(re.fullmatch(r"[\w.-]{1,200}\.safetensors", name) for name in names):
        raise TinyError(f"{index} has no weight_map from tensors to names of files.", "Fetch the file again.")
    files = sorted(index.parent / name for name in names)
    require(files, f"which {index.name} lists")
    return files


def open_tokenizer(checkpoint: Checkpoint) -> SentencePieceTokenizer | TekkenTokenizer | None:
    """The tokenizer beside the weights, or None if there is none.

    Raises:  TinyError if it is broken, or of another model: its vocabulary or the sizes of its images differ
    """
    folder, vision = checkpoint.folder, checkpoint.config.vision
    names = [name for pattern in PATTERNS for name in fnmatch.filter(os.listdir(folder), pattern)]  # lost links too
    if not any((folder / name).is_file() for name in names):
        if names:
            checkpoint.note(f"{names[0]} is a link to a file that is not there: the model has no tokenizer")
        return None
    tokenizer = load_tokenizer(find_tokenizer(folder, sees=vision is not None))
    add_names(tokenizer, checkpoint)
    if vision is None or not isinstance(tokenizer, TekkenTokenizer):
        return tokenizer
    sizes = vision.patch_size, vision.max_image_size
    if tokenizer.patch_size is None:
        checkpoint.note("the tokenizer says nothing of images: patches and sizes are those of the model")
        tokenizer.patch_size, tokenizer.max_image_size = sizes
    if (tokenizer.patch_size, tokenizer.max_image_size) != sizes:
        raise TinyError(f"{folder}: the tokenizer's images have up to {tokenizer.max_image_size} pixels, in patches of "
                        f"{tokenizer.patch_size}, the model's {sizes[1]}, in patches of {sizes[0]}.", RELEASED)
    for key, name in zip(("image_token_id", *ENDS), ("[IMG]", "[IMG_BREAK]", "[IMG_END]")):
        stated, own = getattr(vision, key), tokenizer.special_id(name)
        if stated not in (own, None):
            raise TinyError(f"{folder}: {key} is {stated} in the configuration, in the tokenizer {name} is {own}.",
                            RELEASED)
    return tokenizer


def add_names(tokenizer: SentencePieceTokenizer | TekkenTokenizer, checkpoint: Checkpoint) -> None:
    """Give a tokenizer that is smaller than the model names for the rest: added tokens, or numbers that only fill up.

    Raises:  TinyError if it is larger
    """
    own, size = tokenizer.vocab_size, checkpoint.config.vocab_size
    if own > size:
        raise TinyError(f"{checkpoint.folder}: the tokenizer has {own} pieces, the model {size}.", RELEASED)
    if own < size:
        known = added_names(checkpoint.folder)
        names = [known.get(token, f"<unused_{token}>") for token in range(own, size)]
        listed = ", ".join(known[token] for token in sorted(known) if own <= token < size)[:200] or "without names"
        checkpoint.note(f"the tokenizer has {own} pieces, the model {size}: {size - own} more, {listed}. They leave no "
                        "text, and no text becomes one of them")
        tokenizer.add(names)
