"""Text to token ids and back, with the released Tekken file of Pixtral: byte-pair encoding, all of it.

A Tekken file is a list of byte strings, from the most useful to the least: first the 256 single bytes, then what a
trainer found worth a token. The place in the list is the rank. Encoding takes three steps:

1. A regular expression splits the text into pieces: a word with the space before it, a digit, a run of signs.
2. A piece, as UTF-8 bytes, that is in the list is one token.
3. Any other piece starts as single bytes. Of all neighbours that are in the list when joined, those of the lowest rank
   are joined, the leftmost first; then again, until no two neighbours make a token.

The special tokens, `<s>` or `[IMG]`, come before the list: an id is the number of special tokens plus a rank. They
cannot be written: in a text, "[IMG]" is five signs and letters. This is the last module of the book.
Read `files/params.py` next, where its appendix begins.
"""

import codecs
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import groupby
from typing import Any

import numpy as np

from tiny import chat
from tiny.chat_v3 import encode_v3, image_tokens
from tiny.config import Ids, TinyError
from tiny.patch_embed import grid_of
from tiny.tokenizer import SPACE, check_id, check_text

# Every released Tekken file has this pattern. The alternatives are tried in this order, at each place of the text.
PATTERN = "|".join((
    # A sign or a space, then Word or word.
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",  # The same, then WORD.
    r"\p{N}",  # One digit.
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",  # Signs.
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"))  # Line ends; spaces, but not the one before a word; any.
# The special tokens of a file that lists none.
SPECIAL_TOKENS = tuple("<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
                       "[/TOOL_RESULTS] [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] "
                       "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]".split())


class TekkenTokenizer:
    """A tekken.json file.

    `vocab_size`, `bos_id`, `eos_id`, `patch_size` and `max_image_size` are plain numbers; the last two are None if the
    file has no image section.

    Source:  mistral-common 1.13.1, tekken.py; tiktoken 0.14, which it calls; tekken_240911.json of the release
    Differs: `regex` says which characters are letters or digits, in tiktoken its own tables of Unicode 16. Both split
             alike up to regex 2025.9, and text of older characters always
    """

    def __init__(self, special: list[str], tokens: list[bytes], version: str = "v3",
                 image: tuple[int, int] | None = None):
        # Imported here so that commands without text start without it.
        import regex

        self._pattern = regex.compile(PATTERN)
        self._special, self._bytes, self._version = special, tokens, version
        self._ids = {token: id for id, token in enumerate(tokens, len(special))}
        self._added: list[str] = []
        self.vocab_size: int = len(special) + len(tokens)
        self.bos_id, self.eos_id = self.special_id("<s>"), self.special_id("</s>")
        self.patch_size: int | None = image[0] if image else None
        self.max_image_size: int | None = image[1] if image else None

    def add(self, names: list[str]) -> None:
        """Give the ids that follow the file's a name each, so that they can be shown. They have no text."""
        self._added += names
        self.vocab_size += len(names)

    def encode(self, text: str) -> list[int]:
        """Split text into token ids, without BOS and EOS. Names of special tokens in the text, as "[IMG]", are text.

        The two halves of a surrogate pair become their character, and half a pair becomes U+FFFD.

        Raises:  TinyError for something that is not a string
        """
        check_text(text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        known: dict[str, list[int]] = {}  # Within one text a piece is encoded once.
        for piece in self._pattern.findall(text):
            if piece not in known:
                data = piece.encode("utf-8")
                known[piece] = [self._ids[data]] if data in self._ids else merge(data, self._ids)
            ids += known[piece]
        return ids

    def decode(self, ids: Ids) -> str:
        """Join token ids to text; special tokens are left out, but they end a run of bytes that is read as UTF-8.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        runs = groupby(map(self.bytes_of, ids), lambda data: data is not None)
        return "".join(b"".join(filter(None, run)).decode("utf-8", "replace") for text, run in runs if text)

    def bytes_of(self, id: int) -> bytes | None:
        """Return the bytes that a token stands for, or None for a special token.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        rank = check_id(id, self.vocab_size) - len(self._special)
        return self._bytes[rank] if 0 <= rank < len(self._bytes) else None

    def pieces(self, ids: Ids) -> list[str]:
        """Return each token for display: U+2581 stands for a space, <0x0A> for a byte that cannot be shown.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        data = [self.bytes_of(id) for id in ids]
        return [shown(token) if token is not None else self._special[id] if id < len(self._special) else
                self._added[id - len(self._special) - len(self._bytes)] for id, token in zip(ids, data)]

    def special_id(self, name: str) -> int:
        """Return the id of a special token.

        Raises:  TinyError if the file has none of this name
        """
        if name not in self._special:
            raise TinyError(f"This tokenizer has no special token {name}.", "Use the tekken.json of the release.")
        return self._special.index(name)

    def image_tokens(self, columns: int, rows: int) -> list[int]:
        """Return the ids of an image of columns x rows patches, in the numbers of this file."""
        return image_tokens(columns, rows, *map(self.special_id, ("[IMG]", "[IMG_BREAK]", "[IMG_END]")))

    def encode_image(self, image: Any) -> tuple[list[int], np.ndarray]:
        """Preprocess a picture, or the file at a path; return its ids and its pixels.

        Shapes:  pixels (3, H, W), H = height, W = width, both multiples of `patch_size`
        Raises:  TinyError if it cannot be read, or if the file has no image section
        """
        # Imported here so that text needs no imaging library.
        from tiny.image import preprocess

        if self.patch_size is None or self.max_image_size is None:
            raise TinyError("A message holds an image, and this model reads text only.",
                            "Leave the image out, or use a model with a vision encoder.")
        pixels = preprocess(image, self.patch_size, self.max_image_size, "mistral")
        return self.image_tokens(*grid_of(pixels, self.patch_size)), pixels

    def encode_chat(self, messages: list[dict], style: str = "mistral") -> tuple[list[int], list[np.ndarray]]:
        """Write a chat as token ids, with BOS; the second value is the preprocessed images in the order of their ids.

        Raises:  TinyError for malformed messages, an image that cannot be read, an unknown style, or a file of another
                 chat format than Pixtral's
        """
        chat.check_style(style)
        if self._version != "v3":
            raise TinyError(f"This tokenizer is of chat format {self._version[:9]!r}; what is written here is 'v3'.",
                            "Use the tekken.json that was released with Pixtral 12B.")
        return encode_v3(chat.normalise(messages), self, style)

    def stream(self) -> "TekkenStream":
        """Start to decode token by token."""
        return TekkenStream(self)


class TekkenStream:
    """Decodes one token at a time; the joined strings equal `decode` of all ids.

    At most three bytes of an unfinished character are held back.
    """

    def __init__(self, tokenizer: TekkenTokenizer):
        self._tokenizer, self._decoder = tokenizer, codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Return the text that this token completes; it may be empty.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        data = self._tokenizer.bytes_of(id)
        return self.finish() if data is None else self._decoder.decode(data)

    def finish(self) -> str:
        """Return what is still held back: bytes that no further token will complete."""
        return self._decoder.decode(b"", final=True)


def merge(data: bytes, ids: Mapping[bytes, int]) -> list[int]:
    """Join the bytes of one piece to tokens; `ids` has the id of every token, and of every single byte.

    Order:   of the neighbours that make a token together, always those of the lowest id, the leftmost on ties
    Source:  tiktoken 0.14, byte_pair_encode
    """
    n = len(data)
    # (1) the parts, at first single bytes
    # They are a linked list. At the first byte of a part, `after` has where the next one begins, and `before` where the
    # one before it does. Where no part begins any more, `after` is n, so that nothing follows there.
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    # (2) the neighbours that make a token together
    # They wait in a heap: n bytes take n log n steps, and a long run of one letter is no trap.
    heap = [(id, start, start + 2) for start in range(n - 1) if (id := ids.get(data[start:start + 2])) is not None]
    heapify(heap)
    # (3) join those of the lowest id, the leftmost of equals, until no two make a token
    while heap:
        _, start, end = heappop(heap)
        middle = after[start]
        if middle == n or after[middle] != end:
            continue  # One of the two has been joined to another neighbour since.
        after[start], after[middle] = end, n
        if start and (id := ids.get(data[before[start]:end])) is not None:
            heappush(heap, (id, before[start], end))
        if end < n:
            before[end] = start
            if (id := ids.get(data[start:after[end]])) is not None:
                heappush(heap, (id, start, after[end]))
    # (4) the ids of the parts that are left
    result, start = [], 0
    while start < n:
        result.append(ids[data[start:after[start]]])
        start = after[start]
    return result


def shown(data: bytes) -> str:
    """Return the characters of a token that can be shown, a space as U+2581, and each other byte as <0x0A>."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(
        SPACE if character == " " else character if character.isprintable()
        else "".join(f"<0x{byte:02X}>" for byte in character.encode("utf-8", "surrogateescape")) for character in text)
