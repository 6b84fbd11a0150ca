"""The inputs of `verify check`: pixels, grids and ids, computed here from the prompt and the pictures of a file.

Most differences between implementations are here, and models with different inputs cannot be compared.
"""

from itertools import permutations

import numpy as np
from PIL import Image

from tiny.config import TinyError
from tiny.files.pictures import STYLES
from tiny.image import preprocess
from tiny.patch_embed import grid_of
from tiny.tools.prompt_images import user_turn
from tiny.tools.verify.compare import PIXELS
from tiny.tools.verify.file import Dump
from tiny.tools.verify.report import Inputs


def check_inputs(model, theirs: Dump) -> Inputs:
    """What differs in the inputs, in sentences, and whether the model can be run on theirs."""
    found = Inputs([], fits=True)
    pictures = [Image.fromarray(x) for x in theirs.numbered("image") if x.dtype == np.uint8 and x.shape[2:] == (3,)]
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
        return "not compared: the file holds no pictures to preprocess"
    own = {style: [prepared(picture, vision, style) for picture in pictures] for style in STYLES}
    if agree(own["mistral"], pixels):
        return f"{len(pixels)} equal"
    orders = list(permutations(range(len(pixels)))) if len(pixels) <= 6 else [tuple(range(len(pixels)))[::-1]]
    for order in orders[1:] or orders:
        if len(pixels) > 1 and agree([own["mistral"][n] for n in order], pixels):
            findings.append("the images are in another order: pixels of their images "
                            f"{', '.join(map(str, range(len(pixels))))} are those of pictures "
                            f"{', '.join(map(str, order))}")
            return "in another order"
    differ = [n for n in range(len(pixels)) if not agree(own["mistral"][n : n + 1], pixels[n : n + 1])]
    findings += [f"pixels of image {n} differ{reason(n, own, pixels)}" for n in differ]
    return f"{len(pixels) - len(differ)} of {len(pixels)} equal"


def prepared(picture: Image.Image, vision, style: str) -> np.ndarray:
    """A picture as pixels; an empty array if a style refuses it."""
    try:
        return preprocess(picture, vision.patch_size, vision.max_image_size, style)
    except TinyError:
        return np.zeros((3, 0, 0), np.float32)


def agree(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    """Whether all pixels are the same within rounding."""
    return all(a.shape == b.shape and bool((np.abs(a - b) <= PIXELS).all()) for a, b in zip(ours, theirs))


def reason(n: int, own: dict[str, list[np.ndarray]], pixels: list[np.ndarray]) -> str:
    """Why the pixels of one image may differ."""
    ours, theirs = own["mistral"][n], pixels[n]
    if agree(own["hf"][n : n + 1], [theirs]):
        return ": they are those of transformers' own processor (style \"hf\")"
    if ours.shape != theirs.shape:
        return f": their size is {theirs.shape[2]} x {theirs.shape[1]}, ours {ours.shape[2]} x {ours.shape[1]}"
    if agree([ours[::-1]], [theirs]):
        return ": the colours are in the order blue, green, red"
    worst = float(np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max())
    return f" by up to {worst:.2g}: look at the filter of the resize, and at mean and deviation"


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
