"""The vocabulary of tiny-pixtral: a tekken.json made from the words of its questions and answers.

Byte-pair encoding on a few words, with one rule more: a token longer than a letter begins with a space or a capital.
So the words of a sentence are tokens, and an answer that starts at once, as a word that was read does, is spelt.

>>> train_merges([b" the", b" then", b" to"])
[b' t', b' th', b' the', b' then', b' to']
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tiny.files.tokenizer_files import load_tokenizer
from tiny.system.whole import write_whole
from tiny.tekken import PATTERN, TekkenTokenizer
from tiny.training.images.questions import VOCABULARY, WORDINGS

SPECIAL = 32  # The special tokens of the format and a few fillers; the released file has 1,000.


def train_merges(words: Iterable[bytes]) -> list[bytes]:
    """Byte-pair encoding where only the head of a word grows: the tokens, from the most common pair to the rarest.

    Order:   of pairs equally common the one that sorts first
    Source:  arXiv:1508.07909 alg. 1
    """
    grown = {word: 1 for word in words}
    tokens: list[bytes] = []
    while pairs := Counter(word[: size + 1] for word, size in grown.items() if size < len(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        tokens.append(best)
        for word, size in grown.items():
            if word[: size + 1] == best:
                grown[word] = size + 1
    return tokens


def vocabulary() -> list[bytes]:
    """The tokens by rank: the bytes, then the words of questions and answers and what they begin with."""
    first = {wording.split()[0].capitalize() for wordings in WORDINGS.values() for wording in wordings}
    words = sorted({f" {word}" for word in VOCABULARY} | first | {" ?", " ."})
    return [bytes([value]) for value in range(256)] + train_merges(word.encode() for word in words)


def write_tokenizer(path: Path, patch_size: int, max_image_size: int) -> TekkenTokenizer:
    """Write the tekken.json of a run, unless it is there, and open it."""
    tokens = vocabulary()
    config = {"pattern": PATTERN, "num_vocab_tokens": len(tokens), "default_vocab_size": len(tokens) + SPECIAL,
              "default_num_special_tokens": SPECIAL, "version": "v3"}
    entries = []
    for rank, token in enumerate(tokens):
        text = token.decode() if token.isascii() else None
        entries.append({"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": text})
    value = {"config": config, "vocab": entries,
             "image": {"image_patch_size": patch_size, "max_image_size": max_image_size}}
    if not path.exists():
        write_whole(path, json.dumps(value, indent=0) + "\n")
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, TekkenTokenizer)
    return tokenizer
