"""Does the server read the tokens that we read? Nine texts are sent, and it says how many tokens each has.

What differs has a cause, and each known cause is a way to read that we can follow: all nine numbers must be those of
one. So counts alone name a second BOS, a lost space, or a prompt that is cut, before anything is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.tools.verify.server.connect import Server, Silent
from tiny.tools.verify.server.probe import CHAT, NEUTRAL, Way
from tiny.tools.verify.server.report import Line
from tiny.tools.verify.server.rows import count_of

TEXTS = ("Once upon a time there was a river", " a space in front", "\na line in front", "two  and   three spaces ",
         "[INST] Say it again. [/INST]", "Z\u00fcrich, na\u00efve caf\u00e9, \u6771\u4eac, \u2603",
         "x = [1, 22]\n\tif x: 3.5", "")
LONG = 6000  # tokens of the ninth text at most: contexts of 2,048 and 4,096 are what servers cut at in silence
ROOM = 8  # tokens that the context keeps for an answer, and for what a server may add in front
Read = Callable[[Any, str], int]  # a tokenizer and a text -> how many tokens a server has that reads like this


class Reading(NamedTuple):
    """A way to read a text that is not ours: what it is called, the number of tokens it makes, what mends it."""

    words: str
    tokens: Read
    repair: str


def ours(tokenizer: Any, text: str) -> int:
    """How many tokens a text has, with BOS."""
    return 1 + len(tokenizer.encode(text))


def bare(tokenizer: Any, text: str) -> int:
    """The same without the space that SentencePiece puts in front."""
    return 1 + len(tokenizer.encode("\n" + text)) - len(tokenizer.encode("\n"))


BOS = "let either the template or the tokenizer write BOS, not both: add_special_tokens false, or add_bos_token false"
SPACE = ("serve the tokenizer.model with its own settings: add_dummy_prefix is lost (in GGUF "
         "tokenizer.ggml.add_space_prefix, in tokenizer_config.json legacy or add_prefix_space)")
STRIP = "send texts as they are: something before the tokenizer removes blanks"
READINGS = (
    Reading("a second BOS in front", lambda tokenizer, text: ours(tokenizer, text) + 1, BOS),
    Reading("two more BOS in front", lambda tokenizer, text: ours(tokenizer, text) + 2, BOS),
    Reading("no BOS in front", lambda tokenizer, text: ours(tokenizer, text) - 1,
            "send add_special_tokens true, or set add_bos_token to true where the tokenizer is configured"),
    Reading("the space in front of a text is lost", bare, SPACE),
    Reading("the space in front of a text is lost, and a second BOS is there",
            lambda tokenizer, text: bare(tokenizer, text) + 1, SPACE),
    Reading("a second space in front of a text", lambda tokenizer, text: ours(tokenizer, " " + text), SPACE),
    Reading("blanks at the ends of a text are removed", lambda tokenizer, text: ours(tokenizer, text.strip()), STRIP),
    Reading("blanks in a row are read as one", lambda tokenizer, text: ours(tokenizer, " ".join(text.split())), STRIP))
MARK = "[INST]"  # one token in later releases, text in the first one


def check_ids(server: Server, way: Way, model: Any, long: int = LONG) -> Line:
    """Compare the numbers of tokens of nine texts. long: tokens of the last one at most"""
    tokenizer = model.tokenizer
    if way.form.path == CHAT:
        return Line("tokens", None, "only chats are served, so the tokens of a text cannot be counted")
    texts = [*TEXTS, long_text(tokenizer, min(long, model.config.max_seq_len - ROOM))]
    counts = [asked(server, way, text) for text in texts]
    own = [ours(tokenizer, text) for text in texts]
    data = {"counts": counts, "ours": own}
    known = [(text, count, n) for text, count, n in zip(texts, counts, own) if count is not None]
    if len(known) < 4:
        return Line("tokens", None, "the server does not say how many tokens a prompt has", data=data)
    said = f"{len(known)} of {len(texts)} texts have"
    if all(count == n for _, count, n in known):
        return Line("tokens", True, f"{said} as many tokens as with our tokenizer, up to {known[-1][2]:,}", data=data)
    return explained(tokenizer, known, data)


def explained(tokenizer: Any, known: Sequence[tuple[str, int, int]], data: dict[str, Any]) -> Line:
    """What counts that differ have for a cause. known: texts, the server's numbers, ours"""
    fitting = [reading for reading in READINGS
               if all(count == reading.tokens(tokenizer, text) for text, count, _ in known)]
    if fitting:
        words = ", or ".join(reading.words for reading in fitting)
        return Line("tokens", False, f"the server reads other tokens: {words}", fitting[0].repair, data)
    if all((count < n) if MARK in text else (count == n) for text, count, n in known):
        return Line("tokens", False, f"the server reads other tokens: {MARK} is read as one token",
                    "serve the tokenizer of this model, not that of a later release", data)
    *short, (_, count, n) = known
    if count < n and all(found == n for _, found, n in short):
        return Line("tokens", False, f"a prompt of {n:,} tokens is cut to {count:,}, in silence", "give the server a "
                    "longer context: llama.cpp --ctx-size, Ollama num_ctx, vLLM --max-model-len", data | {"cut": count})
    text, count, n = next(one for one in known if one[1] != one[2])
    return Line("tokens", False, f"the server reads other tokens: {text[:40]!r} has {count} for {n}, and no known way "
                "to read explains all texts", "serve the tokenizer that was released with this model", data)


def asked(server: Server, way: Way, text: str) -> int | None:
    """How many tokens the server says a text has; None if it does not say, or refuses the text or breaks over it.

    Raises:  Silent
    """
    named = {"model": way.name} if way.name else {}
    try:
        return count_of(server.post("/v1/completions", {**named, "prompt": text, "max_tokens": 1, **NEUTRAL}))
    except Silent:
        raise
    except TinyError:  # mlx-lm 0.32 breaks the connection over an empty prompt.
        return None


def long_text(tokenizer: Any, tokens: int) -> str:
    """A text of at most so many tokens, BOS included, and nearly as many."""
    line = "The ferry left at seven with a load of apples, and nobody saw it again. "
    each = len(tokenizer.encode(line * 2)) - len(tokenizer.encode(line))
    text = line * max(1, (tokens - 2) // each)
    while ours(tokenizer, text) > tokens and len(text) > len(line):
        text = text[: -len(line)]
    return text
