"""The texts on which a server and the reference are compared: long enough, and the same tokens however they are sent.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tiny.config import TinyError
from tiny.system.reading import read_file
from tiny.tools.terminal import as_text
from tiny.training.text.data import FILES, stored_text

LEAST = 400  # tokens without which no server is called healthy
UNKNOWN = 0.05  # nats: as far as a healthy server may be from the reference if nothing else is known of it
SLACK = 4  # tokens that a text may have less than asked for: it is cut where its tokens stay the same
SPARE = 8  # more than that: the first token, and the last, say little
ROOM = 4  # tokens that the context keeps: an answer, and what a server may add in front
LARGEST = 1 << 26  # bytes of a file of text
CHARACTERS = 16  # of one token at most, so that no more of a text is encoded than is needed


def lengths(tokens: int, context: int, quick: bool) -> list[int]:
    """How many tokens each text has. Raises TinyError if they would be too few to call a server healthy."""
    longest = context - ROOM
    if min(tokens, longest) < LEAST:
        raise TinyError(f"{tokens:,} tokens are asked for, and the model's context is {context:,}; fewer than {LEAST} "
                        "tell nothing.", f"Give --tokens {2 * LEAST}.")
    if quick:
        return [min(LEAST + SPARE, longest)]
    count = max(2, -(-tokens // longest)) if tokens >= 2 * LEAST else 1
    return [min(longest, max(LEAST, -(-tokens // count)) + SPARE)] * count


def choose_texts(tokenizer: Any, sizes: Sequence[int], file: str | None) -> list[list[int]]:
    """The ids of texts, BOS first: of a file, or of the part of the stored texts on which nothing was trained.

    Raises:  TinyError for a file that is missing, no text, or too short
    """
    parts = of_file(file) if file is not None else stored()
    found: list[list[int]] = []
    rest = ""
    for size in sizes:
        ids: list[int] = []
        while len(ids) < size - SLACK:
            text = rest or next(parts, "")
            if not text:
                raise TinyError(f"The text has fewer than {sum(sizes):,} tokens.",
                                "Give a longer one, or fewer --tokens.")
            ids = cut(tokenizer, text, size)
            rest = text[len(tokenizer.decode(ids[1:])) :] if file is not None and ids else ""
        found.append(ids)
    return found


def cut(tokenizer: Any, text: str, size: int) -> list[int]:
    """The first tokens of a text, BOS included, that are also those of their own text; fewer if there are no more."""
    ids = [tokenizer.bos_id, *tokenizer.encode(text[: size * CHARACTERS])]
    for end in range(min(size, len(ids)), 1, -1):
        if tokenizer.encode(tokenizer.decode(ids[1:end])) == ids[1:end]:
            return ids[:end]
    return []


def stored() -> Iterator[str]:
    """The held-out texts of the training corpus, one domain after another, again and again from further on."""
    held: dict[str, str] = {}
    for turn in range(1000):
        for domain in FILES:
            text = held.setdefault(domain, "") or stored_text(domain)[1]
            held[domain] = text
            yield text[text.index("\n", len(text) * (37 * turn % 100) // 128) + 1 :]


def of_file(name: str) -> Iterator[str]:
    """The text of a file."""
    yield as_text(read_file(Path(name), LARGEST).decode("utf-8", "surrogateescape"), name)
