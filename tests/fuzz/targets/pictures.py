"""Target: pictures of every format that Pillow writes, and of containers; only seven may ever be opened."""

import io
import random
import struct
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import mutate
from tests.fuzz.engine import Target, Wrong
from tiny.image import preprocess
from tiny.system.pictures import FORMATS

MODES = ("RGB", "L", "P", "RGBA", "1", "I;16", "F", "CMYK", "LA", "I")
KINDS: tuple[tuple[str, dict], ...] = (
    ("GIF", {"save_all": True}), ("PNG", {"save_all": True}), ("WEBP", {"save_all": True}),
    ("TIFF", {"save_all": True}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_deflate"}),
    ("TIFF", {"compression": "jpeg"}),
    ("TIFF", {"compression": "packbits"}), ("JPEG", {"progressive": True}), ("JPEG", {"quality": 5, "subsampling": 2}),
    ("WEBP", {"lossless": True}))


@cache
def pictures() -> dict[str, list[bytes]]:
    """Small files of every format that can be written here, and of containers that were opened once."""
    Image.init()
    pixels = Image.fromarray(np.random.default_rng(1).integers(0, 256, (13, 17, 3), np.uint8))
    found: dict[str, list[bytes]] = {}
    plans = [(kind, mode, {}) for kind in sorted(Image.SAVE) for mode in MODES if kind not in ("PDF", "EPS")]
    plans += [(kind, "RGB", options | ({"append_images": [pixels, pixels]} if "save_all" in options else {}))
              for kind, options in KINDS]
    for kind, mode, options in plans:
        out = io.BytesIO()
        try:
            (pixels.convert("L") if mode in ("I;16", "F", "I") else pixels).convert(mode).save(out, kind, **options)
        except Exception:  # Most formats cannot hold most modes.
            continue
        if len(out.getvalue()) < 20_000:
            found.setdefault(kind, []).append(out.getvalue())
    found["EPS"] = [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n"]
    found["IPTC"] = [iptc(b"%!PS\nshowpage\n"), iptc(found["JPEG"][0])]
    return found


def iptc(payload: bytes) -> bytes:
    """A container of IPTC around a picture."""
    records = ((3, 60, b"\1\0"), (3, 20, struct.pack(">H", 8)), (3, 30, struct.pack(">H", 8)), (3, 120, b"\5"),
               (8, 10, payload))
    return b"".join(struct.pack(">BBBH", 0x1C, section, tag, len(data)) + data for section, tag, data in records)


def make_picture(rng: random.Random) -> bytes:
    """Half of the changes are in the first bytes, where the sizes are; most pictures are of FORMATS."""
    kind = rng.choice(FORMATS) if rng.random() < 0.9 else rng.choice(sorted(pictures()))
    data = rng.choice(pictures()[kind])
    if rng.random() < 0.5:
        size = min(len(data), rng.choice((16, 32, 64, 200)))
        return mutate.bytes_of(rng, data[:size], 2) + data[size:]
    return mutate.bytes_of(rng, data)


def run_picture(data: bytes, folder: Path) -> str:
    path = folder / "a.png"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = preprocess(path, 8, 64)
    if pixels.dtype != np.float32 or pixels.shape[0] != 3 or pixels.shape[1] % 8 or pixels.shape[2] % 8:
        raise Wrong("pixels of another shape or dtype")
    if not np.isfinite(pixels).all() or np.abs(pixels).max() > 10:
        raise Wrong("pixels that no level of 0 to 255 gives")
    with Image.open(path) as opened:
        if opened.format not in (*FORMATS, "MPO", "DIB"):
            raise Wrong(f"a picture of format {opened.format} was opened")
    return "read"


TARGETS = [Target("picture", make_picture, run_picture)]
