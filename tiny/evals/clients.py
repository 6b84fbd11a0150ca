"""Who answers: a model in this process, a server, or a file of recorded answers. Each is a function of a request.

A picture is shown as its file is, as the published kit sends it, or as a plain colour. The kit decodes every picture
and encodes it again, JPEG at Pillow's default quality. So its models see pictures that are a little worse than those
of the data set, and a score "as published" has to show the same ones.

A request that fails is no wrong answer. It is asked again, and if it still fails, that is what is recorded. Read
`remote.py` next.
"""

import base64
import io
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

import tiny
from tiny.config import TinyError
from tiny.evals.items import LARGEST_IMAGE, Request
from tiny.evals.lines import Wrong, at, check, read_lines
from tiny.generate import check_prompt
from tiny.system.pictures import ORIENTATION, open_file, open_image, quiet, reason
from tiny.system.reading import read_file
from tiny.tools.prompt_images import check_room

ABSENT = "there is no answer in"  # how the error of a request begins that a file has no answer to
MODES = ("original", "published", "blind")
WAITS = (1.5, 3.0, 6.0)  # seconds before a request is asked again, as mistral-evals waits; then always the last
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
LONG_WAIT = 10.0  # seconds that are not waited in silence


class Reply(NamedTuple):
    """An answer: its text, and why it ended: "stop", or "length" where it was cut. model: if another one answered than
    was asked for
    """

    text: str
    finish_reason: str | None = None
    model: str | None = None


Client = Callable[[Request], Reply]
Known = dict[tuple[str | None, str], dict[str, Any]]  # lines of answers by prompt and id


class Failed(Exception):
    """A request that got no answer.

    again: whether asking again may help; wait: seconds that the server asked for; gone: nobody was there
    """

    def __init__(self, cause: str, again: bool = False, wait: float | None = None, gone: bool = False):
        super().__init__(cause)
        self.cause, self.again, self.wait, self.gone = cause, again, wait, gone


def ask(client: Callable[[Any], Any], request: Any, tries: int = 3, sleep: Callable[[float], object] = time.sleep,
        waits: Sequence[float] | None = None) -> tuple[Any, int]:
    """Ask until there is an answer: the reply, or what went wrong as text, and how often it was asked. Between two
    askings it waits as long as the server wants, within reason, or as long as the kit waits.

    Raises:  TinyError if nobody is there any more, or whatever else would meet every other request too
    """
    for n in range(1, tries + 1):
        try:
            return client(request), n
        except Failed as failure:
            if n == tries and failure.gone:
                raise TinyError(f"{failure.cause}, {tries} times.", "Start the server, then give the same command "
                                "again: what was answered is kept.") from None
            if n == tries or not failure.again:
                return failure.cause, n
            usual = (waits or WAITS)[:n][-1]
            wait = min(LONGEST_WAIT, usual if failure.wait is None else failure.wait)
            if wait >= LONG_WAIT:  # Whoever watches should know why nothing happens.
                tqdm.write(f"note: {failure.cause}; asked again in {wait:g} s", file=sys.stderr)
            sleep(wait)
    raise AssertionError("a request is asked at least once")


def encoded(path: str | Path, mode: str) -> tuple[str, bytes]:
    """A picture as it is sent: the name of its format in small letters, and the bytes.

    published: as `datasets` decodes it, and then in its own format again, PNG if it has none
    blind:     one colour, the mean of the picture, in the same size
    Raises:  TinyError for what is no picture or cannot be decoded
    Source:  mistral-evals d61811fc, the encoding of images; datasets features/image.py, decode_example
    """
    out = io.BytesIO()
    if mode == "blind":
        mean_colour(path).save(out, format="PNG")
        return "png", out.getvalue()
    data = read_file(Path(path), LARGEST_IMAGE)
    with open_file(path) as image:
        kind = image.format or "PNG"
        if mode == "original":
            return "jpeg" if kind == "MPO" else kind.lower(), data
        try:
            with quiet():
                image.load()
                turned = image.getexif().get(ORIENTATION) is not None  # upright again, it is a picture of no format
                kind = "PNG" if turned else kind
                (ImageOps.exif_transpose(image) if turned else image).save(out, format=kind)
                return kind.lower(), out.getvalue()
        except Exception as error:  # Pillow's readers and writers raise whatever a damaged file leads them to.
            raise TinyError(f"{path} cannot be encoded again: {reason(error)}.",
                            "Use --images original, or save the picture as PNG.") from None


