"""The command `chat`: several turns with a model, answers streamed.

/reset forgets the conversation, /quit ends, Ctrl-C stops an answer and not the program.
"""

import argparse
import sys

from tiny.config import TinyError
from tiny.generate import PREFILL
from tiny.tools import progress

HELP = "Commands: /reset forgets the conversation, /quit ends (so does Ctrl-D); Ctrl-C stops an answer."


def main(args: argparse.Namespace) -> None:
    """The command `chat`: read a line, answer it, until the input ends."""
    progress.check_options(args)
    model = progress.open_model(args)
    # A tokenizer of another chat format is refused now, and not at the first message.
    model.tokenizer.encode_chat([{"role": "user", "content": ""}])
    context = min(model.config.max_seq_len, PREFILL + args.max_tokens)
    progress.load_weights(model, context)
    seed = progress.choose_seed(args)
    progress.note(HELP)
    messages: list[dict] = []
    while (line := read_line()) is not None:
        command = line.strip()
        if command == "/quit":
            break
        if command == "/reset":
            messages = []
            progress.note("the conversation is forgotten")
        elif command.startswith("/"):
            progress.note(f"{command.split()[0]} is not a command. {HELP}")
        elif command:
            messages = take_turn(model, [*messages, {"role": "user", "content": line}], args, seed)


def read_line() -> str | None:
    """The next line of the user; None at the end of the input. Ctrl-C empties the line."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    import readline  # noqa: F401  Importing it makes `input` edit lines and remember them.

    while True:
        try:
            return input("> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            progress.note(HELP)


def take_turn(model, messages: list[dict], args: argparse.Namespace, seed: int | None) -> list[dict]:
    """Answer the last message. Return the conversation with the answer, or without both if there is none."""
    try:
        kept, ids = fit(model, messages, args.max_tokens)
    except TinyError as error:
        progress.note(f"{error.cause} {error.remedy}")
        return messages[:-1]
    if len(kept) < len(messages):
        progress.note(f"the conversation is longer than the context of {model.config.max_seq_len:,} tokens; "
                      f"its oldest {len(messages) - len(kept)} messages are dropped")
    clock = progress.Clock()
    text, stopped = answer(clock.watch(progress.stream(model, ids, args, seed)))
    progress.note("stopped" if stopped else f"{len(ids):,} prompt tokens; {clock.summary(len(ids))}")
    # An answer without text is no message: the chat format has none, so its question is forgotten too.
    return [*kept, {"role": "assistant", "content": text}] if text else kept[:-1]


def answer(tokens) -> tuple[str, bool]:
    """Print an answer as it comes; return its text and whether Ctrl-C stopped it."""
    text: list[str] = []

    def remember():
        for token in tokens:
            text.append(token.text)
            yield token

    try:
        progress.show(remember())
    except KeyboardInterrupt:
        return "".join(text), True
    return "".join(text), False


def fit(model, messages: list[dict], max_tokens: int) -> tuple[list[dict], list[int]]:
    """Drop the oldest questions and answers until what is left, and an answer, fit in the context.

    Room for an answer is max_tokens, but at most half of the context.

    Raises:  TinyError if the last message alone is too long
    """
    context = model.config.max_seq_len
    room = min(max_tokens, context // 2)
    while True:
        ids, _ = model.tokenizer.encode_chat(messages)
        if len(ids) + room <= context:
            return messages, ids
        if len(messages) == 1:
            raise TinyError(f"The message has {len(ids):,} tokens, and the context {context:,}, of which {room:,} "
                            "are kept for the answer.", "Shorten it.")
        messages = messages[2:]
