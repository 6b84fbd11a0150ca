"""The tokenizer of a GGUF file, rebuilt as the file that was released with the model.

A GGUF file has the pieces of a SentencePiece model with scores and types, in SentencePiece's own numbers; or the tokens
of Tekken, in the order of their ranks behind the special ones. So a tokenizer.model or a tekken.json can be written
again, and is read like any other.
"""

import binascii
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import TinyError, VisionConfig
from tiny.files.packed.gguf import read_gguf
from tiny.files.packed.gguf_model import split_files, token_list
from tiny.system.reading import short
from tiny.tekken import PATTERN

TEKKEN = ("tekken", "pixtral")  # files made from Mistral's and from Hugging Face's layout. Source: conversion/base.py
NORMAL, BYTE = 1, 6  # types of pieces that are text. Source: sentencepiece_model.proto, SentencePiece.Type
FLAT = "Use another file of this model, or one that was made with convert_hf_to_gguf.py of 2024 or later."
# How GPT-2 writes a byte as a character that can be shown: as itself, or as one of those from U+0100 on.
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
ZERO = "\u0100"
BYTES = {chr(byte): byte for byte in SHOWN} | {
    chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in SHOWN)}


def read_tokenizer(path: Path, vision: VisionConfig | None = None) -> tuple[str, bytes]:
    """The name and the bytes of the tokenizer's file that a GGUF file stands for. Raises TinyError if it has none."""
    found = released_file(read_gguf(split_files(path)[0])[0], path, vision)
    if found is None:
        raise TinyError(f"{path} holds no tokenizer.", "Give the file of the language model.")
    return found


def released_file(metadata: Mapping[str, Any], path: Path,
                  vision: VisionConfig | None = None) -> tuple[str, bytes] | None:
    """The name and the bytes of a tokenizer's file, made from the keys of a GGUF file; None if that has no tokens.

    Raises:  TinyError for a kind of tokenizer that is not read, or one that cannot be rebuilt; path is for messages
    """
    tokens, kind = token_list(metadata), metadata.get("tokenizer.ggml.model")
    if not tokens:
        return None
    types = numbers_of(metadata, "token_type")
    if len(types) != len(tokens) or not np.isin(types, range(1, 7)).all():
        raise TinyError(f"{path} has {len(tokens)} tokens, and no type from 1 to 6 for each.", FLAT)
    bos = metadata.get("tokenizer.ggml.bos_token_id", 1)
    if tokens[bos : bos + 1] != ["<s>"] if type(bos) is int and bos >= 0 else True:
        raise TinyError(f"{path}: the BOS token is {short(bos)}, and no <s> as Mistral's is.",
                        "Use a file of Mixtral or Pixtral.")
    if kind == "llama":
        return "tokenizer.model", sentencepiece_file(metadata, tokens, types, path)
    pre = metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in TEKKEN:
        raise TinyError(f"{path} has a tokenizer of the kind {short(kind)} that splits text as {short(pre)}.",
                        "SentencePiece ('llama') and Tekken ('gpt2', 'tekken') are read, as Mixtral and Pixtral have.")
    return "tekken.json", tekken_file(metadata, tokens, types, path, vision)


def sentencepiece_file(metadata: Mapping[str, Any], tokens: list[str], types: np.ndarray, path: Path) -> bytes:
    """A tokenizer.model: byte-pair encoding with bytes for what is unknown, and no normalisation.

    Tokens behind the last one that is text were added later, or only fill up: they are left out, as in a release.

    Raises:  TinyError if the scores give no order of merging
    Source:  sentencepiece_model.proto; llama.cpp, llama-vocab.cpp
    """
    scores = numbers_of(metadata, "scores")
    end = int(np.flatnonzero((types == NORMAL) | (types == BYTE))[-1:].sum()) + 1
    normal = scores[:end][types[:end] == NORMAL] if len(scores) == len(tokens) else scores[:0]
    if not (len(normal) and np.isfinite(normal).all() and np.ptp(normal) > 0):
        raise TinyError(f"{path}: the scores of its {len(tokens)} tokens say nothing of the order in which they merge, "
                        "as some converters of 2023 left it.", FLAT)
    pieces = b"".join(field(1, field(1, token.encode()) + b"\x15" + struct.pack("<f", score)
                            + number(3, int(type))) for token, score, type in zip(tokens[:end], scores, types))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    trainer = number(3, 2) + number(35, 1) + b"".join(number(40 + id, id) for id in range(3))  # BPE; unknown, BOS, EOS
    normalizer = field(1, b"identity") + number(3, int(bool(prefix))) + number(4, 0) + number(5, 1)
    return pieces + field(2, trainer) + field(3, normalizer)


def tekken_file(metadata: Mapping[str, Any], tokens: list[str], types: np.ndarray, path: Path,
                vision: VisionConfig | None) -> bytes:
    """A tekken.json, with the section of images if the model has an encoder.

    Raises:  TinyError if the first byte is not there, or a token behind it is no string of bytes
    Source:  mistral-common 1.13.1, tekken.py; the package gguf, vocab.py, MistralVocab
    """
    if ZERO not in tokens:
        raise TinyError(f"{path}: none of its {len(tokens)} tokens is the byte zero, which follows the special ones.",
                        FLAT)
    first = tokens.index(ZERO)
    texts = np.flatnonzero(types[first:] != NORMAL)
    end = first + int(texts[0]) if len(texts) else len(tokens)
    try:
        spelt = [bytes(map(BYTES.__getitem__, token)) for token in tokens[first:end]]
    except KeyError as error:
        raise TinyError(f"{path}: a token holds {error.args[0]!r}, which stands for no byte.", FLAT) from None
    content: dict[str, Any] = {
        "config": {"pattern": PATTERN, "default_vocab_size": end, "default_num_special_tokens": first,
                   "version": "v7" if "[SYSTEM_PROMPT]" in str(metadata.get("tokenizer.chat_template")) else "v3"},
        "vocab": [{"rank": rank, "token_bytes": binascii.b2a_base64(token, newline=False).decode(), "token_str": None}
                  for rank, token in enumerate(spelt)],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True}
                           for rank, name in enumerate(tokens[:first])]}
    if vision:
        content["image"] = {"image_patch_size": vision.patch_size, "max_image_size": vision.max_image_size}
    return json.dumps(content).encode()


def numbers_of(metadata: Mapping[str, Any], name: str) -> np.ndarray:
    """What a file says of each token in numbers; nothing if it is no list of numbers. Shapes:  -> (n,)."""
    values = metadata.get(f"tokenizer.ggml.{name}")
    plain = isinstance(values, list) and not any(isinstance(value, str) for value in values)
    return np.array(values if plain else [], np.float64)


def number(key: int, value: int) -> bytes:
    """A whole number as a field of a protocol buffer."""
    return varint(key << 3) + varint(value)


def field(key: int, data: bytes) -> bytes:
    """Bytes as a field of a protocol buffer."""
    return varint(key << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A whole number, seven bits in a byte, the lowest first."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
