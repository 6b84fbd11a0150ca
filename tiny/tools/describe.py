"""The command `describe`: say what images show, or answer a question about them, and show what they are cut into."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tiny.tools import session
from tiny.tools.generate import answer, open_with_images
from tiny.tools.plots import check_figure_name, write_figure
from tiny.tools.prompt_images import Picture, check_room, user_turn

# What is asked of one image, and of several. The embedded model was trained with these words among others.
QUESTIONS = ("Describe the image.", "Describe the images.")


def main(args: argparse.Namespace) -> None:
    """The command `describe`: size, grid and tokens of each image, then the answer."""
    session.check_options(args)
    if args.patches:
        check_figure_name(args.patches)
    question = QUESTIONS[len(args.images) > 1] if args.question is None else session.read_text(args.question)
    model, pictures = open_with_images(args, args.images)
    turns = [user_turn(question, args.images)]
    check_room(model, turns)
    ids, pixels = model.tokenizer.encode_chat(turns)
    if args.patches:
        save_patches(Path(args.patches), pixels, pictures)
    answer(args, model, ids, pixels, pictures, session.note if args.json else print)


def save_patches(path: Path, pixels: list, pictures: Sequence[Picture]) -> None:
    """Draw what the model sees: the images after resizing, cut into patches."""
    from tiny.tools.plots.patches import patch_figure

    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(path, patch_figure(pixels, pictures))
    session.note(f"the patches, laid over the images as the model gets them: {path}")
