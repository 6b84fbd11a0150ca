"""The command `chat`: several turns with a model, answers streamed.

/image PATH adds an image to the next message, /reset forgets the conversation, /quit ends, Ctrl-C stops an answer and
not the program. If something is wrong with a message or an image, the chat says so and goes on without it.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from tiny.config import TinyError
from tiny.generate import PREFILL
from tiny.system.pictures import open_image
from tiny.tools import session
from tiny.tools.prompt_images import check_room, count_tokens, measure_picture, user_turn, vision_of
from tiny.tools.terminal import as_text

HELP = ("Commands: /image PATH adds an image to the next message, /reset forgets the conversation, /quit ends (so does "
        "Ctrl-D); Ctrl-C stops an answer.")
SEES = "tiny-pixtral"  # the embedded model that is opened for the first image, if no other model was asked for


def main(args: argparse.Namespace) -> None:
    """The command `chat`: read a line, answer it, until the input ends."""
    session.check_options(args)
    chosen, args.model = args.model, args.model or "tiny-mixtral"
    model = open_for_chat(args)
    seed = session.choose_seed(args)
    session.note(HELP)
    messages: list[dict] = []
    images: list = []  # for the next message
    while (line := read_line()) is not None:
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            break
        if command == "/reset":
            messages, images = [], []
            session.note("the conversation is forgotten")
        elif command == "/image":
            if chosen is None and model.config.vision is None:
                seeing = try_model(args)
                if seeing is None:
                    continue
                model, messages = seeing, []
            images = add_images(model, args, images, rest.strip())
        elif command.startswith("/"):
            session.note(f"{command} is not a command. {HELP}")
        elif command:
            messages = take_turn(model, [*messages, user_turn(line, images)], args, seed)
            images = []


def open_for_chat(args: argparse.Namespace):
    """Open the model of `--model` and get it ready; check its chat format now, not at the first message."""
    model = session.open_model(args)
    model.tokenizer.encode_chat([{"role": "user", "content": ""}])
    session.load_weights(model, min(model.config.max_seq_len, PREFILL + args.max_tokens),
                         memory=getattr(args, "memory", None))
    return model


def try_model(args: argparse.Namespace):
    """Open the embedded model that reads images, in place of the one for text. None, with a note, if that fails."""
    before, args.model = args.model, SEES
    try:
        model = open_for_chat(args)
    except TinyError as error:
        args.model = before
        session.note(f"{error.cause} {error.remedy}")
        return None
    session.note(f"{SEES} reads images and takes over; the conversation with {before} is forgotten")
    return model


def add_images(model, args: argparse.Namespace, images: list, text: str) -> list:
    """Add images to those of the next message. Returns the list as it was if one is unreadable or too large."""
    try:
        added: list = []
        said = []
        for path in paths_of(text):
            picture = measure_picture(path, vision_of(model, args.model))
            check_room(model, [user_turn("", [*images, *added, path])], room_of(model, args.max_tokens))
            added.append(open_image(path))
            said.append(f"{picture}; it belongs to your next message")
    except TinyError as error:
        session.note(f"{error.cause} {error.remedy}")
        return images
    for line in said:
        session.note(line)
    return [*images, *added]


def paths_of(text: str) -> list[str]:
    """The files that are meant after /image: one name as it is, or names as a terminal writes files dropped into it.

    Terminals quote as shells do: a\\ b.png, 'a b.png', 'it'\\''s.png', and several with spaces between them.

    Raises:  TinyError if there is no name, or it begins with ~ and a name that is no user's
    """
    if not text:
        raise TinyError("/image has no path.", "Put the path of a picture after it.")
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed
        words = [text]
    try:
        whole, paths = Path(text).expanduser(), [Path(word).expanduser() for word in words]
    except RuntimeError:
        raise TinyError(f"{text} begins with the name of a user who is not here.", "Give the whole path.") from None
    exact = os.path.lexists(whole) or len(paths) != 1 and not all(map(os.path.lexists, paths))
    return [str(whole)] if exact else [str(path) for path in paths]


def room_of(model, max_tokens: int) -> int:
    """Tokens that are kept for an answer: max_tokens, but at most half of the context."""
    return min(max_tokens, model.config.max_seq_len // 2)


def read_line() -> str | None:
    """The next line of the user; None at the end of the input. Bytes that are not UTF-8 are left out, with a note."""
    while True:
        line = ask_line() if sys.stdin.isatty() else sys.stdin.readline(session.LONGEST_TEXT + 1) or None
        if line is not None and len(line) > session.LONGEST_TEXT:
            raise TinyError(f"A line has more than {session.LONGEST_TEXT:,} characters.", "Give shorter lines.")
        try:
            return line if line is None else as_text(line, "A line").removesuffix("\n")
        except TinyError as error:
            session.note(f"{error.cause} It is left out: type it again, in UTF-8.")


def ask_line() -> str | None:
    """A line typed in a terminal; None at the end of the input. Ctrl-C empties the line."""
    import readline  # Importing it makes `input` edit lines and remember them.

    for setting in ("input-meta on", "output-meta on", "convert-meta off"):
        readline.parse_and_bind(f"set {setting}")  # else a locale without UTF-8 makes commands of typed letters
    while True:
        try:
            return input("> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            session.note(HELP)


def take_turn(model, messages: list[dict], args: argparse.Namespace, seed: int | None) -> list[dict]:
    """Answer the last message. Return the conversation with the answer, or without both if no text came."""
    try:
        kept, ids, pixels = fit(model, messages, args.max_tokens)
    except TinyError as error:
        session.note(f"{error.cause} {error.remedy}")
        return messages[:-1]
    if len(kept) < len(messages):
        session.note(f"the conversation is longer than the context of {model.config.max_seq_len:,} tokens; "
                      f"its oldest {len(messages) - len(kept)} messages are dropped")
    clock = session.Clock()
    text, stopped = answer(clock.watch(session.stream(model, ids, args, seed, pixels)))
    session.note("stopped" if stopped else f"{len(ids):,} prompt tokens; {clock.summary(len(ids))}")
    # The chat format has no answers without text, so the question is forgotten too.
    return [*kept, {"role": "assistant", "content": text}] if text else kept[:-1]


def answer(tokens) -> tuple[str, bool]:
    """Print an answer as it comes; return its text and whether Ctrl-C stopped it."""
    text: list[str] = []

    def remember():
        for token in tokens:
            text.append(token.text)
            yield token

    try:
        session.show(remember())
    except KeyboardInterrupt:
        return "".join(text), True
    return "".join(text), False


def fit(model, messages: list[dict], max_tokens: int) -> tuple[list[dict], list[int], list]:
    """Drop the oldest questions and answers until what is left, and an answer, fit in the context.

    Return what is left, its ids and its images, which are prepared only once it fits.

    Raises:  TinyError if the last message alone is too long
    """
    context, room = model.config.max_seq_len, room_of(model, max_tokens)
    while True:
        tokens, of_images = count_tokens(model, messages)
        if tokens + room <= context:
            return messages, *model.tokenizer.encode_chat(messages)
        if len(messages) == 1:
            these = f", {of_images:,} of them for images," if of_images else ""
            again = ", and add its images again" if of_images else ""
            raise TinyError(f"The message has {tokens:,} tokens{these} and the context {context:,}, of which {room:,} "
                            "are kept for the answer.", f"Shorten it{again}.")
        messages = messages[2:]
