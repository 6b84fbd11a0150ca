"""Pictures that tests build by formula, so that what a reference made of them can be stored without them."""

import struct
import zlib

import numpy as np
from PIL import Image

# Width and height: narrow ones, ones with a side below 4 pixels, shrunk ones (one of them to 16.5 rows), and the last
# as from a camera.
SIZES = [(1, 1), (2, 3), (3, 40), (33, 17), (150, 600), (1025, 1), (1, 1025), (5000, 1), (1, 5000), (2048, 33),
         (1500, 700), (4096, 4096)]
# A mode of Pillow's, and what its pictures declare besides.
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16",
         "I;16B", "I;16L", "L transparent", "1 transparent", "I;16 transparent", "RGB transparent", "P transparent",
         "P alphas", "P of RGBA"]
WIDTH, HEIGHT = 11, 9  # of the pictures of MODES


def formula(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Bytes (height, width, channels): (7x + 13y + 50c + xy // 5) mod 256. Edges run through it in all directions."""
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    return (7 * x + 13 * y + x * y // 5).astype(np.uint8)[..., None] + (50 * np.arange(channels)).astype(np.uint8)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(formula(width, height))


def of_mode(name: str) -> Image.Image:
    """A picture of every kind that Pillow has, with all its levels, and transparency where the name says so."""
    mode, _, more = name.partition(" ")
    rng = np.random.default_rng(len(name))
    size = (WIDTH, HEIGHT)
    if mode == "1":
        image = Image.frombytes("1", size, rng.bytes(HEIGHT * 2))
    elif mode in ("I", "F"):
        numbers = rng.integers(-300, 700, WIDTH * HEIGHT).tolist()
        numbers = [number + (0.5 if mode == "F" else 0) for number in numbers[:-1]] + [70000]
        image = Image.frombytes(mode, size, struct.pack(f"={len(numbers)}{'f' if mode == 'F' else 'i'}", *numbers))
    elif mode.startswith("I;16"):
        numbers = [*rng.integers(0, 400, WIDTH * HEIGHT - 1).tolist(), 65535]
        image = Image.frombytes(mode, size, struct.pack(f"{'>' if mode == 'I;16B' else '<'}{len(numbers)}H", *numbers))
    else:
        channels = len(Image.new(mode, (1, 1)).getbands())
        image = Image.frombytes(mode, size, rng.bytes(WIDTH * HEIGHT * channels))
    if mode in ("P", "PA"):
        image.putpalette(rng.bytes(1024 if more == "of RGBA" else 768), "RGBA" if more == "of RGBA" else "RGB")
    if more == "transparent":
        image.info["transparency"] = image.getpixel((0, 0))
    if more == "alphas":
        image.info["transparency"] = rng.bytes(200)
    return image


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that declares a huge picture."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
