"""Classic wrong ways to prepare a picture, which the comparison with the references must refuse.

A mutant gets pytest's monkeypatch and spoils one function of `tiny.image` or of `tiny.system.pictures`.
"""

import math

import numpy as np
from PIL import Image

from tiny import image
from tiny.system import pictures

CUBIC_TAPS, NORMALISE, IMAGE_GRID, OPEN_IMAGE = (
    image.cubic_taps, image.normalise, image.image_grid, image.open_image)


def floor_for_round(patch):
    patch.setattr(image, "round", math.floor, raising=False)


def ceiling_for_round(patch):
    patch.setattr(image, "round", math.ceil, raising=False)


def one_rule_for_both_styles(patch):
    patch.setattr(image, "image_grid", lambda *sizes: IMAGE_GRID(*sizes[:4]))


def halves_rounded_up(patch):
    patch.setattr(image, "round", lambda x: math.floor(x + 0.5), raising=False)


def rows_before_columns(patch):
    patch.setattr(image, "image_grid", lambda *arguments: IMAGE_GRID(*arguments)[::-1])


def pillows_cubic(patch):
    """Pillow's own resize in the place of the reference's."""
    def resize(pixels, height, width):
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized).astype(np.float32)
    patch.setattr(image, "resize_cubic", resize)


def keys_cubic(patch):
    """The same 4 taps with a = -0.5, on floats: Pillow's curve without its antialiasing."""
    def taps(source, target, dtype):
        indices, _ = CUBIC_TAPS(source, target, dtype)
        x = (np.arange(target) + 0.5) * (source / target) - 0.5
        distance = np.abs(x - np.floor(x) - np.arange(-1, 3)[:, None])
        return indices, kernel(distance, -0.5).astype(np.float32)
    patch.setattr(image, "cubic_taps", taps)


def antialiased(patch):
    """The right curve, but stretched over all the pixels that a target pixel covers."""
    def resize(pixels, height, width):
        vertical, horizontal = stretched(pixels.shape[0], height), stretched(pixels.shape[1], width)
        return np.einsum("Yy,Xx,yxc->YXc", vertical, horizontal, pixels, optimize=True).astype(np.float32)
    patch.setattr(image, "resize_cubic", resize)


def kernel(x, a):
    """The cubic of distance x: Keys 1981, eq. 4."""
    return np.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, np.where(x < 2, a * (((x - 5) * x + 8) * x - 4), 0))


def stretched(source, target):
    """Weights (target, source) of the kernel for a = -0.75, as wide as the picture shrinks, border repeated."""
    scale = max(source / target, 1.0)
    reach = 2 * math.ceil(scale) + 1
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    places = np.floor(centre)[:, None] + np.arange(-reach, reach + 1)
    weights = kernel(np.abs(places - centre[:, None]) / scale, -0.75)
    out = np.zeros((target, source))
    np.add.at(out, (np.arange(target)[:, None], np.clip(places, 0, source - 1).astype(int)), weights)
    return out / out.sum(axis=1, keepdims=True)


def float32_coordinates(patch):
    patch.setattr(image, "cubic_taps", lambda source, target, _: CUBIC_TAPS(source, target, np.float32))


def corners_aligned(patch):
    def taps(source, target, dtype):
        x = np.linspace(0, source - 1, target, dtype=np.float64)
        first = np.floor(x)
        indices = np.clip(first.astype(int) + np.arange(-1, 3)[:, None], 0, source - 1)
        return indices, kernel(np.abs(x - first - np.arange(-1, 3)[:, None]), -0.75).astype(np.float32)
    patch.setattr(image, "cubic_taps", taps)


def clipped_to_black_and_white(patch):
    patch.setattr(image, "normalise", lambda pixels: NORMALISE(np.clip(pixels, 0, 255)))


def rounded_to_bytes(patch):
    patch.setattr(image, "normalise", lambda pixels: NORMALISE(np.rint(pixels)))


def bgr(patch):
    patch.setattr(image, "normalise", lambda pixels: NORMALISE(pixels[..., ::-1]))


def normalised_before_resize(patch):
    """Pillow then resizes floats, which it neither rounds nor clips. The cubic of style "mistral" works on floats
    anyway and its weights add up to 1: there the order makes no difference that could be seen.
    """
    def preprocess(source, patch_size=16, max_image_size=1024, style="mistral"):
        rgb = OPEN_IMAGE(source, style)
        columns, rows = IMAGE_GRID(rgb.width, rgb.height, patch_size, max_image_size, style)
        width, height = columns * patch_size, rows * patch_size
        channels = NORMALISE(np.asarray(rgb).astype(np.float32))
        if style == "mistral":
            return image.resize_cubic(channels.transpose(1, 2, 0), height, width).transpose(2, 0, 1)
        return np.stack([np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC))
                         for x in channels])
    patch.setattr(image, "preprocess", preprocess)


def deviation_is_the_mean(patch):
    patch.setattr(image, "STD", image.MEAN)


def imagenet_constants(patch):
    patch.setattr(image, "MEAN", (0.485, 0.456, 0.406))
    patch.setattr(image, "STD", (0.229, 0.224, 0.225))


def channels_last_read_as_first(patch):
    def normalise(pixels):
        right = NORMALISE(pixels)
        return right.transpose(1, 2, 0).reshape(right.shape)
    patch.setattr(image, "normalise", normalise)


def alpha_dropped(patch):
    patch.setattr(pictures, "convert_to_rgb", lambda picture, style: picture.convert("RGBA").convert("RGB"))


def alpha_on_black(patch):
    def convert(picture, style):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
    patch.setattr(pictures, "convert_to_rgb", convert)


# Every mutant, and the kind of comparison that must refuse it.
MUTANTS = {
    floor_for_round: "mistral grid", ceiling_for_round: "mistral grid", one_rule_for_both_styles: "hf grid",
    halves_rounded_up: "mistral grid", rows_before_columns: "mistral pixels", pillows_cubic: "mistral pixels",
    keys_cubic: "mistral pixels", antialiased: "mistral pixels", float32_coordinates: "mistral pixels",
    corners_aligned: "mistral pixels", clipped_to_black_and_white: "mistral pixels",
    rounded_to_bytes: "mistral pixels", bgr: "mistral pixels", normalised_before_resize: "hf pixels",
    deviation_is_the_mean: "mistral pixels", imagenet_constants: "mistral pixels",
    channels_last_read_as_first: "mistral pixels", alpha_dropped: "mistral pixels", alpha_on_black: "mistral pixels"}
