"""The inputs of `verify check`: pixels, grids and ids, computed here from the prompt and the pictures of a file.

Most differences between implementations are here, and models with different inputs cannot be compared.
"""

from itertools import permutations

import numpy as np
from PIL import Image

from tiny.config import TinyError
from tiny.image import MEAN, STD, preprocess
from tiny.patch_embed import grid_of
from tiny.system.pictures import STYLES
from tiny.tools.prompt_images import user_turn
from tiny.tools.verify.compare import PIXELS
from tiny.tools.verify.file import Dump
from tiny.tools.verify.report import Inputs

# The seven ways in which EXIF orientation turns or mirrors a picture, in words.
TURNS = {Image.Transpose.ROTATE_180: "turned by 180 degrees", Image.Transpose.ROTATE_270: "turned right by 90 degrees",
         Image.Transpose.ROTATE_90: "turned left by 90 degrees", Image.Transpose.FLIP_LEFT_RIGHT: "mirrored",
         Image.Transpose.FLIP_TOP_BOTTOM: "upside down and mirrored",
         Image.Transpose.TRANSPOSE: "with its axes exchanged",
         Image.Transpose.TRANSVERSE: "with its axes exchanged, turned by 180 degrees"}


def check_inputs(model, theirs: Dump) -> Inputs:
    """What differs in the inputs, in sentences, and whether the model can be run on theirs."""
    found = Inputs([], fits=True)
    pictures = [Image.fromarray(x) for x in theirs.numbered("image")]
    pixels = theirs.numbered("pixels")
    found.pixels = check_pixels(model, pixels, pictures, found.findings)
    found.grids = check_grids(model, theirs, pixels, found.findings)
    found.ids = check_ids(model, theirs, pictures, found.findings)
    try:
        model.check_images(theirs.ids, pixels)
    except TinyError as error:
        found.findings.append(f"the model cannot be run on these inputs: {error.cause}")
        found.fits = False
    return found


def check_pixels(model, pixels: list[np.ndarray], pictures: list[Image.Image], findings: list[str]) -> str:
    """Compare the pixels with ours of the same pictures; another order of the images is looked for first."""
    vision = model.config.vision
    if not pixels or vision is None:
        return "none"
    if len(pictures) != len(pixels):
        return "not compared: the file holds pixels, not the pictures they were made of"
    own = [prepared(picture, vision) for picture in pictures]
    if agree(own, pixels):
        return f"{len(pixels)} equal"
    orders = list(permutations(range(len(pixels)))) if len(pixels) <= 6 else [tuple(range(len(pixels)))[::-1]]
    for order in orders[1:] or orders:
        if len(pixels) > 1 and agree([own[n] for n in order], pixels):
            findings.append("the images are in another order: pixels of their images "
                            f"{', '.join(map(str, range(len(pixels))))} are those of pictures "
                            f"{', '.join(map(str, order))}")
            return "in another order"
    differ = [n for n in range(len(pixels)) if not agree(own[n : n + 1], pixels[n : n + 1])]
    findings += [f"pixels of image {n} differ{reason(pictures[n], own[n], pixels[n], vision)}" for n in differ]
    return f"{len(pixels) - len(differ)} of {len(pixels)} equal"


def prepared(picture: Image.Image, vision, style: str = "mistral") -> np.ndarray:
    """A picture as pixels; an empty array if a style refuses it."""
    try:
        return preprocess(picture, vision.patch_size, vision.max_image_size, style)
    except TinyError:
        return np.zeros((3, 0, 0), np.float32)


def agree(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    """Whether all pixels are the same within rounding."""
    return all(a.shape == b.shape and bool((np.abs(a - b) <= PIXELS).all()) for a, b in zip(ours, theirs))


def reason(picture: Image.Image, ours: np.ndarray, theirs: np.ndarray, vision) -> str:
    """Why the pixels of one image may differ."""
    if agree([prepared(picture, vision, "hf")], [theirs]):
        return ": they are those of transformers' own processor (style \"hf\")"
    turn = turned(picture, theirs, vision)
    if turn:
        return f": they are those of the picture {turn}, as programs turn it that obey its EXIF orientation"
    if ours.shape != theirs.shape:
        return f": their size is {theirs.shape[2]} x {theirs.shape[1]}, ours {ours.shape[2]} x {ours.shape[1]}"
    if agree([ours[::-1]], [theirs]):
        return ": the colours are in the order blue, green, red"
    if alpha_dropped(ours, theirs):
        return ": they look as if a transparent picture was not put on white, but its alpha dropped"
    worst = float(np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max())
    return f" by up to {worst:.2g}: look at the filter of the resize, and at mean and deviation"


def turned(picture: Image.Image, theirs: np.ndarray, vision) -> str:
    """How a picture has to be turned or mirrored to become theirs, in words; empty if nothing helps."""
    for turn, words in TURNS.items():
        other = picture.transpose(turn)
        if (other.width < other.height) == (theirs.shape[2] < theirs.shape[1]) or picture.width == picture.height:
            if any(agree([prepared(other, vision, style)], [theirs]) for style in STYLES):
                return words
    return ""


def alpha_dropped(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether ours could be theirs blended with white: lighter, by one factor in the three channels of a pixel.

    It holds on average only, because both may have been resized.

    Shapes:  (3, H, W) each, normalised
    """
    mean, deviation = (np.array(x, np.float32)[:, None, None] for x in (MEAN, STD))
    ours, theirs = (1 - (x * deviation + mean) for x in (ours, theirs))  # 0 is white, 1 is black
    unlike = np.abs(ours * np.roll(theirs, 1, axis=0) - np.roll(ours, 1, axis=0) * theirs).mean()
    lighter, much = (ours <= theirs + 0.02).mean(), (theirs - ours > 0.1).any()
    return bool(unlike <= 0.005 and lighter >= 0.97 and much)


def check_grids(model, theirs: Dump, pixels: list[np.ndarray], findings: list[str]) -> str:
    """Compare the grids that a file states with those of its pixels."""
    if not pixels or model.config.vision is None:
        return "none"
    size = model.config.vision.patch_size
    grids = [list(grid_of(x, size)) for x in pixels]
    if "grids" in theirs.inputs and theirs.inputs["grids"].tolist() != grids:
        findings.append(f"the grids are {theirs.inputs['grids'].tolist()} (columns, rows), the pixels make {grids}")
        return "differ"
    return ", ".join(f"{columns} x {rows}" for columns, rows in grids)


def check_ids(model, theirs: Dump, pictures: list[Image.Image], findings: list[str]) -> str:
    """Compare the ids with those that our tokenizer makes of the same prompt."""
    prompt, images = theirs.record.get("prompt"), theirs.numbered("pixels")
    if not isinstance(prompt, str) or len(pictures) != len(images):
        return "not compared: the file holds no prompt, or not its pictures"
    try:
        if theirs.record.get("chat"):
            ids = model.tokenizer.encode_chat([user_turn(prompt, pictures)])[0]
        else:
            ids = [model.tokenizer.bos_id, *model.tokenizer.encode(prompt)]
    except TinyError as error:
        return f"not compared: {error.cause}"
    other = theirs.ids.tolist()
    if ids == other:
        return f"{len(ids)} equal"
    first = next((n for n, (a, b) in enumerate(zip(ids, other)) if a != b), min(len(ids), len(other)))
    findings.append(f"the ids differ from token {first} on: theirs {other[first : first + 6]}, ours "
                    f"{ids[first : first + 6]} ({len(other)} and {len(ids)} tokens)")
    return "differ"
