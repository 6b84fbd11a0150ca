"""Chat messages to token ids, as Mistral's own library writes them for Mixtral Instruct (its format "V1").

Two steps: `normalise` checks and merges the messages into turns, which is the same for every format; `encode_v1` then
writes the turns. In V1 `[INST]` is plain text, and each turn is encoded by itself, so each begins with SentencePiece's
own leading space. A chat reads

    <s> [INST] system prompt, blank line, question [/INST] answer</s> [INST] question [/INST]

Read `tokenizer.py` next.
"""

from itertools import groupby
from typing import NamedTuple

from tiny.config import TinyError, Tokenizer

STYLES = ("mistral", "mistral-1.4")
ROLES = ("system", "user", "assistant")
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
    systems = [text_of(message) for message in messages if message["role"] == "system" and message["content"]]
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


def chunks_of(message: dict) -> list[dict]:
    """Return the content of a message as a list of chunks; a string is one text chunk."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


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


def text_of(message: dict) -> str:
    """Return the text of a message that holds no images."""
    return "".join(merge(chunks_of(message)))


def check_messages(messages: list[dict]) -> None:
    """Check the form of every message, then their order.

    Raises:  TinyError that names the message, counted from 1
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        what = "an empty list" if isinstance(messages, (list, tuple)) else f"a {type(messages).__name__}"
        raise TinyError(f"A chat is a list of messages; this is {what}.",
                        'Give at least one: [{"role": "user", "content": "Hello"}].')
    for number, message in enumerate(messages, 1):
        check_message(f"Message {number}", message)
    check_order([message["role"] for message in messages])
    for number, message in enumerate(messages[:-1], 1):
        if message.get("prefix", False):
            raise TinyError(f"Message {number} is a prefix, but other messages follow it.",
                            "Only the last message can be a prefix for the model to continue.")
    if messages[-1]["role"] == "assistant" and not messages[-1].get("prefix", False):
        raise TinyError("The last message is the assistant's, and nothing asks for an answer.",
                        'End with a user message, or set "prefix": True to let the model continue it.')


def check_order(roles: list[str]) -> None:
    """Check who speaks after whom.

    Raises:  TinyError if the assistant speaks alone, or a system prompt follows an answer
    """
    if roles == ["assistant"]:
        raise TinyError("The only message is the assistant's.", "Put a user message before it.")
    for number, (before, role) in enumerate(zip(roles, roles[1:]), 2):
        if before == "assistant" and role == "system":
            raise TinyError(f"Message {number} is a system prompt that follows an answer.",
                            "Put system prompts before the first answer.")


def check_message(name: str, message: dict) -> None:
    """Check the keys, the role and the content of one message.

    Raises:  TinyError that begins with `name`
    """
    if not isinstance(message, dict):
        raise TinyError(f"{name} is a {type(message).__name__}, not a dict.", 'Write {"role": ..., "content": ...}.')
    for key in ("role", "content"):
        if key not in message:
            raise TinyError(f"{name} has no {key!r}.", 'Write {"role": ..., "content": ...}.')
    role = message["role"]
    if role == "tool" or message.get("tool_calls"):  # The OpenAI client writes out an empty list, or null.
        raise TinyError(f"{name} is about tools, and chats are encoded without tools here.",
                        "Put what a tool returned into a user message, as text.")
    if role not in ROLES:
        raise TinyError(f"{name} has the role {role!r}.", f"Use one of: {', '.join(ROLES)}.")
    known = {"role", "content", "prefix", "tool_calls"} if role == "assistant" else {"role", "content"}
    if unknown := sorted(map(str, set(message) - known)):
        raise TinyError(f"{name}, of the {role}, has a key {unknown[0]!r} that means nothing.",
                        'The keys are "role" and "content", and "prefix" for the assistant.')
    if not isinstance(message.get("prefix", False), bool):
        raise TinyError(f"{name} has the prefix {message['prefix']!r}.", "It is True or False.")
    check_content(name, message)
    if role == "assistant" and not text_of(message):
        raise TinyError(f"{name} is an answer without text.", "Leave it out; user messages can be empty.")


def check_content(name: str, message: dict) -> None:
    """Check that the content is a string or a list of known chunks, with images from users only.

    Raises:  TinyError that begins with `name`
    """
    content, role = message["content"], message["role"]
    if not isinstance(content, (str, list, tuple)):
        raise TinyError(f"{name} has content of type {type(content).__name__}.", "It is a string or a list of chunks.")
    for chunk in chunks_of(message):
        kind = chunk.get("type") if isinstance(chunk, dict) else None
        if kind not in ("text", "image"):
            raise TinyError(f"{name} holds a chunk that is neither text nor image: {str(chunk)[:60]!r}.",
                            'Write {"type": "text", "text": ...} or {"type": "image", "image": ...}.')
        if set(chunk) != {"type", kind} or (kind == "text" and not isinstance(chunk["text"], str)):
            raise TinyError(f"{name} holds a {kind} chunk of the wrong form: {str(chunk)[:60]!r}.",
                            f'Write {{"type": "{kind}", "{kind}": ...}} and nothing else.')
        if kind == "image" and role != "user":
            raise TinyError(f"{name}, of the {role}, holds an image.", "Only user messages can hold images.")
