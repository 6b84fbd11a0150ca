"""From a file to a picture in red, green and blue: which formats are opened, what is refused, what is said aloud.

A name does not tell the format, and Pillow knows formats that run programs (PostScript starts Ghostscript) or that
hide one picture in another. So only FORMATS are ever opened. The size is checked before a pixel is read, and again
afterwards.

An orientation that a camera noted in EXIF is not followed, and a warning says so. Neither is it by mistral-common
1.13.1, nor by transformers 5.23 for a picture of Pillow's; but transformers turns what it is given by path, URL or
base64 (load_image), and it drops what is transparent there, instead of blending it with white. A TIFF file is turned
everywhere: Pillow does it while decoding.

`image.py` makes numbers of the result. Read `messages.py` next, the last file here.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tiny.config import TinyError

STYLES = ("mistral", "hf")  # of the two references; `image.py` says how they differ
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
KINDS = (*FORMATS, "MPO", "DIB", None)  # of pictures opened by others: as Pillow calls what is in files of FORMATS
# Larger pictures are refused before anything is decoded.
MAX_PIXELS = 128 * 10**6
# Bytes a pixel that decoding takes: 4 for the picture in its own mode, 4 in RGB; WebP's library holds copies beside
# them. Measured with Pillow 13.0, 40 million pixels: up to 8.5, and up to 16.4.
DECODING, DECODING_WEBP = 9, 17
SMALL_FILE, LARGE_PICTURE = 1_000_000, 1_000_000_000  # bytes: a file below, decoded above the other, is a trap
BAND = 1 << 20  # pixels that are converted at a time
ORIENTATION = 0x0112  # a tag of EXIF: 1 is upright, 2 to 8 are turned or mirrored
DEEP = ("I", "F")  # grey of 16 or 32 bits, and floats: what the names of such modes begin with
REMEDY = "Give a picture that is whole and that you may read, or save it as PNG; fetch it again if it is cut short."


def open_image(source: str | Path | Image.Image, style: str = "mistral") -> Image.Image:
    """Open a file, or take a picture of Pillow's, and return it in mode RGB, transparent parts on white.

    Warnings say what a reader may not expect: of an animation only the current frame is used, of a file the first;
    EXIF orientation is not followed; grey beyond 8 bits is clipped.

    Raises:  TinyError for what is no picture, cannot be read or decoded, is empty, or has more than MAX_PIXELS
    Source:  mistral-common 1.13.1 image.py, _convert_to_rgb; transformers 5.23 image_transforms.py, convert_to_rgb
    """
    check_style(style)
    if isinstance(source, Image.Image):
        return decode(source, "The picture", style)
    with open_file(source) as image:
        return decode(image, shown(source), style)


def open_file(source: str | Path) -> Image.Image:
    """Open a picture file in one of FORMATS and check its size. Nothing is decoded yet.

    Raises:  TinyError for addresses, files that are missing or no picture, pictures that are empty or too large
    """
    check_source(source)
    name = shown(source)
    try:
        with quiet():
            image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError:
        raise too_large(f"{name} has") from None
    except FileNotFoundError:
        raise TinyError(f"{name} does not exist.", "Check the path of the picture.") from None
    except Image.UnidentifiedImageError:
        raise TinyError(f"{name} is not an image: of none of the formats {', '.join(FORMATS)}, damaged, "
                        "or without pixels.", REMEDY) from None
    except Exception as error:  # Pillow's readers raise whatever a damaged header leads them to.
        raise TinyError(f"{name} cannot be read: {reason(error)}.", REMEDY) from None
    check_size(image.size, name)
    if decoding_bytes(image) > LARGE_PICTURE and Path(source).stat().st_size < SMALL_FILE:
        raise TinyError(f"{name} is a small file that would take {decoding_bytes(image) / 1e9:.1f} GB of memory.",
                        "Shrink the picture first.")
    return image


def decoding_bytes(image: Image.Image) -> int:
    """About the memory that decoding a picture takes, from its header."""
    return image.width * image.height * (DECODING_WEBP if image.format == "WEBP" else DECODING)


def check_source(source: object) -> None:
    """Raise TinyError unless this is a path; an address or a data URL is called by its name."""
    if not isinstance(source, (str, Path)):
        raise TinyError(f"A picture of type {type(source).__name__} was given.",
                        "Give the path of a file or a PIL image: PIL.Image.fromarray makes one of an array, "
                        "PIL.Image.open of io.BytesIO(data).")
    if address := re.match(r"(data):[^,]*,|[A-Za-z][A-Za-z0-9+.-]+:/", str(source)):
        kind = f"a data URL of {len(str(source)):,} characters" if address[1] else "an address"
        raise TinyError(f"{shown(source)} is {kind}, and only files are read here.",
                        "Save the picture, and give the path of the file.")
    if not os.path.isfile(source) and os.path.exists(source) and not os.path.isdir(source):
        raise TinyError(f"{shown(source)} is a pipe or a device, not a file.", "Save the picture to a file first.")


def decode(image: Image.Image, name: str, style: str) -> Image.Image:
    """Check the size of a picture, and only then read its pixels; return it in mode RGB. Raises TinyError."""
    check_size(image.size, name)
    if getattr(image, "tile", ()) and image.format not in KINDS:
        raise TinyError(f"{name} is a file of format {image.format} that is not decoded yet, which may run programs.",
                        "If you trust it, let Pillow decode it first: image.load().")
    try:
        with quiet():
            frames, frame = getattr(image, "is_animated", False), image.tell()
            image.load()
            check_size(image.size, name)
            rgb, spoilt = convert_to_rgb(image, style), clipped(image)
    except TinyError:
        raise
    except MemoryError:
        raise TinyError(f"There is not enough memory to decode {name}, {image.width} x {image.height} pixels.",
                        "Shrink the picture first.") from None
    except Exception as error:  # Pillow's readers raise whatever damaged data leads them to.
        raise TinyError(f"{name} cannot be decoded: {reason(error)}.",
                        "The file may be cut short or damaged: fetch it again, or save it as PNG.") from None
    if frames:
        warnings.warn(f"{name} has several frames; frame {frame + 1} alone is used.", stacklevel=3)
    if (turn := orientation(image)) != 1:
        warnings.warn(f"{name} asks viewers to turn or mirror it (EXIF orientation {turn}); it is read as it is "
                      "stored. PIL.ImageOps.exif_transpose turns it.", stacklevel=3)
    if spoilt:
        warnings.warn(f"{name} {spoilt}. Scale it to 8 bits first.", stacklevel=3)
    return rgb


def convert_to_rgb(image: Image.Image, style: str) -> Image.Image:
    """Convert any mode to RGB, blended with white where it is transparent.

    With value v and alpha a, both of 255, a channel becomes t = va + 255(255 - a) + 128, then (t + t // 256) // 256.
    Pillow's conversions do the rest, and they clip: of the modes I, I;16 and F every value above 255 becomes white.

    Source:  mistral-common 1.13.1 image.py, _convert_to_rgb; transformers 5.23 image_transforms.py, convert_to_rgb
    Differs: the references do from each other. Style "mistral" leaves RGB as it is, also if one colour is declared
             transparent, and blends everything else; "hf" blends where a band A or that declaration says so
    """
    declared = "A" in image.getbands() or image.info.get("transparency") is not None
    if not (declared if style == "hf" else image.mode != "RGB"):
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size, "white")
    for top, band in bands(image):
        band = band.convert("RGBA")
        rgb.paste(band, (0, top), band)
    return rgb


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut a picture into strips of at most BAND pixels, so that copies stay small: yield (top row, strip)."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        box = 0, top, image.width, min(top + rows, image.height)
        yield top, image if rows >= image.height else image.crop(box)


def levels_of(rgb: Image.Image) -> np.ndarray:
    """The levels of a picture in mode RGB, uint8, copied strip by strip if large. Shapes:  -> (height, width, 3)."""
    if rgb.width * rgb.height <= BAND:
        return np.asarray(rgb)
    levels = np.empty((rgb.height, rgb.width, 3), np.uint8)
    for top, band in bands(rgb):
        levels[top : top + band.height] = np.asarray(band)
    return levels


def clipped(image: Image.Image) -> str:
    """What converting a deep grey picture to 8 bits spoils, in words; "" if nothing."""
    if not image.mode.startswith(DEEP):
        return ""
    outside, largest = 0, -np.inf
    for _, band in bands(image):
        levels = np.asarray(band)
        outside += int(np.count_nonzero(~((levels >= 0) & (levels <= 255))))
        largest = np.fmax(largest, np.fmax.reduce(levels, axis=None))
    if outside:
        return (f"has grey levels outside of 0 to 255, up to {largest:g}: {outside / (image.width * image.height):.0%} "
                "of its pixels become plain white or black")
    return "has grey levels of 0 to 1, which all become black" if image.mode == "F" and 0 < largest <= 1 else ""


def orientation(image: Image.Image) -> int:
    """The orientation that EXIF asks for, 1 to 8, of a file that Pillow does not turn itself; 1 if it says nothing."""
    if image.format in (None, "TIFF") or not any("exif" in str(key).lower() or "xmp" in str(key) for key in image.info):
        return 1
    try:
        with quiet():
            turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF can be damaged in a picture that is whole.
        return 1
    return turn if turn in range(1, 9) else 1


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise TinyError for a picture without pixels, or with more than MAX_PIXELS."""
    width, height = size
    if not width or not height:
        raise TinyError(f"{name} has {width} x {height} pixels.", "Give a picture with at least one pixel.")
    if width * height > MAX_PIXELS:
        raise too_large(f"{name} has {width} x {height} =")


def too_large(what: str) -> TinyError:
    """The error for more pixels than MAX_PIXELS; `what` begins its sentence."""
    return TinyError(f"{what} more than {MAX_PIXELS // 10**6} million pixels.", "Shrink the picture first.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow about large pictures (the limit is MAX_PIXELS, and Pillow warns below it) and damaged EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Corrupt EXIF")
        yield


def shown(source: object) -> str:
    """A path as it is written in a message, with its middle left out if it is long."""
    text = str(source)
    return text if len(text) <= 200 else f"{text[:60]}...{text[-60:]}"


def reason(error: Exception) -> str:
    """What an error of Pillow's says, on one line, without its full stop and not too long."""
    return shown(" ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())).rstrip(".")


def check_style(style: str) -> None:
    """Raise TinyError unless the style is one of STYLES."""
    if style not in STYLES:
        raise TinyError(f"The style of preprocessing is {style!r}.", f"Use one of {', '.join(STYLES)}.")
