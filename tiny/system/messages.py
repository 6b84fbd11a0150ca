"""Chats from anywhere: which lists of messages are no chat, and what to say about them.

A chat is a list of dicts {"role": ..., "content": ...}; `chat.py` makes turns of it, and tokens of these.
"""

from tiny.config import TinyError

ROLES = ("system", "user", "assistant")


def chunks_of(message: dict) -> list[dict]:
    """Return the content of a message as a list of chunks; a string is one text chunk."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


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
    if role == "assistant" and not any(chunk["text"] for chunk in chunks_of(message)):
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
