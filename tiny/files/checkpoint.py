"""A folder, opened: which layout it has, its files, its configuration, its tensors and its tokenizer.

What a folder says is read once, here, and handed on. Read `pictures.py` next.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiny.config import Config, TinyError
from tiny.files.hf_config import read_hf_config
from tiny.files.params import read_json, read_params
from tiny.files.tokenizer_files import find_tokenizer, load_tokenizer
from tiny.files.weights import open_tensors
from tiny.tekken import TekkenTokenizer
from tiny.tokenizer import SentencePieceTokenizer

# The released layouts, Mistral's first: the file of the configuration, its reader, and the names of the weight files.
LAYOUTS = {"mistral": ("params.json", read_params, "consolidated*.safetensors"),
           "hf": ("config.json", read_hf_config, "model*.safetensors")}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder says of a model.

    layout:  "mistral" or "hf"; `convert` also opens "torch"
    files:   of the weights; none if only a configuration is there, and then the tensors are stand-ins
    tensors: by Mistral's names, as views
    """

    layout: str
    config_file: Path
    config: Config
    files: list[Path]
    tensors: Mapping[str, np.ndarray]

    @property
    def folder(self) -> Path:
        """Where all this was found."""
        return self.config_file.parent


def open_checkpoint(folder: Path, layout: str | None = None) -> Checkpoint:
    """Open a folder in one of the layouts, or in the first that it holds. Only headers are read.

    Raises:  TinyError for a folder, file or tensor that is missing, broken, or of another model
    """
    if layout is None:
        layout = find_layout(folder)
    files, path, config = weight_files(folder, layout), *read_config(folder, layout)
    return Checkpoint(layout, path, config, files, open_tensors(layout, files, config))


def find_layout(folder: Path) -> str:
    """Say which released layout a folder holds, "mistral" or "hf". Mistral's comes first."""
    if not folder.is_dir():
        raise TinyError(f"{folder} is not a folder.", "Give the folder that holds the released files.")
    found = next((layout for layout in LAYOUTS if weight_files(folder, layout)), None)
    if found is None:
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise TinyError(f"{folder} holds neither params.json with consolidated*.safetensors nor config.json with "
                        f"model*.safetensors; found: {names}.", "Point at a folder in one of the two released layouts.")
    return found


def read_config(folder: Path, layout: str) -> tuple[Path, Config]:
    """The configuration of a folder in one of the layouts, and the file that it was read from."""
    name, read, _ = LAYOUTS[layout]
    return folder / name, read(folder / name)


def weight_files(folder: Path, layout: str) -> list[Path]:
    """The weight files of a folder in one of the layouts; none if it is not in that layout.

    Raises:  TinyError for an index that is broken, or whose files are not there
    """
    config, _, pattern = LAYOUTS[layout]
    index = folder / "model.safetensors.index.json"
    if not (folder / config).is_file():
        return []
    if layout == "hf" and index.is_file():
        return indexed_files(index)
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def indexed_files(index: Path) -> list[Path]:
    """The shards that an HF index lists. Raises TinyError if one is missing, or is not a plain name of a file."""
    shards = read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names or not all(re.fullmatch(r"[\w.-]{1,200}\.safetensors", name) for name in names):
        raise TinyError(f"{index} has no weight_map from tensors to names of files.", "Fetch the file again.")
    files = sorted(index.parent / name for name in names)
    missing = ", ".join(path.name for path in files if not path.is_file())
    if missing:
        raise TinyError(f"{index.parent} lacks {missing}, which {index.name} lists.", "Fetch the missing files.")
    return files


def open_tokenizer(checkpoint: Checkpoint) -> SentencePieceTokenizer | TekkenTokenizer | None:
    """The tokenizer beside the weights, or None if there is none.

    Raises:  TinyError if it is broken, or of another model: its vocabulary or the sizes of its images differ
    """
    folder, config = checkpoint.folder, checkpoint.config
    if not [*folder.glob("tokenizer.model*"), *folder.glob("tekken*.json")]:
        return None
    tokenizer = load_tokenizer(find_tokenizer(folder, sees=config.vision is not None))
    if tokenizer.vocab_size != config.vocab_size:
        raise TinyError(f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces, the model {config.vocab_size}.",
                        "Use the tokenizer that was released with this model.")
    sizes = getattr(tokenizer, "patch_size", None), getattr(tokenizer, "max_image_size", None)
    if config.vision and any(sizes) and sizes != (config.vision.patch_size, config.vision.max_image_size):
        raise TinyError(f"{folder}: the tokenizer's images have up to {sizes[1]} pixels, in patches of {sizes[0]}, "
                        f"the model's {config.vision.max_image_size}, in patches of {config.vision.patch_size}.",
                        "Use the tokenizer that was released with this model.")
    return tokenizer
