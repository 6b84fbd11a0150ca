"""Find the file of a tokenizer, and read it: a tokenizer.model as Mixtral's, or a tekken.json as Pixtral's.

Whatever is wrong with a file is said here, when it is opened, and not by odd tokens later. Read `checkpoint.py`
next.
"""

import binascii
import fnmatch
import os
from pathlib import Path
from typing import Any

from tiny.config import TinyError
from tiny.files.packed.gguf_model import is_gguf
from tiny.files.packed.gguf_tokenizer import read_tokenizer
from tiny.system.reading import number, parse_object, read_file, read_json
from tiny.tekken import PATTERN, SPECIAL_TOKENS, TekkenTokenizer
from tiny.tokenizer import SentencePieceTokenizer

PATTERNS = ["tokenizer.model", "tokenizer.model.v*", "tekken.json", "tekken*.json"]
# Mixtral's file has half a megabyte, Pixtral's has 19.
LARGEST_FILE = 32 * 2**20
LARGEST_VOCABULARY = 2**20
REMEDY = "Fetch the file again, from the same release as the weights."


def load_tokenizer(path: str | Path) -> SentencePieceTokenizer | TekkenTokenizer:
    """Read a tokenizer.model or a tekken.json, by its own name or as the folder that holds it; or that of a GGUF file.

    In a folder with both, a model with a vision encoder gets its tekken.json, and any other its tokenizer.model.

    Raises:  TinyError if it is missing, empty, cut short, or neither
    """
    path = find_tokenizer(Path(path))
    name, data = read_tokenizer(path) if is_gguf(path) else (path.name, read_file(path, LARGEST_FILE))
    return make_tokenizer(path, name, data)


def make_tokenizer(path: Path, name: str, data: bytes) -> SentencePieceTokenizer | TekkenTokenizer:
    """Make a tokenizer of the bytes of a file of this name; `path` is for messages only."""
    # A SentencePiece file begins with a line feed, whatever its name.
    return open_tekken(path, data) if name.endswith(".json") or data[:1] == b"{" else open_sentencepiece(path, data)


def find_tokenizer(path: Path, sees: bool | None = None) -> Path:
    """Return the tokenizer file that `path` is or holds.

    sees: whether the model has a vision encoder; None asks the configuration in the folder

    Order:   in a folder, tokenizer.model, then tokenizer.model.v*, then tekken.json, then tekken*.json; for a model
             with a vision encoder, the Tekken files come first.
    Raises:  TinyError if there is none
    """
    if not path.is_dir():
        return path
    named = [file for file in tokenizer_paths(path, has_encoder(path) if sees is None else sees) if file.is_file()]
    if not named:
        raise TinyError(f"{path} holds no tokenizer.model and no tekken.json.",
                        "Copy it from the release that the weights come from.")
    return named[0]


def tokenizer_paths(folder: Path, sees: bool) -> list[Path]:
    """What a folder has under the names of tokenizer files, links to nothing too, in the order of `find_tokenizer`."""
    names = sorted(os.listdir(folder))
    patterns = PATTERNS[2:] + PATTERNS[:2] if sees else PATTERNS
    return [folder / name for pattern in patterns for name in fnmatch.filter(names, pattern)]


def has_encoder(folder: Path) -> bool:
    """Whether the model in a folder has a vision encoder, by its params.json, else by its config.json.

    Raises:  TinyError if that file is broken
    """
    keys = {"params.json": "vision_encoder", "config.json": "vision_config"}
    found = (read_json(folder / name).get(key) for name, key in keys.items() if (folder / name).is_file())
    return bool(next(found, None))


def added_names(folder: Path) -> dict[int, str]:
    """The tokens that a fine-tune has added, by their ids, as `added_tokens.json` or `tokenizer_config.json` has them.

    Raises:  TinyError if such a file is broken
    """
    names, config = (read_json(folder / file) if (folder / file).is_file() else {}
                     for file in ("added_tokens.json", "tokenizer_config.json"))
    entries = config.get("added_tokens_decoder")
    listed = [(token, name) for name, token in names.items()]
    listed += [(token, entry.get("content")) for token, entry in entries.items() if isinstance(entry, dict)
               ] if isinstance(entries, dict) else []
    return {int(token): name for token, name in listed
            if str(token).isdecimal() and len(str(token)) < 10 and isinstance(name, str)}


