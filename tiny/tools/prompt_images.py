"""Pictures in a prompt: their sizes, read from headers, and what they cost in tokens before anything is decoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tiny.config import TinyError, VisionConfig
from tiny.image import image_grid
from tiny.system.free_memory import free_memory
from tiny.system.pictures import DECODING, decoding_bytes, open_file
from tiny.tools.terminal import one_line

MUCH = 10**8  # from this many bytes on, the memory for decoding is mentioned; less is little beside Python itself
SPOT = 2  # tokens of a picture of one pixel: [IMG] [IMG_END]


class Picture(NamedTuple):
    """A picture on its way into a prompt: its size in the file, and the patches that it becomes."""

    path: str
    width: int
    height: int
    columns: int
    rows: int
    patch_size: int
    decoding: int  # bytes of memory that decoding takes

    @property
    def tokens(self) -> int:
        """One token for each patch, and one at the end of each row."""
        return self.rows * (self.columns + 1)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height after resizing."""
        return self.columns * self.patch_size, self.rows * self.patch_size

    def facts(self) -> dict:
        """What `--json` says of a picture."""
        return {name: getattr(self, name) for name in ("path", "width", "height", "columns", "rows", "tokens")}

    def __str__(self) -> str:
        wide, high = self.size
        change = "not resized" if (wide, high) == (self.width, self.height) else f"resized to {wide} x {high}"
        memory = f"; decoding it takes about {self.decoding / 1e9:.1f} GB" if self.decoding >= MUCH else ""
        breaks = f" + {self.rows - 1:,} [IMG_BREAK]" if self.rows > 1 else ""
        return (f"{one_line(self.path)}: {self.width} x {self.height} pixels, {change}: {self.columns} x {self.rows} "
                f"patches, {self.tokens:,} tokens ({self.columns * self.rows:,} [IMG]{breaks} + 1 [IMG_END]){memory}")


def vision_of(model, name: str | Path) -> VisionConfig:
    """The sizes of a model's vision encoder. Raises TinyError if it reads text only."""
    if model.config.vision is None:
        raise TinyError(f"An image was given, and {name} reads text only.",
                        "Leave the image out, or use a model with a vision encoder: --model tiny-pixtral.")
    return model.config.vision


def measure_picture(source: str | Path | Image.Image, vision: VisionConfig) -> Picture:
    """Read the size of a picture, from its header alone if it is a file, and count its patches.

    Raises:  TinyError as `tiny.system.pictures.open_file` does
    """
    if isinstance(source, Image.Image):
        return picture_of("the picture", *source.size, vision)
    with open_file(source) as image:
        return picture_of(str(source), *image.size, vision, decoding_bytes(image))


def picture_of(name: str, width: int, height: int, vision: VisionConfig, decoding: int | None = None) -> Picture:
    """A picture of which nothing but the size is known, and perhaps the bytes that decoding it takes."""
    grid = image_grid(width, height, vision.patch_size, vision.max_image_size)
    decoding = width * height * DECODING if decoding is None else decoding
    return Picture(name, width, height, *grid, vision.patch_size, decoding)


def user_turn(text: str, images: Sequence) -> dict:
    """A message of the user: images first, as the models were trained, then the text."""
    if not images:
        return {"role": "user", "content": text}
    chunks: list[dict] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*chunks, {"type": "text", "text": text}]}


def count_tokens(model, messages: Sequence[dict]) -> tuple[int, int]:
    """How many tokens a chat has, and how many of them its pictures take; no picture is decoded.

    Each is written as a picture of one pixel, and the tokens that it has more are added.

    Raises:  TinyError for a picture that cannot be decoded in the memory that is free
    """
    spot, small, of_images, number, free = Image.new("RGB", (1, 1)), [], 0, 0, free_memory()
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            sources = [chunk["image"] for chunk in content if chunk["type"] == "image"]
            pictures = [measure_picture(source, model.config.vision) for source in sources]
            for picture in pictures:
                if picture.decoding > free:
                    raise TinyError(f"{picture.path}: decoding {picture.width} x {picture.height} pixels takes about "
                                    f"{picture.decoding / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
                                    "Shrink the picture first.")
            of_images += sum(picture.tokens for picture in pictures)
            number += len(sources)
            content = [chunk | {"image": spot} if chunk["type"] == "image" else chunk for chunk in content]
        small.append(message | {"content": content})
    return len(model.tokenizer.encode_chat(small)[0]) - SPOT * number + of_images, of_images


def check_room(model, messages: Sequence[dict], room: int = 1) -> None:
    """Raise TinyError if the images of a chat do not leave room for an answer, or cannot be decoded in the memory
    that is free; no picture is decoded.
    """
    context = model.config.max_seq_len
    tokens, of_images = count_tokens(model, messages)
    if of_images and tokens + room > context:
        raise TinyError(f"The prompt has {tokens:,} tokens, {of_images:,} of them for its images; the context has "
                        f"{context:,}, and the answer needs at least {room:,}.",
                        "Use fewer images, or smaller ones: half of each side is a quarter of the tokens.")
