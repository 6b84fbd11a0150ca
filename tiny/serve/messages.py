"""Messages of a chat request, with pictures as data URLs, as the tokenizers here take them."""

import base64
import io
import re
import warnings
from functools import partial
from typing import Any

from PIL import Image

from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.serve.fields import shown, text
from tiny.serve.limits import Refusal
from tiny.system.pictures import FORMATS, STYLES, decode, quiet
from tiny.tools.prompt_images import check_room, vision_of

MESSAGES, CHUNKS = 1000, 1000  # messages of a chat, and chunks of a message
IMAGES = 64  # of one request
IMAGE_BYTES = 16 << 20  # of one file
PIXELS, ALL_PIXELS = 16 * 10**6, 64 * 10**6  # of one picture, and of all of a request
ROLES = {"developer": "system"}  # OpenAI's newer name
wrong = partial(Refusal, 400, param="messages")


def read_messages(body: dict) -> tuple[list[dict], dict[str, dict], list[str]]:
    """The messages of a request, their pictures by place, opened but not decoded, and what was ignored.

    Raises:  Refusal that names the message, counted from 0
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MESSAGES:
        raise wrong(f"messages is {shown(messages)}, and 1 to {MESSAGES} messages are needed.",
                    'Give [{"role": "user", "content": "Hello"}].')
    found, pictures, ignored = [], {}, []  # type: ignore[var-annotated]
    for place, message in enumerate(messages):
        name = f"messages[{place}]"
        if not isinstance(message, dict):
            raise wrong(f"{name} is {shown(message)}.", 'Give {"role": ..., "content": ...}.')
        role, content = message.get("role"), message.get("content")
        role = ROLES.get(text(role, f"{name}.role"), role)
        if message.get("tool_calls") or message.get("function_call") or role in ("tool", "function"):
            raise wrong(f"{name} is about tools, which are not supported here.",
                        "Put what a tool returned into a user message, as text.")
        more = {"prefix": message["prefix"]} if role == "assistant" and message.get("prefix") is not None else {}
        ignored += [f"{name}.{key[:80]}: ignored" for key in message if message[key] and key not in {
            "role", "content", *more}]
        chunks = content if isinstance(content, str) else read_chunks(content, f"{name}.content", pictures, ignored)
        found.append({"role": role, "content": chunks, **more})
    return found, pictures, ignored


def read_chunks(content: Any, name: str, pictures: dict[str, dict], ignored: list[str]) -> list[dict]:
    """The chunks of a message; `pictures` collects those that are some, `ignored` what is not read."""
    if not isinstance(content, list) or len(content) > CHUNKS:
        raise wrong(f"{name} is {shown(content)}.", f"Give a text, or a list of up to {CHUNKS} chunks.")
    chunks: list[dict] = []
    for place, chunk in enumerate(content):
        where = f"{name}[{place}]"
        kind = chunk.get("type") if isinstance(chunk, dict) else None
        if kind == "text":
            chunks.append({"type": "text", "text": text(chunk.get("text"), f"{where}.text")})
        elif kind == "image_url":
            url = chunk.get("image_url")
            if isinstance(url, dict):
                ignored += [f"{where}.image_url.{key[:80]}: ignored" for key in url if key != "url" and url[key]]
                url = url.get("url")
            chunks.append({"type": "image", "image": open_picture(url, where)})
            pictures[where] = chunks[-1]
            pixels = sum(one["image"].width * one["image"].height for one in pictures.values())
            if len(pictures) > IMAGES or pixels > ALL_PIXELS:
                raise wrong(f"{where}: the request has more than {IMAGES} pictures, or {ALL_PIXELS:,} pixels.",
                            "Send fewer pictures, or smaller ones.")
        else:
            what = "a text" if isinstance(chunk, str) else f"a chunk of type {shown(kind)}" if kind else shown(chunk)
            raise wrong(f"{where} is {what}.", 'Give {"type": "text", "text": ...} or {"type": "image_url", ...}.')
    return chunks


def open_picture(url: Any, where: str) -> Image.Image:
    """Open the picture of a data URL: its header is read, its pixels are not.

    Raises:  Refusal for an address, which is never fetched; for what is no picture; for one too large
    """
    head = re.match(r"data:([^,]{0,200}),", url[:300], re.I) if isinstance(url, str) else None
    kind, *rest = head[1].lower().split(";") if head else [""]
    if head is None or rest[-1:] != ["base64"] or kind and not kind.startswith("image/"):
        start = shown(url[:40] if isinstance(url, str) else url)
        why = "it is no image in base64" if start.lower().startswith('"data:') else "nothing is fetched here"
        raise wrong(f"{where}: the picture is {start}, and {why}.", "Send it as a data URL: data:image/png;base64,...")
    try:
        data = base64.b64decode(url[head.end():], validate=True)
    except ValueError as error:
        raise wrong(f"{where}: the picture is not base64: {error}.", "Encode it again.") from None
    if len(data) > IMAGE_BYTES:
        raise wrong(f"{where}: the picture has {len(data):,} bytes, and {IMAGE_BYTES:,} are the most.", "Shrink it.")
    try:
        with quiet():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        size = f"{image.width} x {image.height} = {image.width * image.height:,}"
    except Image.DecompressionBombError:
        image, size = None, "far more"
    except Exception:  # Pillow's readers raise whatever damaged bytes lead them to.
        raise wrong(f"{where}: the picture is damaged, or of none of the formats {', '.join(FORMATS)}.",
                    "Save it as PNG.") from None
    if image is None or not 0 < image.width * image.height <= PIXELS:
        raise wrong(f"{where}: the picture has {size} pixels; 1 to {PIXELS:,} are read.", "Shrink it.")
    return image


def encode_chat(model: Mixtral, name: str, messages: list[dict], pictures: dict[str, dict],
                ignored: list[str]) -> tuple[list[int], list, list[str]]:
    """Token ids of a chat, its preprocessed pictures, what was ignored and what Pillow's readers warn of.

    Raises:  Refusal for messages in the wrong order, or pictures that do not fit or cannot be decoded
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            if pictures:
                vision_of(model, name)
                check_room(model, messages)
            for where, chunk in pictures.items():
                chunk["image"] = decode(chunk["image"], where, STYLES[0])
            ids, pixels = model.tokenizer.encode_chat(messages)
        except TinyError as error:  # It is written for Python, where messages are counted from 1.
            cause = re.sub(r"\bMessage (\d+)\b", lambda found: f"messages[{int(found[1]) - 1}]", error.cause)
            raise wrong(cause, error.remedy.replace("True", "true").replace("False", "false")) from None
    return ids, pixels, ignored + [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