def open_sentencepiece(path: Path, data: bytes) -> SentencePieceTokenizer:
    """Make a tokenizer of the bytes of a tokenizer.model; `path` is for messages only.

    Raises:  TinyError if they are cut short, or not a SentencePiece model as Mixtral's
    Differs: mistral-common takes the chat format from the file's name; here the name means nothing
    """
    # Imported here so that commands without text start without it.
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        tokenizer = SentencePieceTokenizer(model)
        # Bytes that are not UTF-8 show only when they are read; the pieces have been, in the line above.
        model.decode([model.unk_id()] if model.unk_id() >= 0 else [])
    except (RuntimeError, UnicodeDecodeError):
        raise TinyError(f"{path} is not a SentencePiece model, or it is damaged.", REMEDY) from None
    if min(model.bos_id(), model.eos_id(), model.unk_id()) < 0:
        raise TinyError(f"{path} has no ids for BOS, EOS or unknown text.", REMEDY)
    # A file cut before its last field loads, and then silently swallows spaces.
    if model.decode(model.encode("  ")) != "  ":
        raise TinyError(f"{path} does not keep spaces as Mixtral's file does, or it is cut short.", REMEDY)
    check_control_pieces(path, model)
    return tokenizer


def check_control_pieces(path: Path, model: Any) -> None:
    """Refuse a file that turns what a user types into a control token, as a crafted one could before version 0.2.3.

    Raises:  TinyError that names the piece
    """
    ids = list(range(model.vocab_size()))
    for piece in model.id_to_piece([id for id, control in zip(ids, model.is_control(ids)) if control]):
        if any(map(model.is_control, model.encode(piece))):
            raise TinyError(f"{path} turns the text {piece!r} into the control token of that name.", REMEDY)


def open_tekken(path: Path, data: bytes) -> TekkenTokenizer:
    """Make a tokenizer of the bytes of a tekken.json; `path` is for messages only.

    Raises:  TinyError if they are not JSON, or what they hold does not make a tokenizer
    Differs: mistral-common takes any split pattern; here there is one. Foreign patterns can take for ever, and the
             dialects of `regex` and of tiktoken differ
    """
    content = parse_object(data, path, twice=True)  # Pixtral's file has 131,072 objects
    config = content.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("version"), str):
        raise TinyError(f"{path} is not a Tekken file: it has no config with a version.",
                        "Give the tekken.json or tokenizer.model of a release; a tokenizer.json is not read.")
    if config.get("pattern") != PATTERN:
        raise TinyError(f"{path} does not split text by the pattern that every released file has.", REMEDY)
    size, special = (number(config, key, path, most=1 << 40)
                     for key in ("default_vocab_size", "default_num_special_tokens"))
    used, entries = size - special, content.get("vocab")
    if not isinstance(entries, list) or not 256 <= used <= len(entries) or size > LARGEST_VOCABULARY:
        raise TinyError(f"{path}: {size} tokens, {special} of them special, do not go with this vocab.",
                        f"At least 256 others are needed, as many as vocab holds at most, {LARGEST_VOCABULARY} in all.")
    return TekkenTokenizer(special_names(content.get("special_tokens"), special, path),
                           token_bytes(entries[:used], path), config["version"], image_sizes(content, path))


def token_bytes(entries: list, path: Path) -> list[bytes]:
    """Return the byte strings of a vocabulary.

    Raises:  TinyError that names an entry which is not base64, empty, not in the order of the ranks, or there twice, or
             one of the first 256 that is not the byte of its rank
    """
    tokens: dict[bytes, int] = {}
    for rank, entry in enumerate(entries):
        try:
            token = binascii.a2b_base64(entry["token_bytes"], strict_mode=True)
            fits = entry["rank"] == rank and token and tokens.setdefault(token, rank) == rank
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits or rank < 256 and token != bytes([rank]):
            raise TinyError(f"{path}: entry {rank} of the vocab has another rank, or no bytes of its own in base64.",
                            REMEDY)
    return list(tokens)


def special_names(listed: Any, count: int, path: Path) -> list[str]:
    """Return the names of the special tokens: those of the file, or the usual ones, and as many more as it takes.

    Raises:  TinyError if the list is not one of different names in the order of their ranks, or too long
    """
    try:
        ranks = [entry["rank"] for entry in listed or []]
        names = [entry["token_str"] for entry in listed] if listed is not None else list(SPECIAL_TOKENS)
        names += [f"<SPECIAL_{id}>" for id in range(len(names), count)]
        fits = ranks == list(range(len(ranks))) and len(set(names)) == len(names) == count
        fits = fits and all(isinstance(name, str) and name.isprintable() for name in names)
    except (TypeError, KeyError):
        fits = False
    if not fits:
        raise TinyError(f"{path}: its special tokens are not {count} different names in the order of their ranks.",
                        f"Without a list of its own a file has {len(SPECIAL_TOKENS)} or more, with one at least those.")
    return names


def image_sizes(content: dict, path: Path) -> tuple[int, int] | None:
    """Return patch size and largest side of the image section, which old files call `multimodal`; None without one.

    Raises:  TinyError for a senseless size, or patches that are merged, as later models do
    """
    section = content.get("multimodal") or content.get("image")
    if not section:
        return None
    sizes = number(section, "image_patch_size", path), number(section, "max_image_size", path)
    if number(section, "spatial_merge_size", path, default=1) != 1:
        raise TinyError(f"{path} merges patches, as models later than Pixtral 12B do.", REMEDY)
    return sizes
