"""Chat messages to token ids, as Mistral's own library writes them for Mixtral Instruct (its format "V1").

Two steps: `normalise` merges the messages into turns, which is the same for every format; `encode_v1` then writes the
turns. What is no chat is refused in `system/messages.py`. In V1 `[INST]` is plain text, and each turn is encoded by
itself, so each begins with SentencePiece's own leading space. A chat reads

    <s> [INST] system prompt, blank line, question [/INST] answer</s> [INST] question [/INST]

Read `tokenizer.py` next.
"""

from itertools import groupby
from typing import NamedTuple

from tiny.config import TinyError, Tokenizer
from tiny.system.messages import check_messages, chunks_of

STYLES = ("mistral", "mistral-1.4")
BLANK_LINE = "\n\n"


class Turn(NamedTuple):
    """What one side says before the other speaks: texts and image chunks, never two texts in a row."""

    role: str
    content: list
    prefix: bool = False


def check_style(style: str, styles: tuple[str, ...] = STYLES) -> None:
    """Refuse a chat style that does not exist, or that this tokenizer does not have.

    Raises:  TinyError that lists the styles
    """
    if style not in styles:
        raise TinyError(f"There is no chat style {style!r} for this tokenizer.", f"Use: {' or '.join(styles)}.")


def normalise(messages: list[dict]) -> list[Turn]:
    """Check a list of messages and merge it into turns.

    Order:   all system prompts become one turn in front; then user and assistant turns as they come.
             Neighbouring messages of one role, and neighbouring texts, are joined by a blank line; empty
             texts are dropped. A system prompt between two user messages keeps them apart. Where the assistant
             speaks first, an empty question is put before it.
    Raises:  TinyError for a message of the wrong form, or messages in the wrong order
    Source:  mistral-common 1.13.1, validator.py and normalize.py
    Differs: an assistant message whose chunks are all empty is refused even beside one that has text
    """
    check_messages(messages)
    # An empty list or string is no system prompt; a list that holds an empty text is one, as in the source.
    systems = ["".join(merge(chunks_of(message))) for message in messages
               if message["role"] == "system" and message["content"]]
    turns = []
    for role, group in groupby(messages, key=lambda message: message["role"]):
        same = list(group)
        if role != "system":
            content = merge([chunk for message in same for chunk in chunks_of(message)])
            turns.append(Turn(role, content, any(message.get("prefix", False) for message in same)))
    if not turns or turns[0].role == "assistant":
        turns.insert(0, Turn("user", []))
    system = BLANK_LINE.join(systems)
    return [Turn("system", [system]), *turns] if system else turns


def encode_v1(turns: list[Turn], tokenizer: Tokenizer) -> list[int]:
    """Write turns as Mixtral Instruct reads them.

    Order:   BOS, then each turn encoded by itself. The system prompt opens the first user turn. EOS closes
             each answer, unless the answer is a prefix for the model to continue.
    Raises:  TinyError for an image
    Source:  mistral-common 1.13.1, instruct.py, InstructTokenizerV1
    """
    ids, system = [tokenizer.bos_id], ""
    for role, content, prefix in turns:
        if has_image(content):
            raise TinyError("A message holds an image, and this model reads text only.",
                            "Leave the image out, or use a model with a vision encoder.")
        text = "".join(content)
        if role == "system":
            system = text + BLANK_LINE
        elif role == "user":
            ids += tokenizer.encode(f"[INST] {system}{text} [/INST]")
            system = ""
        else:
            ids += tokenizer.encode(text) + ([] if prefix else [tokenizer.eos_id])
    return ids


def has_image(content: list) -> bool:
    """Whether merged content holds an image."""
    return any(not isinstance(part, str) for part in content)


def merge(chunks: list[dict]) -> list:
    """Join neighbouring texts by a blank line, leave out empty texts, keep other chunks where they are."""
    content: list = []
    for chunk in chunks:
        if chunk["type"] != "text":
            content.append(chunk)
        elif chunk["text"] and content and isinstance(content[-1], str):
            content[-1] += BLANK_LINE + chunk["text"]
        elif chunk["text"]:
            content.append(chunk["text"])
    return content
