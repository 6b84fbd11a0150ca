"""What transformers wants beside the weights: tokenizer.json, tokenizer_config.json and generation_config.json.

A SentencePiece file of Mixtral's kind is written as rules of the tokenizers library that give the same ids: pieces that
merge from the highest score down, bytes for what is in no piece. What a user types as "<s>" becomes the control token
there, as in every tokenizer.json; in the SentencePiece file it is text.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny.config import Config, TinyError
from tiny.files.tokenizer_files import load_tokenizer
from tiny.tokenizer import SPACE, SentencePieceTokenizer
from tiny.tools.convert.write import end_token, write_json

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # kinds of pieces; others, as words that are never split, are not written


def write_for_transformers(folder: Path, config: Config) -> list[str]:
    """Write the three files into a folder where they are not there yet; return a line about what could not be written.

    Raises:  TinyError if the folder's tokenizer is broken
    """
    generation, path = folder / "generation_config.json", folder / "tokenizer.model"
    if not generation.exists():
        write_json(generation, {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": end_token(config)})
    if (folder / "tokenizer.json").exists():
        return []
    if not path.is_file():
        return ["tokenizer.json is not written: there is no tokenizer.model"]
    tokenizer = load_tokenizer(path)
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return ["tokenizer.json is not written: tokenizer.model is no SentencePiece file"]
    try:
        write_json(folder / "tokenizer.json", tokenizer_json(tokenizer))
    except TinyError as error:
        return [error.cause]
    if not (folder / "tokenizer_config.json").exists():
        write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer, config))
    return []


def tokenizer_config(tokenizer: SentencePieceTokenizer, config: Config) -> dict:
    """What `tokenizer_config.json` says. Source: the released file; the class reads tokenizer.json as it is."""
    bos, eos, unknown = names(tokenizer)
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos, "unk_token": unknown,
            "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
            "model_max_length": config.max_seq_len}


def names(tokenizer: SentencePieceTokenizer) -> list[str]:
    """The pieces of BOS, EOS and the unknown token."""
    return tokenizer.pieces([tokenizer.bos_id, tokenizer.eos_id, tokenizer._model.unk_id()])


def tokenizer_json(tokenizer: SentencePieceTokenizer) -> dict:
    """The rules of a SentencePiece file for the tokenizers library.

    Raises:  TinyError if the file has rules of another kind than Mixtral's
    Source:  transformers convert_slow_tokenizer.py, LlamaConverter; the released tokenizer.json
    """
    pieces = read_pieces(tokenizer._model.serialized_model_proto())
    bos, _, unknown = names(tokenizer)
    vocab = {piece: id for id, (piece, _, _) in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise TinyError("tokenizer.json is not written: the tokenizer has a piece twice.", "Keep tokenizer.model.")
    special = [{"id": id, "content": piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for id, (piece, _, kind) in enumerate(pieces) if kind in (UNKNOWN, CONTROL)]
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": merges(pieces)}}


def merges(pieces: list[tuple[str, float, int]]) -> list[list[str]]:
    """Which two pieces join to a third, the best first: by score, and of one piece the longest left part first."""
    normal = {piece for piece, _, kind in pieces if kind == NORMAL}
    found = [(-score, -cut, piece[:cut], piece[cut:]) for piece, score, kind in pieces if kind == NORMAL
             for cut in range(1, len(piece)) if piece[:cut] in normal and piece[cut:] in normal]
    return [[left, right] for _, _, left, right in sorted(found)]


def read_pieces(data: bytes) -> list[tuple[str, float, int]]:
    """The pieces of a SentencePiece file with their scores and kinds.

    Raises:  TinyError unless it is byte-pair encoding with bytes for the rest, that changes no character but spaces
    Source:  sentencepiece_model.proto
    """
    messages = list(fields(data))
    trainer, normalizer = (dict(fields(b"".join(value for number, value in messages if number == part)))
                           for part in (2, 3))
    pieces = []
    for message in (dict(fields(value)) for number, value in messages if number == 1):
        score = struct.unpack("<f", message.get(2, bytes(4)))[0]
        pieces.append((message[1].decode("utf-8"), score, message.get(3, NORMAL)))
    # model_type BPE, byte_fallback, no space at the end of words; no table of characters, add_dummy_prefix, all spaces
    # kept and written as U+2581
    kind = (trainer.get(3), trainer.get(35), trainer.get(24, 0), normalizer.get(2, b""), normalizer.get(3, 1),
            normalizer.get(4, 1), normalizer.get(5, 1))
    if kind != (2, 1, 0, b"", 1, 0, 1) or {kind for *_, kind in pieces} - {NORMAL, UNKNOWN, CONTROL, BYTE}:
        raise TinyError("tokenizer.json is not written: tokenizer.model has other rules than Mixtral's.",
                        "Keep tokenizer.model.")
    return pieces


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: number and value, a whole number or bytes. The library has checked the file."""
    place = 0

    def whole() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
            if byte < 128:
                return value

    while place < len(data):
        key = whole()
        if key & 7 == 0:
            yield key >> 3, whole()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or whole()
            yield key >> 3, data[place : place + size]
            place += size
