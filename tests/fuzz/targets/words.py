"""Targets: SentencePiece and Tekken files, and chats of every kind."""

import json
import random
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from oracles import GOLDEN
from PIL import Image

import tiny
from tests.fuzz import mutate
from tests.fuzz.engine import ROOT, Target, Wrong
from tiny.config import TinyError
from tiny.files.tokenizer_files import open_sentencepiece, open_tekken

TEXTS = ("Hello world", "  a  b", "<s>[INST] x [/INST]</s>", "日本語 é\u0301 \U0001f600", "<0x0A>\n\t\0", "a" * 300,
         "\u2581x", "", "[IMG][/INST]<s></s>")


# ---- tokenizers: text never becomes a control token, ids stay in range, and a stream gives what decode gives

@cache
def sentencepieces() -> list[list[bytes]]:
    """The fields of SentencePiece files."""
    paths = (GOLDEN / "mixtral-b/mistral/tokenizer.model", ROOT / "tiny/checkpoints/tiny-mixtral/tokenizer.model")
    return [fields(path.read_bytes()) for path in paths]


def fields(data: bytes) -> list[bytes]:
    """The top fields of a protocol buffer that holds fields with lengths only."""
    found, at = [], 0
    while at < len(data):
        start, size, shift = at, 0, 0
        at += 1
        while True:
            size |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 128:
                break
        at += size
        found.append(data[start:at])
    return found


def varint(number: int) -> bytes:
    """A whole number of a protocol buffer."""
    number %= 2**64
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def block(tag: bytes, data: bytes) -> bytes:
    """A field with its length."""
    return tag + varint(len(data)) + data


def piece(text: bytes, score: float, kind: int | None) -> bytes:
    """A piece of a SentencePiece file."""
    return block(b"\n", block(b"\n", text) + b"\x15" + struct.pack("<f", score)
                 + (b"" if kind is None else b"\x18" + varint(kind)))


def characters(rng: random.Random) -> bytes:
    """A table of normalised characters, of which the size is often wrong."""
    trie = b"".join(struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, 0x100, rng.getrandbits(32))))
                    for _ in range(rng.choice((0, 1, 2, 16, 64))))
    return struct.pack("<I", rng.choice((len(trie), len(trie), 0, 2**32 - 1, len(trie) + 1))) + trie + b"a\0b\0"


def make_sentencepiece(rng: random.Random) -> bytes:
    parts = list(rng.choice(sentencepieces()))
    if rng.random() < 0.3:
        return mutate.bytes_of(rng, b"".join(parts))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(parts))
        text = rng.choice((b"", b"\xff", b"a", b"\xe2\x96\x81", b"<s>", b"</s>", b"[INST]", b"\0", b"<0x41>", b"<0x-1>",
                           b"x" * 500))
        score, kind = rng.choice((0.0, float("nan"), float("inf"), -1e30)), rng.choice((0, 1, 2, 3, 4, 5, 6, 99, None))
        new = rng.choice((piece(text, score, kind), mutate.bytes_of(rng, parts[at], 2),
                          parts[rng.randrange(len(parts))], block(rng.choice((b"\x1a", b"*")),
                                                                  block(b"\x12", characters(rng)) + b"\x18\1\x20\1"),
                          block(b"\x12", b"\x18" + varint(rng.choice((1, 2, 3, 4, 9)))),
                          block(b"\x12", rng.choice((b"\xc0\2", b"\xc8\2", b"\xd0\2")) + varint(rng.randrange(-1, 9)))))
        parts[at : at + rng.randrange(2)] = [new] if rng.random() < 0.9 else []
        parts = parts or [b"\n\0"]
    return b"".join(parts)


def run_sentencepiece(data: bytes, folder: Path) -> str:
    tokenizer = open_sentencepiece(Path("tokenizer.model"), data)
    return check_tokenizer(tokenizer, tokenizer._model.is_control)


@cache
def tekkens() -> list[dict]:
    """Contents of Tekken files."""
    return [json.loads(path.read_text()) for path in (GOLDEN / "pixtral-a/mistral/tekken.json",
                                                      ROOT / "tiny/checkpoints/tiny-pixtral/tekken.json")]


def make_tekken(rng: random.Random) -> bytes:
    value = rng.choice(tekkens())
    value = value | {"vocab": list(value["vocab"])}
    if rng.random() < 0.4:
        for _ in range(rng.choice((1, 2, 5))):
            at = rng.randrange(len(value["vocab"]))
            odd = (*mutate.ODD, "YQ==", "YWI=", "/w==", "YQ", "Y Q==", "PHM+", "W0lNR10=")
            value["vocab"][at] = mutate.json_of(rng, value["vocab"][at], odd)
    else:
        head = {key: part for key, part in value.items() if key != "vocab"}
        odd = (*mutate.ODD, len(value["vocab"]), 256, 1000, 20, 19, 21, "v3", "v7", "v13")
        changed = mutate.json_of(rng, head, odd)
        value = changed | {"vocab": value["vocab"]} if isinstance(changed, dict) else changed
    text = json.dumps(value).encode("utf-8", "surrogatepass")
    return mutate.bytes_of(rng, text) if rng.random() < 0.2 else text


def run_tekken(data: bytes, folder: Path) -> str:
    tokenizer = open_tekken(Path("tekken.json"), data)
    return check_tokenizer(tokenizer, lambda id: id < len(tokenizer._special))


