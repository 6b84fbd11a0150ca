"""The command `generate`: continue a text, or answer it as one user turn, with images or without."""

import argparse
from collections.abc import Callable, Sequence

from tiny.generate import check_prompt
from tiny.tools import session
from tiny.tools.prompt_images import Picture, check_room, measure_picture, user_turn, vision_of


def main(args: argparse.Namespace) -> None:
    """The command `generate`: one text, streamed, or with everything known about it as JSON."""
    session.check_options(args)
    prompt = session.read_text(args.prompt)
    model, pictures = open_with_images(args, args.image)
    ids, pixels = encode_prompt(model, prompt, args.image, args.chat)
    answer(args, model, ids, pixels, pictures, session.note)


def encode_prompt(model, prompt: str, images: Sequence[str], chat: bool) -> tuple[list[int], list]:
    """Token ids and pixels of a prompt: BOS and the text, or one user turn, as always with images."""
    if not images and not chat:
        return [model.tokenizer.bos_id, *model.tokenizer.encode(prompt)], []
    turns = [user_turn(prompt, images)]
    check_room(model, turns)
    return model.tokenizer.encode_chat(turns)


def open_with_images(args: argparse.Namespace, paths: Sequence[str]) -> tuple:
    """Open the model of a command, by default the embedded one that can read the prompt, and measure the images.

    Raises:  TinyError for files that are not images, or a model that reads text only
    """
    args.model = args.model or ("tiny-pixtral" if paths else "tiny-mixtral")
    model = session.open_model(args)
    return model, [measure_picture(path, vision_of(model, args.model)) for path in paths]


def answer(args: argparse.Namespace, model, ids: list[int], pixels: list, pictures: Sequence[Picture],
           tell: Callable[[str], None]) -> None:
    """Say how the pictures are cut, and write the answer as text or as JSON."""
    room = check_prompt(model, ids, args.max_tokens)
    session.load_weights(model, len(ids) + room, [picture.columns * picture.rows for picture in pictures],
                         getattr(args, "memory", None))
    for picture in pictures:
        tell(str(picture))
    seed = session.choose_seed(args)
    clock = session.Clock()
    stream = clock.watch(session.stream(model, ids, args, seed, pixels))
    tokens = list(stream) if args.json else session.show(stream)
    if args.json:
        session.print_json(args, model, ids, tokens, clock, seed, room, pictures)
    else:
        session.note(f"{len(ids):,} prompt tokens; {clock.summary(len(ids))}")
