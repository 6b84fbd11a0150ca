"""Pictures: opened, checked, decoded, and brought to red, green and blue.

A file is data from anywhere: its size is checked before anything is decoded. `image.py` makes numbers of the result.
This is the last file of the appendix.
"""

import warnings
from pathlib import Path

from PIL import Image

from tiny.config import TinyError

STYLES = ("mistral", "hf")  # of the two references; `image.py` says how they differ
# Larger pictures are refused before anything is decoded. Decoding takes about 10 bytes a pixel.
MAX_PIXELS = 128 * 10**6


def open_image(source: str | Path | Image.Image, style: str = "mistral") -> Image.Image:
    """Open a file, or take a picture of Pillow's, and return it in mode RGB, transparent parts on white.

    Of an animation only the current frame is used, of a file the first, and a warning says so. EXIF orientation is
    ignored.

    Raises:  TinyError for what is no picture, cannot be read or decoded, is empty, or has more than MAX_PIXELS
    Source:  mistral-common 1.13.1 image.py, _convert_to_rgb; transformers 5.23 image_transforms.py, convert_to_rgb
    """
    check_style(style)
    if isinstance(source, Image.Image):
        return decode(source, "The picture", style)
    if not isinstance(source, (str, Path)):
        raise TinyError(f"A picture of type {type(source).__name__} was given.",
                        "Give the path of a file or a PIL image; PIL.Image.fromarray makes one of an array.")
    remedy = "Give a PNG, JPEG or other picture that is whole and that you may read; fetch it again if it is cut short."
    try:
        with warnings.catch_warnings():  # The limit is MAX_PIXELS; Pillow begins to warn below it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source)
    except Image.DecompressionBombError:
        raise too_large(f"{source} has") from None
    except FileNotFoundError:
        raise TinyError(f"{source} does not exist.", "Check the path of the picture.") from None
    except Image.UnidentifiedImageError:
        raise TinyError(f"{source} is not an image: of no known format, damaged, or without pixels.", remedy) from None
    except Exception as error:  # Pillow's readers raise whatever a damaged header leads them to.
        raise TinyError(f"{source} cannot be read: {reason(error)}.", remedy) from None
    with image:
        return decode(image, str(source), style)


def decode(image: Image.Image, name: str, style: str) -> Image.Image:
    """Check the size of a picture, and only then read its pixels; return it in mode RGB. Raises TinyError."""
    if not image.width or not image.height:
        raise TinyError(f"{name} has {image.width} x {image.height} pixels.", "Give a picture with at least one pixel.")
    if image.width * image.height > MAX_PIXELS:
        raise too_large(f"{name} has {image.width} x {image.height} =")
    if image.format == "EPS":
        raise TinyError(f"{name} is a PostScript program, which would have to be run.", "Convert it to PNG.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            frames, frame = getattr(image, "is_animated", False), image.tell()
            rgb = convert_to_rgb(image, style)
    except Exception as error:  # Pillow's readers raise whatever damaged data leads them to.
        raise TinyError(f"{name} cannot be decoded: {reason(error)}.",
                        "The file may be cut short or damaged: fetch it again, or save it as PNG.") from None
    if frames:
        warnings.warn(f"{name} has several frames; frame {frame + 1} alone is used.", stacklevel=3)
    return rgb


def convert_to_rgb(image: Image.Image, style: str) -> Image.Image:
    """Convert any mode to RGB, blended with white where it is transparent.

    With value v and alpha a, both of 255, a channel becomes t = va + 255(255 - a) + 128, then (t + t // 256) // 256.
    Pillow's conversions do the rest, and they clip: of the modes I, I;16 and F every value above 255 becomes white.

    Source:  mistral-common 1.13.1 image.py, _convert_to_rgb; transformers 5.23 image_transforms.py, convert_to_rgb
    Differs: the references do from each other. Style "mistral" leaves RGB as it is, also if one colour is declared
             transparent, and blends everything else; "hf" blends where a band A or that declaration says so
    """
    if style == "hf":
        blend = "A" in image.getbands() or image.info.get("transparency") is not None
    else:
        blend = image.mode != "RGB"
    if not blend:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.paste(image, (0, 0), image)
    return white.convert("RGB")


def reason(error: Exception) -> str:
    """What an error of Pillow's says, on one line and without its full stop."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split()).rstrip(".")


def too_large(what: str) -> TinyError:
    """The error for more pixels than MAX_PIXELS; `what` begins its sentence."""
    return TinyError(f"{what} more than {MAX_PIXELS // 10**6} million pixels.", "Shrink the picture first.")


def check_style(style: str) -> None:
    """Raise TinyError unless the style is one of STYLES."""
    if style not in STYLES:
        raise TinyError(f"The style of preprocessing is {style!r}.", f"Use one of {', '.join(STYLES)}.")