def check_tokenizer(tokenizer: Any, control: Callable[[int], bool]) -> str:
    """Encode and decode texts; is_control tells which ids no text may become."""
    for text in TEXTS:
        try:
            ids = tokenizer.encode(text)
        except TinyError:
            continue
        if any(not 0 <= id < tokenizer.vocab_size for id in ids):
            raise Wrong("an id outside of the vocabulary")
        if any(control(id) for id in ids) or {tokenizer.bos_id, tokenizer.eos_id} & set(ids):
            raise Wrong("text became a control token")
        whole, stream = tokenizer.decode(ids), tokenizer.stream()
        if "".join(map(stream.push, ids)) + stream.finish() != whole:
            raise Wrong("a stream gives another text than decode")
        if isinstance(tokenizer, tiny.tekken.TekkenTokenizer) and whole != text:
            raise Wrong("text does not come back")
        tokenizer.pieces(ids)
    ids, _ = tokenizer.encode_chat([{"role": "user", "content": "hi [/INST] </s>"}])
    if sum(id == tokenizer.bos_id for id in ids) != 1 or tokenizer.eos_id in ids:
        raise Wrong("a chat with other control tokens than its own")
    return "read"


# ---- chats: BOS, EOS and marks exactly where the template has them, whatever the texts are

MARKS = ("<s>", "</s>", "[INST]", "[/INST]", "<unk>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]",
         "[TOOL_CALLS]", "<0x03>", "\u2581", "<pad>", "[PREFIX]", "＜s＞", "<s\u200b>", "\ud800", "\udfff", "\0",
         "e\u0301", "\u202e", "\ufeff", "\n\n", " ", "", "hi", "日本", "\U0010ffff", "s>", "<", "[", "IMG]")
FOLDERS = {"mixtral": "tiny/checkpoints/tiny-mixtral", "pixtral": "tiny/checkpoints/tiny-pixtral",
           "mixtral-b": "tests/golden/mixtral-b/mistral", "pixtral-a": "tests/golden/pixtral-a/mistral"}
PICTURE = Image.new("RGB", (16, 8), "red")


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a model."""
    return tiny.load_tokenizer(ROOT / FOLDERS[name])


def text(rng: random.Random) -> str:
    """A text of marks and letters."""
    return "".join(rng.choice(MARKS) for _ in range(rng.choice((0, 1, 2, 3, 6))))


def chunk(rng: random.Random) -> Any:
    """A part of a message, sometimes not one."""
    if rng.random() < 0.7:
        return {"type": "text", "text": text(rng)}
    return rng.choice(({"type": "image", "image": "PICTURE"},
                       {"type": "image", "image": rng.choice((None, 5, "/no", "\0"))},
                       {"type": rng.choice(("audio", None, [], 5)), "text": "x"}, {"text": "x"}, 5, None, [],
                       {"type": "text", "text": None}, {"type": "text", "text": "x", "image": 1}))


def message(rng: random.Random) -> Any:
    """A message of a chat, sometimes not one."""
    kind = rng.random()
    content = text(rng) if kind < 0.5 else [chunk(rng) for _ in range(rng.randrange(4))] if kind < 0.95 else \
        rng.choice(mutate.ODD)
    made = {"role": rng.choice(("user", "user", "assistant", "system")), "content": content}
    if rng.random() < 0.05:
        made[rng.choice(("prefix", "name", "tool_calls", "", "\ud800"))] = rng.choice(mutate.ODD)
    if rng.random() < 0.02:
        made.pop(rng.choice(list(made)))
    return rng.choice(mutate.ODD) if rng.random() < 0.02 else made


def make_chat(rng: random.Random) -> bytes:
    messages = [message(rng) for _ in range(rng.choice((1, 1, 2, 3, 4, 5)))]
    if rng.random() < 0.6 and isinstance(messages[-1], dict):
        messages[-1]["role"] = "user"
    style = rng.choice(("mistral", "mistral", "mistral-1.4", "x", None))
    return json.dumps([rng.choice(list(FOLDERS)), style, messages]).encode("utf-8", "surrogatepass")


def run_chat(data: bytes, folder: Path) -> str:
    name, style, messages = json.loads(data)
    for each in messages:
        content = each.get("content") if isinstance(each, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("image") == "PICTURE":
                part["image"] = PICTURE
    tokenizer = tokenizer_of(name)
    ids, images = tokenizer.encode_chat(messages, style=style)
    turns = tiny.chat.normalise(messages)
    answers = sum(turn.role == "assistant" and not turn.prefix for turn in turns)
    if name.startswith("mixtral"):
        found = [id for id in ids if tokenizer._model.is_control(id)]
        if found != [tokenizer.bos_id] + [tokenizer.eos_id] * answers:
            raise Wrong("other control tokens than BOS and an EOS for each answer")
        return "written"
    wanted = ["<s>"]
    for turn in turns:
        wanted += ["[INST]", "[/INST]"] if turn.role == "user" else ["</s>"] * (turn.role == "assistant"
                                                                                and not turn.prefix)
    special = [tokenizer._special[id] for id in ids if id < len(tokenizer._special)]
    if [each for each in special if not each.startswith("[IMG")] != wanted:
        raise Wrong("other control tokens than those of the template")
    pictures = sum(not isinstance(part, str) for turn in turns for part in turn.content)
    if not pictures == special.count("[IMG_END]") == len(images):
        raise Wrong("other images than were given")
    return "written"


TARGETS = [Target("sentencepiece", make_sentencepiece, run_sentencepiece),
           Target("tekken", make_tekken, run_tekken, 0.3), Target("chat", make_chat, run_chat)]
