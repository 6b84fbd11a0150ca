"""A server that speaks OpenAI's protocol, asked as the published kit asks: the same fields in the same order.

A new connection for each request, as the kit makes; `tools/http_request.py` has the limits of one. Read `choices.py`
next.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from tqdm import tqdm

from tiny.config import TinyError
from tiny.evals.clients import Client, Failed, Reply, data_url, with_pictures
from tiny.evals.items import Request
from tiny.evals.lines import misfit
from tiny.system.reading import read_file
from tiny.tools.http_request import (
    Answer,
    NoAnswer,
    check_token,
    message_of,
    read_address,
    request,
    shown,
    strict_json,
)
from tiny.tools.terminal import one_line

LARGEST_REPLY = 32 << 20  # bytes
TIMEOUT = 600.0  # seconds for one answer; a model on a CPU is slow
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # states of a server that may pass
EVERY = {401, 403, 404, 405, 407, 501}  # states that every other request would meet, too
MODELS = {"data": [{"id": str, ...: object}], ...: object}
COMPLETION = {"choices": [{"message": {"content": (str, NoneType), ...: object}, ...: object}], ...: object}


class Server:
    """The address of a server: what is in front of /v1, and how to connect.

    token: what goes behind "Bearer"; it is sent, and written nowhere
    """

    def __init__(self, address: str, token: str | None = None, timeout: float = TIMEOUT):
        self.where, self.token = read_address(address), check_token(token)
        self.address, self.timeout, self.others = self.where.text, timeout, set[str]()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the JSON of its answer.

        Raises:  Failed, or TinyError for a state that every other request would meet, too
        """
        try:
            answer = request(self.where, method, path, body, self.token, self.timeout, LARGEST_REPLY)
        except NoAnswer as error:
            raise Failed(error.cause, again=error.again, gone=error.gone) from None
        if answer.status != 200:
            raise self.refusal(answer)
        try:
            return strict_json(answer.data)
        except ValueError:
            raise Failed(f"{self.address} did not send JSON but {shown(answer.data)}", again=True) from None

    def refusal(self, answer: Answer) -> Exception:
        """What a state other than 200 means: a request that failed, or a run that cannot go on."""
        what = f"{self.address} answered {answer.status} {one_line(answer.reason, 80)}: {message_of(answer.data)}"
        if answer.status in EVERY or 300 <= answer.status < 400:
            return TinyError(what, "Check the address, and the token if the server wants one (--token FILE).")
        wait = answer.headers.get("retry-after", "")
        return Failed(what, answer.status in AGAIN, float(wait) if re.fullmatch(r"\d{1,6}", wait) else None)

    def only_model(self) -> str:
        """The name of the model that the server has. Raises TinyError if it does not say, or has several."""
        try:
            listed = self.call("GET", "/v1/models")
        except Failed as failure:
            raise TinyError(f"{failure.cause}.", "Start the server, or check the address.") from None
        names = [] if misfit(listed, MODELS) else [entry["id"] for entry in listed["data"]]
        if len(names) != 1:
            some = ", ".join(one_line(name, 80) for name in names[:10]) or "none"
            raise TinyError(f"{self.address} lists {len(names)} models: {some}.", "Choose one with --name NAME.")
        return names[0]


def server_of(address: str, args: argparse.Namespace) -> tuple[Server, str] | None:
    """A server and the name of its model; None if this is no address. Its token is in a file, so that it is in no list
    of processes.
    """
    if "://" not in address:
        if re.fullmatch(r"[\w.-]+:\d+(/.*)?", address) and not Path(address).exists():
            raise TinyError(f"{one_line(address)} is no folder, and no address either.", f"Write http://{address}.")
        return None
    token = args.token and read_file(args.token, 1 << 16).decode("utf-8", "replace").strip()
    server = Server(address, token, args.timeout)
    return server, args.name or server.only_model()


def url(server: Server, name: str, folder: Path, images: str) -> Client:
    """A model behind a server, asked with the body of mistral-evals.

    Source: mistral-evals d61811fc: temperature, max_tokens, messages, model, in this order; content always a list
    """
    def answer(request: Request) -> Reply:
        try:
            messages = with_pictures(request.messages, lambda name: picture(data_url(folder / name, images)))
        except TinyError as error:
            raise Failed(error.cause) from None
        body = {"temperature": request.temperature, "max_tokens": request.max_tokens, "messages": messages,
                "model": name}
        return reply_of(server, body)

    return answer


def picture(data: str) -> dict[str, Any]:
    """The chunk of a message that holds a picture."""
    return {"type": "image_url", "image_url": {"url": data}}


def reply_of(server: Server, body: dict[str, Any]) -> Reply:
    """The reply of a chat completion. Content that is null is an empty answer. Raises Failed for anything else."""
    said = server.call("POST", "/v1/chat/completions", body)
    bad = misfit(said, COMPLETION)
    if bad or "content" not in said["choices"][0]["message"]:
        raise Failed(f"{server.address} sent no choices[0].message.content that is text, but "
                     f"{bad or 'a message without it'}")
    choice = said["choices"][0]
    reason = choice.get("finish_reason")
    return Reply(choice["message"]["content"] or "", reason if isinstance(reason, str) else None,
                 other_model(server, body, said))


def other_model(server: Server, body: Mapping[str, Any], said: Mapping[str, Any]) -> str | None:
    """The name of the model that answered, if it is not the one that was asked for. Whoever watches is told once."""
    if said.get("model") in (None, body["model"]):
        return None
    found = one_line(said["model"], 100)
    if found not in server.others:
        server.others.add(found)
        tqdm.write(f"note: {body['model']} was asked for, and {found} answers", file=sys.stderr)
    return found
