"""A server that speaks OpenAI's protocol, asked as the published kit asks: the same fields in the same order.

A new connection for each request, as the kit makes; one time limit for all of it, so that a server which sends a byte
now and then cannot hold a run. Nothing else is ever contacted: no proxy, and no address that an answer names. Read
`choices.py` next.
"""

import argparse
import http.client
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from tiny.config import TinyError
from tiny.evals.clients import Client, Failed, Reply, data_url, with_pictures
from tiny.evals.items import Request
from tiny.evals.lines import misfit
from tiny.system.reading import read_file
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
        parts = urlsplit(address)
        try:
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]", address):
            raise TinyError(f"{one_line(address)} is not the address of a server.",
                            "Write it as http://127.0.0.1:8000 or https://HOST/v1.")
        if parts.username or parts.password:
            raise TinyError("The address holds a name or a password, which would be recorded with the run.",
                            "Write the token into a file, and give it with --token FILE.")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise TinyError("The token has characters that no header can hold, or is empty.",
                            "Write nothing but the token into its file.")
        self.secure, self.host, self.port = parts.scheme == "https", str(parts.hostname), parts.port
        self.path = re.sub(r"(/v1)?(/chat/completions)?/*$", "", parts.path)
        self.address = f"{parts.scheme}://{parts.netloc}{self.path}"
        self.token, self.timeout, self.others = token, timeout, set[str]()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the JSON of its answer.

        Raises:  Failed, or TinyError for a state that every other request would meet, too
        """
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body is not None else {})
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        link, started, there = kind(self.host, self.port, timeout=min(30, self.timeout)), time.monotonic(), False
        clock = threading.Timer(self.timeout, cut, [link])  # cuts the connection, whatever the server does
        clock.daemon = True
        clock.start()
        try:
            link.connect()
            there = True
            if link.sock is not None:
                link.sock.settimeout(self.timeout)
            link.request(method, self.path + path, None if body is None else json.dumps(body), headers)
            response = link.getresponse()
            data = response.read(LARGEST_REPLY + 1)
            if response.length and len(data) <= LARGEST_REPLY:  # read(n) does not say that the end is missing
                raise http.client.IncompleteRead(data, response.length)
        except (OSError, http.client.HTTPException) as error:
            what = "broke the connection" if there else "cannot be reached"
            said = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)
            late = there and time.monotonic() - started >= self.timeout
            raise Failed(f"{self.address} " + (f"did not answer within {self.timeout:g} s" if late else
                                               f"{what}: {said}"), again=True, gone=not there) from None
        finally:
            clock.cancel()
            link.close()
        if response.status != 200:
            raise self.refusal(response, data)
        if len(data) > LARGEST_REPLY:
            raise Failed(f"{self.address} sent more than {LARGEST_REPLY:,} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Failed(f"{self.address} did not send JSON but {shown(data)}", again=True) from None

    def refusal(self, response: http.client.HTTPResponse, data: bytes) -> Exception:
        """What a state other than 200 means: a request that failed, or a run that cannot go on."""
        what = f"{self.address} answered {response.status} {one_line(response.reason, 80)}: {message_of(data)}"
        if response.status in EVERY or 300 <= response.status < 400:
            return TinyError(what, "Check the address, and the token if the server wants one (--token FILE).")
        wait = response.getheader("Retry-After", "")
        return Failed(what, response.status in AGAIN, float(wait) if re.fullmatch(r"\d{1,6}", wait) else None)

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


def cut(link: http.client.HTTPConnection) -> None:
    """End a connection from another thread: whoever reads from it gets an error."""
    with suppress(OSError):
        if link.sock is not None:
            link.sock.shutdown(socket.SHUT_RDWR)


def shown(data: bytes) -> str:
    """The beginning of an answer in a message."""
    return repr(one_line(data[:200].decode("utf-8", "replace"), 120)) if data.strip() else "nothing"


def message_of(data: bytes) -> str:
    """What the body of a refusal says: the message of any of the usual forms, or how it begins."""
    try:
        found = json.loads(data)
        for key in ("error", "message", "detail"):
            found = found.get(key, found) if isinstance(found, dict) else found
        return one_line(found, 300).rstrip(".")
    except (ValueError, RecursionError):
        return shown(data)


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