def mean_colour(path: str | Path) -> Image.Image:
    """The picture for the blind baseline: as large, everywhere its mean colour."""
    image = open_image(path)
    colour = np.round(np.asarray(image, np.uint8).mean(axis=(0, 1), dtype=np.float64)).astype(int)
    return Image.new("RGB", image.size, tuple(colour.tolist()))


def data_url(path: str | Path, mode: str) -> str:
    """A picture for a server."""
    kind, data = encoded(path, mode)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def with_pictures(messages: list[dict], show: Callable[[str], dict]) -> list[dict]:
    """Messages in which each chunk of an image is replaced by what `show` makes of its name."""
    return [message | {"content": message["content"] if isinstance(message["content"], str) else
                       [show(chunk["image"]) if chunk["type"] == "image" else chunk for chunk in message["content"]]}
            for message in messages]


def turns_for(model: Any, request: Request, folder: Path, images: str) -> list[dict]:
    """The messages of a request for a model in this process. Raises TinyError if their pictures leave no room."""
    def show(name: str) -> dict[str, Any]:
        path = folder / name
        return {"type": "image", "image": str(path) if images == "original" else mean_colour(path) if images == "blind"
                else Image.open(io.BytesIO(encoded(path, images)[1]))}

    turns = with_pictures(request.messages, show)
    check_room(model, turns)
    return turns


def local(model: Any, folder: Path, images: str) -> Client:
    """A model in this process. It answers one request after another, however many jobs ask."""
    lock = threading.Lock()

    def answer(request: Request) -> Reply:
        with lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the context is full is said by the reason of the end
            try:
                ids, pixels = model.tokenizer.encode_chat(turns_for(model, request, folder, images))
                room = check_prompt(model, ids, request.max_tokens)
            except TinyError as error:
                raise Failed(error.cause) from None
            tokens = list(tiny.generate(model, ids, pixels, request.max_tokens, request.temperature))
        return Reply("".join(token.text for token in tokens), "length" if len(tokens) == room else "stop")

    return answer


def check_answer(line: Mapping[str, Any]) -> None:
    """Raise Wrong unless a line is an answer: a text, log-likelihoods of endings, or an error."""
    shapes = {"error": str, "logprobs": [(float, int)], "text": str}
    said = next((key for key in shapes if key in line), "text")
    check(line, dict.fromkeys(("prompt", "model"), (str, NoneType)) | {"id": str, said: shapes[said], ...: object})


def recorded(known: Known, name: str, prompt: str) -> Client:
    """Recorded answers to one prompt. One without a prompt's name is to any prompt. name: of their file"""
    def answer(request: Request) -> Reply:
        line = known.get((prompt, request.id)) or known.get((None, request.id))
        if line is None or "error" in line:
            raise Failed(line["error"] if line else f"{ABSENT} {name}")
        return Reply(line["text"], *(line.get(key) for key in Reply._fields[1:]))

    return answer


def read_recorded(file: Path, prompts: Sequence[str]) -> Known:
    """The answers of a file, by prompt and id.

    Raises:  TinyError, with file and row, for a file that holds something else, and if it does not say of each answer
             which of several prompts it is to
    """
    def sound(line: dict[str, Any]) -> None:
        if "logprobs" in line:
            raise Wrong("logprobs", "only answers in words can be given again")
        if len(prompts) > 1 and line.get("prompt") is None:
            raise Wrong("prompt", f"it is missing, and the answer would count for {len(prompts)} prompts")

    return read_answers(file, sound)


def read_answers(file: Path, sound: Callable[[dict[str, Any]], None]) -> dict[Any, dict[str, Any]]:
    """The lines of answers by prompt and id. What was answered is answered once; after an error it may be asked again.

    sound: raises Wrong for a line that does not belong there
    """
    known: dict[Any, dict[str, Any]] = {}
    for row, line in read_lines(file):
        with at(file, row):
            check_answer(line)
            sound(line)
            key = line.get("prompt"), line["id"]
            if key in known and "error" not in known[key]:
                raise Wrong("id", f"{line['id']!r} was answered in an earlier row")
            known[key] = line
    return known
